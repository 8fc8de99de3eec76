"""What a stream table's storage looks like: its columns and its key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from harness.trickle.sources import raw_expression

ROW_ID = "__pgt_row_id"
COUNT = "__pgt_count"
ORDINAL = "__pgt_ordinal"
# Every name that begins so is this project's, in storage and in the statements of a refresh.
RESERVED_PREFIX = "__pgt_"


@dataclass(frozen=True)
class StorageColumn:
    """A column of a stream table.

    Attributes:
        name: of the column.
        type_text: as SQL writes it.
        is_not_null: whether it is declared so.
    """

    name: str
    type_text: str
    is_not_null: bool = False

    @property
    def is_hidden(self) -> bool:
        """Whether the query does not have it."""
        return self.name.startswith(RESERVED_PREFIX)


@dataclass(frozen=True)
class Shape:
    """A stream table's storage.

    Attributes:
        columns: in order.
        key: what is unique; a distributed table's distribution column is put before it.
    """

    columns: tuple[StorageColumn, ...]
    key: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    def create_query(self, table: sql.Composable, *, distribution_column: str | None) -> sql.Composed:
        """CREATE TABLE, the unique key in it."""
        items: list[sql.Composable] = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(column.name),
                raw_expression(column.type_text),
                sql.SQL(" NOT NULL") if column.is_not_null else sql.SQL(""),
            )
            for column in self.columns
        ]
        # Without a primary key, a distributed or reference table stops the moves of its shards (F16). What Citus
        # distributes by is never NULL.
        items.append(sql.SQL("PRIMARY KEY ({})").format(listed(self.unique_columns(distribution_column))))
        # Whatever the default is: nothing else is updated row by row.
        return sql.SQL("CREATE TABLE {} ({}) USING heap").format(table, sql.SQL(", ").join(items))

    def unique_columns(self, distribution_column: str | None) -> tuple[str, ...]:
        """The key, with the distribution column in it, which Citus wants there."""
        if distribution_column is None or distribution_column in self.key:
            return self.key
        return (distribution_column, *self.key)


def listed(columns: Sequence[str]) -> sql.Composed:
    """Columns by name, with commas."""
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)


def of(alias: str, column: str) -> sql.Composed:
    """A column of a table under an alias."""
    return sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(column))


def same(left: sql.Composable, right: sql.Composable, *, is_not_null: bool = False) -> sql.Composed:
    """Whether two values are the same, NULL being the same as NULL."""
    if is_not_null:
        return sql.SQL("{} = {}").format(left, right)
    return sql.SQL("{} IS NOT DISTINCT FROM {}").format(left, right)
