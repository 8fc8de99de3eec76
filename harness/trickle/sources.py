"""The tables that a stream table reads: what they are, where they live, how their buffers call their columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

# Placements in Citus' own words are in pgtrickle.placement_of (migrations/sql/0003_up.sql).
LOCAL, REFERENCE, DISTRIBUTED = "local", "reference", "distributed"

_CITUS_QUERY = "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
_RELATIONS_QUERY = """
    SELECT c.oid, n.nspname, c.relname, c.relkind, pgtrickle.stable_name(c.oid), pgtrickle.placement_of(c.oid),
           c.relrowsecurity,
           EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AND c.relkind = 'r',
           pgtrickle._shard_key(c.oid),
           coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index x
                     JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey)
                     WHERE x.indrelid = c.oid AND x.indisprimary), '{}'),
           EXISTS (SELECT FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_relid = c.oid),
           (SELECT m.amname FROM pg_am m WHERE m.oid = c.relam AND c.relkind = 'r')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%s::oid[]) ORDER BY c.oid"""
_COLUMNS_QUERY = """
    SELECT a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod, a.attnotnull,
           a.attgenerated <> '',
           pg_get_expr(d.adbin, d.adrelid), ('new_' || a.attname)::name::text, ('old_' || a.attname)::name::text
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
    WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"""


@dataclass(frozen=True)
class SourceColumn:
    """A column of a source.

    Attributes:
        name: of the column.
        type_text: as SQL writes it.
        type_oid, typmod: its type.
        is_not_null: whether NULL cannot be in it.
        generated: the expression that computes it, as PostgreSQL deparses it; None for an ordinary column. The buffer
            has no such column.
        new_name, old_name: what the buffer calls its images.
    """

    name: str
    type_text: str
    type_oid: int
    typmod: int
    is_not_null: bool
    generated: str | None
    new_name: str
    old_name: str


@dataclass(frozen=True)
class Source:
    """A relation that a query reads.

    Attributes:
        relid: its OID on the coordinator.
        schema, name: where it is.
        kind: ``relkind``: r, p, v, m, f.
        stable_name: equal on every node (D1).
        placement: local, reference or distributed.
        distribution_column: what a distributed source is distributed by; None for a single shard.
        shard: of a reference source, the coordinator's own replica (F10); None elsewhere.
        has_row_security: whether policies decide who sees which row.
        has_children: whether other tables inherit from it without being partitions.
        key: the columns of its primary key.
        is_stream_table: whether it is one itself.
        columns: all of them.
        access_method: what keeps its rows; None where it has none of its own.
    """

    relid: int
    schema: str
    name: str
    kind: str
    stable_name: str
    placement: str
    distribution_column: str | None
    shard: str | None
    has_row_security: bool
    has_children: bool
    key: tuple[str, ...]
    is_stream_table: bool
    columns: tuple[SourceColumn, ...]
    access_method: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether its changes can be captured."""
        return self.kind in {"r", "p"}

    @property
    def qualified(self) -> str:
        """Its name for people."""
        return f"{self.schema}.{self.name}"

    @property
    def table(self) -> sql.Identifier:
        """What a query reads: the table, or the coordinator's own replica of a reference table, which is captured."""
        return sql.Identifier(self.schema, self.shard or self.name)

    @property
    def buffer(self) -> sql.Identifier:
        """Its change buffer."""
        return sql.Identifier("pgtrickle_changes", f"changes_{self.stable_name}")

    @property
    def is_distributed(self) -> bool:
        """Whether its changes are on the workers."""
        return self.placement == DISTRIBUTED

    def column(self, name: str) -> SourceColumn:
        """The column of that name.

        Raises:
            KeyError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def has_citus(connection: psycopg.Connection[Any]) -> bool:
    """Whether this database has Citus."""
    found = connection.execute(_CITUS_QUERY).fetchone()
    return bool(found and found[0])


def fetch_sources(connection: psycopg.Connection[Any], relids: Iterable[int]) -> tuple[Source, ...]:
    """Read what the catalog says of some relations.

    Args:
        connection: to the coordinator, at revision 0007.
        relids: OIDs there.

    Returns:
        One a relation, ordered by OID; one that is gone is missing.
    """
    wanted = list(relids)
    with connection.cursor() as cursor:
        # PostgreSQL qualifies what pg_get_expr writes unless the search path finds it.
        columns: dict[int, list[SourceColumn]] = {}
        for relid, *column in cursor.execute(_COLUMNS_QUERY, [wanted]).fetchall():
            name, type_text, type_oid, typmod, is_not_null, is_generated, expression, new_name, old_name = column
            columns.setdefault(relid, []).append(
                SourceColumn(
                    name,
                    type_text,
                    type_oid,
                    typmod,
                    is_not_null,
                    expression if is_generated else None,
                    new_name,
                    old_name,
                )
            )
        found = cursor.execute(_RELATIONS_QUERY, [wanted]).fetchall()
        shards = _fetch_replicas(cursor, [row[0] for row in found if row[5] == REFERENCE])
    return tuple(
        Source(
            relid=row[0],
            schema=row[1],
            name=row[2],
            kind=row[3],
            stable_name=row[4],
            placement=row[5],
            distribution_column=row[8],
            shard=shards.get(row[0]),
            has_row_security=row[6],
            has_children=row[7],
            key=tuple(row[9]),
            is_stream_table=row[10],
            columns=tuple(columns.get(row[0], ())),
            access_method=row[11],
        )
        for row in found
    )


def _fetch_replicas(cursor: psycopg.Cursor[Any], relids: list[int]) -> dict[int, str]:
    if not relids:
        return {}
    found = cursor.execute(
        "SELECT s.logicalrelid::oid, c.relname || '_' || s.shardid FROM pg_catalog.pg_dist_shard s"
        " JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid WHERE s.logicalrelid = ANY (%s::oid[])",
        [relids],
    ).fetchall()
    return {int(relid): str(name) for relid, name in found}


def raw_expression(text: str) -> sql.SQL:
    """An expression that PostgreSQL deparsed from its own catalog, as a part of a statement."""
    return sql.SQL(text)
