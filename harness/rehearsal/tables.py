"""Tables as a rehearsal sees them: names, columns, keys, and where their captured changes are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from harness.errors import BadInputError
from harness.trickle.names import stable_name

Connection = psycopg.Connection[TupleRow]

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$]*\Z")


@dataclass(frozen=True)
class TableName:
    """A table by schema and name, both as the catalog holds them, never quoted."""

    schema: str
    name: str

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name for a query."""
        return sql.Identifier(self.schema, self.name)

    @property
    def label(self) -> str:
        """The qualified name for people, quoted where it is not plain lower case."""
        return ".".join(
            part if _PLAIN_NAME.match(part) else '"' + part.replace('"', '""') + '"'
            for part in (self.schema, self.name)
        )

    @property
    def stable_name(self) -> str:
        """xxh64 of ``schema.table`` as 16 hex digits (D1)."""
        return stable_name(self.schema, self.name)


@dataclass(frozen=True)
class Column:
    """One column of a source that is not dropped.

    Attributes:
        name: as the catalog holds it.
        type_name: with its modifiers, such as ``numeric(10,2)``.
        base_type: without modifiers, and what lies under it where the type is a domain.
        new_name, old_name: its columns in the change buffer, cut to 63 bytes by the server itself.
        is_generated: computed by the server, so neither captured nor written.
        identity: ``a`` (always), ``d`` (by default) or empty.
        is_not_null: a null is refused.
        draws_value: its default draws from a sequence.
    """

    name: str
    type_name: str
    base_type: str
    new_name: str
    old_name: str
    is_generated: bool
    identity: str
    is_not_null: bool
    draws_value: bool


@dataclass(frozen=True)
class SourceTable:
    """A table that stream tables read.

    Attributes:
        relid: its OID, which no migration changes.
        table: its name.
        kind: ``r`` for an ordinary table, ``p`` for a partitioned one.
        columns: in their order, dropped ones left out.
        key: the primary key's columns in key order; empty without one.
    """

    relid: int
    table: TableName
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def label(self) -> str:
        """The qualified name for people."""
        return self.table.label

    @property
    def captured(self) -> tuple[Column, ...]:
        """The columns that a capture trigger writes down: all but the generated ones."""
        return tuple(column for column in self.columns if not column.is_generated)

    @property
    def rows_from(self) -> sql.Composed:
        """What stands after FROM to see the rows that its trigger sees: an inheriting table's are not its own."""
        only = sql.SQL("") if self.kind == "p" else sql.SQL("ONLY ")
        return only + self.table.identifier


_COLUMNS_QUERY = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, a.attname::text,
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       pg_catalog.format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL),
       ('new_' || a.attname::text)::name::text, ('old_' || a.attname::text)::name::text,
       a.attgenerated <> '', a.attidentity::text, a.attnotnull,
       coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%%', false),
       pg_catalog.array_position(k.conkey, a.attnum)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  LEFT JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
 WHERE c.oid = ANY (%s::oid[])
 ORDER BY c.oid, a.attnum
"""


def fetch_tables(conn: Connection, relids: Sequence[int]) -> tuple[SourceTable, ...]:
    """Read names, columns and keys of these tables from the catalog.

    Args:
        conn: where they are.
        relids: their OIDs; one that no longer exists is left out.

    Returns:
        In the order of their OIDs.
    """
    found: dict[int, list[TupleRow]] = {}
    for row in conn.execute(_COLUMNS_QUERY, [list(relids)]):
        found.setdefault(row[0], []).append(row)
    tables = []
    for relid, rows in found.items():
        columns = tuple(Column(*row[4:13]) for row in rows if row[4] is not None)
        key = [(row[13], row[4]) for row in rows if row[13] is not None]
        name = TableName(rows[0][1], rows[0][2])
        tables.append(SourceTable(relid, name, rows[0][3], columns, tuple(column for _, column in sorted(key))))
    return tuple(tables)


def fetch_table(conn: Connection, table: TableName) -> SourceTable:
    """Read one table by its name.

    Raises:
        BadInputError: there is no such table.
    """
    row = conn.execute(
        "SELECT c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        [table.schema, table.name],
    ).fetchone()
    if row is None:
        raise BadInputError(f"there is no table {table.label}", hint="check schema and name; both are case-sensitive")
    return fetch_tables(conn, [row[0]])[0]


def fetch_sources(conn: Connection) -> tuple[SourceTable, ...]:
    """The captured sources of an installation, at any revision, by their label."""
    rows = conn.execute("SELECT source_relid::bigint FROM pgtrickle.pgt_change_tracking").fetchall()
    return tuple(sorted(fetch_tables(conn, [row[0] for row in rows]), key=lambda source: source.label))


def fetch_buffers(conn: Connection, sources: Sequence[SourceTable]) -> Mapping[int, tuple[TableName, ...]]:
    """The change buffers of these sources, named by OID (before 0002) or by stable name (D1).

    Returns:
        By the source's OID; exactly one buffer each, unless something is wrong.
    """
    rows = conn.execute(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'pgtrickle_changes' AND c.relkind IN ('r', 'p')"
    ).fetchall()
    present = {row[0] for row in rows}
    buffers = {}
    for source in sources:
        names = (f"changes_{source.relid}", f"changes_{source.table.stable_name}")
        buffers[source.relid] = tuple(TableName("pgtrickle_changes", name) for name in names if name in present)
    return buffers
