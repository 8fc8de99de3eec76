"""Tables that benchmarks write to: the same rows for all that is compared, and sums that tell rows apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.numeric import Int4, Int8

Connection = psycopg.Connection[Any]
# Small enough for two workers on two cores, and every worker has several.
SHARDS = 8
KEY = "id"

_BEGUN_AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Column:
    """A column and how its values are made.

    Attributes:
        name, type: as SQL has them.
        value: an expression of the row's number ``i``.
        make: the same value, for a parameter.
    """

    name: str
    type: LiteralString
    value: LiteralString
    make: Callable[[int], object]


# What follows the key, again and again.
_CYCLE = (
    Column("n", "integer", "(i % 1000)::integer", lambda i: Int4(i % 1000)),
    Column("note", "text", "'note ' || i", lambda i: f"note {i}"),
    Column("amount", "bigint", "i * 7", lambda i: Int8(i * 7)),
    Column(
        "at",
        "timestamptz",
        "timestamptz '2026-01-01 00:00:00+00' + make_interval(secs => i)",
        lambda i: _BEGUN_AT + timedelta(seconds=i),
    ),
)


def make_columns(count: int) -> tuple[Column, ...]:
    """The key and as many others as make ``count``; the first others are n, note, amount and at.

    Raises:
        ValueError: fewer than two.
    """
    if count < 2:
        raise ValueError(f"{count} columns: a key and one to update are needed")
    others = [
        replace(column, name=column.name if number < len(_CYCLE) else f"{column.name}_{number}")
        for number in range(count - 1)
        for column in [_CYCLE[number % len(_CYCLE)]]
    ]
    return (Column(KEY, "bigint", "i", Int8), *others)


@dataclass(frozen=True)
class Table:
    """A table of a benchmark.

    Attributes:
        name: its name.
        columns: the key first.
        is_distributed: whether it has shards, by its key.
        schema: where it is.
    """

    name: str
    columns: tuple[Column, ...]
    is_distributed: bool
    schema: str = "public"

    @property
    def quoted(self) -> sql.Identifier:
        """For statements."""
        return sql.Identifier(self.schema, self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its columns."""
        return tuple(column.name for column in self.columns)

    def insert_query(self, count: int, first: int = 1) -> sql.Composed:
        """INSERT .. SELECT of ``count`` rows that begin with number ``first``."""
        return sql.SQL("INSERT INTO {} ({}) {}").format(self.quoted, self._list(), self.rows_query(count, first))

    def insert_row_query(self) -> sql.Composed:
        """INSERT of one row, whose values are parameters: those of `make_row`."""
        places = sql.SQL(", ").join(sql.SQL("%s") for _ in self.columns)
        return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(self.quoted, self._list(), places)

    def make_row(self, number: int) -> list[object]:
        """The values of one row."""
        return [column.make(number) for column in self.columns]

    def upsert_query(self, count: int, first: int = 1) -> sql.Composed:
        """INSERT .. ON CONFLICT DO UPDATE of ``count`` rows that begin with number ``first``."""
        return sql.SQL("{} ON CONFLICT ({}) DO UPDATE SET n = excluded.n + 1").format(
            self.insert_query(count, first), sql.Identifier(KEY)
        )

    def update_query(self, count: int, first: int = 1) -> sql.Composed:
        """UPDATE of the rows with these numbers."""
        return sql.SQL("UPDATE {} SET n = n + 1 WHERE {} BETWEEN {} AND {}").format(
            self.quoted, sql.Identifier(KEY), first, first + count - 1
        )

    def update_half_query(self, count: int, first: int = 1) -> sql.Composed:
        """UPDATE of the rows with these numbers, of which every other one changes."""
        return sql.SQL("UPDATE {table} SET n = n + ({key} % 2)::integer WHERE {key} BETWEEN {first} AND {last}").format(
            table=self.quoted, key=sql.Identifier(KEY), first=first, last=first + count - 1
        )

    def delete_query(self, count: int, first: int = 1) -> sql.Composed:
        """DELETE of the rows with these numbers."""
        return sql.SQL("DELETE FROM {} WHERE {} BETWEEN {} AND {}").format(
            self.quoted, sql.Identifier(KEY), first, first + count - 1
        )

    def rows_query(self, count: int, first: int = 1) -> sql.Composed:
        """The rows with these numbers."""
        return sql.SQL("SELECT {} FROM generate_series({}::bigint, {}::bigint) AS numbers (i)").format(
            self._values(), first, first + count - 1
        )

    def copy_query(self) -> sql.Composed:
        """COPY .. FROM STDIN of all columns, as text."""
        return sql.SQL("COPY {} ({}) FROM STDIN").format(self.quoted, self._list())

    def _list(self) -> sql.Composed:
        return sql.SQL(", ").join(map(sql.Identifier, self.names))

    def _values(self) -> sql.Composed:
        return sql.SQL(", ").join(sql.SQL(column.value) for column in self.columns)


def make_table(connection: Connection, name: str, *, columns: int = 5, shards: int | None = None) -> Table:
    """Make a table with a primary key.

    Args:
        connection: to the coordinator or the one server, autocommit.
        name: of the table.
        columns: how many, the key included.
        shards: how many shards; None: an ordinary table.

    Returns:
        The table, empty.
    """
    table = Table(name, make_columns(columns), is_distributed=shards is not None)
    definitions = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type)) for column in table.columns
    )
    connection.execute(
        sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(table.quoted, definitions, sql.Identifier(KEY))
    )
    if shards is not None:
        # Colocated with no other group's: what one does to its shards concerns no other.
        connection.execute(
            "SELECT create_distributed_table(%s, %s, shard_count => %s, colocate_with => 'none')",
            [table.quoted.as_string(connection), KEY, shards],
        )
    return table


def fetch_copy_data(connection: Connection, table: Table, count: int, first: int = 1) -> bytes:
    """The rows with these numbers as `Table.copy_query` reads them."""
    query = sql.SQL("COPY ({}) TO STDOUT").format(table.rows_query(count, first))
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return b"".join(bytes(block) for block in copy)


def copy_in(connection: Connection, table: Table, data: bytes) -> None:
    """Write what `fetch_copy_data` gave."""
    with connection.cursor() as cursor, cursor.copy(table.copy_query()) as copy:
        copy.write(data)


@dataclass(frozen=True)
class RowSum:
    """A multiset of rows, as a count and a sum of hashes: two that differ have different sums, but for 1 in 2^64.

    Attributes:
        count: how many rows; with weights, how many came more than went.
        hashes: the sum of the rows' hashes, each times its weight.
    """

    count: int = 0
    hashes: int = 0

    def __sub__(self, other: RowSum) -> RowSum:
        """What came between the two."""
        return RowSum(self.count - other.count, self.hashes - other.hashes)


def row_hash(names: Sequence[str], prefix: str = "") -> sql.Composed:
    """An expression: the hash of a row with columns of these names, each after ``prefix``.

    By the values' text, since an anonymous record of 100 columns has no hash of its own on every version.
    """
    listed = sql.SQL(", ").join(sql.Identifier(f"{prefix}{name}") for name in names)
    return sql.SQL("pg_catalog.hashtextextended(ROW({})::text, 0)::numeric").format(listed)


def fetch_row_sum(connection: Connection, table: Table) -> RowSum:
    """What a table holds."""
    query = sql.SQL("SELECT count(*), coalesce(sum({}), 0) FROM {}").format(row_hash(table.names), table.quoted)
    row = connection.execute(query).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return RowSum(int(row[0]), int(row[1]))
