"""The tables and shards that Citus knows, read once for all inspectors that need them; coordinator catalogs only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.inspectors.contract import Reason, Source, Unavailable
from harness.inspectors.fan_out import ClusterNode
from harness.inspectors.inputs import Listing, identifier
from harness.inspectors.session import Session

KINDS = ("distributed", "reference", "local", "single_shard", "schema")
# pg_dist_partition has what citus_tables leaves out (append, range), and no rights can hide its rows; who has a schema
# or a colocation group of its own is told by pg_dist_schema and repmodel (inspectors.md, citus_cluster_summary).
_TABLES_QUERY: LiteralString = """
    SELECT p.logicalrelid::oid::bigint, n.nspname, c.relname,
           CASE WHEN d.schemaid IS NOT NULL THEN 'schema'
                WHEN p.partkey IS NOT NULL THEN 'distributed'
                WHEN p.repmodel = 't' THEN 'reference'
                WHEN p.colocationid = 0 THEN 'local'
                ELSE 'single_shard' END,
           p.partmethod::text, p.repmodel::text, p.colocationid,
           CASE WHEN p.partkey IS NOT NULL THEN pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) END,
           pg_catalog.pg_get_userbyid(c.relowner), m.amname, c.relkind::text, c.relreplident::text, c.relispartition,
           (SELECT i.inhparent::bigint FROM pg_catalog.pg_inherits i
             WHERE i.inhrelid = c.oid AND c.relispartition ORDER BY i.inhseqno LIMIT 1)
      FROM pg_catalog.pg_dist_partition p
      JOIN pg_catalog.pg_class c ON c.oid = p.logicalrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
      LEFT JOIN pg_catalog.pg_dist_schema d ON d.colocationid = p.colocationid AND d.schemaid = c.relnamespace
"""
# Joined to nodes by group in Python: a secondary has its primary's group and would double the rows (seen with
# citus_shards).
_SHARDS_QUERY: LiteralString = """
    SELECT s.logicalrelid::oid::bigint, s.shardid, s.shardminvalue, s.shardmaxvalue, s.shardstorage::text,
           p.placementid, p.groupid, p.shardstate
      FROM pg_catalog.pg_dist_shard s
      LEFT JOIN pg_catalog.pg_dist_placement p ON p.shardid = s.shardid
"""
_OF_TABLES: LiteralString = "WHERE s.logicalrelid = ANY (%s::oid[])"

TABLE_SOURCES = (
    Source(
        "pg_dist_partition",
        (
            ("logicalrelid", "regclass"),
            ("partmethod", '"char"'),
            ("partkey", "text"),
            ("colocationid", "integer"),
            ("repmodel", '"char"'),
        ),
        "relation",
    ),
    Source("pg_dist_schema", (("schemaid", "oid"), ("colocationid", "integer")), "relation"),
    Source(
        "pg_class",
        (
            ("oid", "oid"),
            ("relname", "name"),
            ("relnamespace", "oid"),
            ("relowner", "oid"),
            ("relam", "oid"),
            ("relkind", '"char"'),
            ("relreplident", '"char"'),
            ("relispartition", "boolean"),
        ),
        "relation",
    ),
    Source("pg_namespace", (("oid", "oid"), ("nspname", "name")), "relation"),
    Source("pg_am", (("oid", "oid"), ("amname", "name")), "relation"),
    Source("pg_inherits", (("inhrelid", "oid"), ("inhparent", "oid"), ("inhseqno", "integer")), "relation"),
    Source("column_to_column_name", (("returns", "text"),), "function", note="does not wait for AccessExclusiveLock"),
)
SHARD_SOURCES = (
    Source(
        "pg_dist_shard",
        (
            ("logicalrelid", "regclass"),
            ("shardid", "bigint"),
            ("shardstorage", '"char"'),
            ("shardminvalue", "text"),
            ("shardmaxvalue", "text"),
        ),
        "relation",
    ),
    Source(
        "pg_dist_placement",
        (("placementid", "bigint"), ("shardid", "bigint"), ("shardstate", "integer"), ("groupid", "integer")),
        "relation",
        note="shardlength is 0 everywhere and no size",
    ),
)


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def quoted(name: str) -> str:
    """A name in double quotes unless it is lower-case letters, digits and underscores: no two names look the same."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, kw_only=True)
class OfTables(Listing):
    """Which tables: of one schema, of one name, or both; without a word, all that Citus knows."""

    schema: str | None = identifier(None, "only tables of this schema, as the catalog spells it")
    table: str | None = identifier(None, "only tables of this name, as the catalog spells it")


@dataclass(frozen=True)
class CitusTable:
    """A table that Citus knows, as the coordinator has it.

    Attributes:
        relid: its OID on the coordinator; never shown, since it differs between nodes.
        kind: one of `KINDS`.
        method: ``h``, ``r``, ``a`` or ``n``, as ``partmethod``.
        replication: ``s`` streaming, ``t`` two-phase commit (a reference table), ``c`` statements.
        colocation_id: 0 where it has no group.
        relkind: ``p`` for a partitioned parent, which has no rows of its own.
        replica_identity: ``d``, ``n``, ``f`` or ``i``.
        parent: of a partition, the OID of the table that it belongs to.
    """

    relid: int
    schema: str
    name: str
    kind: str
    method: str
    replication: str
    colocation_id: int
    column: str | None
    owner: str
    access_method: str | None
    relkind: str
    replica_identity: str
    is_partition: bool
    parent: int | None

    @property
    def key(self) -> tuple[str, str]:
        """Schema and name."""
        return self.schema, self.name

    @property
    def label(self) -> str:
        """``schema.name`` for people and as a key, quoted where a plain word would not say the same."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


@dataclass(frozen=True)
class CatalogPlacement:
    """One copy of one shard as ``pg_dist_shard`` and ``pg_dist_placement`` have it.

    ``placementid``, ``groupid`` and ``state`` are None for a shard that has no placement at all.
    """

    relid: int
    shardid: int
    min_value: str | None
    max_value: str | None
    storage: str
    placementid: int | None
    groupid: int | None
    state: int | None

    @property
    def rank(self) -> tuple[int, int, int]:
        """What shards of one table are ordered by: the range of hashes where there is one, else the id."""
        try:
            return 0, int(self.min_value or ""), self.shardid
        except ValueError:
            return 1, 0, self.shardid


def fetch_tables(session: Session) -> dict[int, CitusTable]:
    """Every table that Citus knows, by its OID on the coordinator; about 2 ms for 100.

    Args:
        session: on the coordinator.
    """
    return {row[0]: CitusTable(*row) for row in session.rows(sql.SQL(_TABLES_QUERY))}


def choose_tables(tables: Mapping[int, CitusTable], schema: str | None, table: str | None) -> dict[int, CitusTable]:
    """Those of this schema and of this name, exactly as the catalog spells them.

    Raises:
        Unavailable: a schema or a name was given and Citus knows no such table.
    """
    chosen = {
        relid: each
        for relid, each in tables.items()
        if (schema is None or each.schema == schema) and (table is None or each.name == table)
    }
    if not chosen and (schema is not None or table is not None):
        where = f" in schema {schema!r}" if schema is not None else ""
        what = f"table {table!r}" if table is not None else "table"
        raise Unavailable(Reason.NOT_FOUND, f"Citus knows no {what}{where}; names are as the catalog spells them")
    return chosen


def fetch_placements(session: Session, relids: Collection[int] | None = None) -> list[CatalogPlacement]:
    """The placements of these tables, of all without a word; a shard that has none comes once, with None.

    Args:
        session: on the coordinator.
        relids: OIDs on the coordinator.
    """
    if relids is None:
        return [CatalogPlacement(*row) for row in session.rows(sql.SQL(_SHARDS_QUERY))]
    query = sql.SQL(_SHARDS_QUERY) + sql.SQL(_OF_TABLES)
    return [CatalogPlacement(*row) for row in session.rows(query, [list(relids)])]


def of_table(placements: Iterable[CatalogPlacement]) -> dict[int, list[CatalogPlacement]]:
    """The placements by table."""
    found: dict[int, list[CatalogPlacement]] = defaultdict(list)
    for placement in placements:
        found[placement.relid].append(placement)
    return dict(found)


def primaries(session: Session) -> dict[int, ClusterNode]:
    """The node that answers for each group: its primary."""
    return {node.groupid: node for node in session.nodes if node.role == "primary"}


def node_name(nodes: Mapping[int, ClusterNode], groupid: int | None) -> str | None:
    """``host:port`` of a group's primary; None where no node of that group is registered."""
    node = None if groupid is None else nodes.get(groupid)
    return None if node is None else node.name
