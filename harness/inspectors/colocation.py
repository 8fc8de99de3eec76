"""`citus_colocation_inspector`: the colocation groups, what is in them, and whether their shards lie together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Found, Inspector, Reason, Source, Unavailable
from harness.inspectors.inputs import Listing, flag, integer
from harness.inspectors.placements import SIZE_SOURCES, Sizes, Total, fetch_sizes
from harness.inspectors.session import Session
from harness.inspectors.shard_map import Ranked, rank, split_groups
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    CitusTable,
    fetch_placements,
    fetch_tables,
    node_name,
    of_table,
    primaries,
)

# format_type knows a type's name whatever the search path: pg_catalog alone is in it, so others have their schema.
_GROUPS: LiteralString = """
    SELECT c.colocationid, c.shardcount, c.replicationfactor,
           CASE WHEN c.distributioncolumntype <> 0 THEN pg_catalog.format_type(c.distributioncolumntype, NULL) END,
           (SELECT l.collname FROM pg_catalog.pg_collation l WHERE l.oid = c.distributioncolumncollation),
           (SELECT n.nspname FROM pg_catalog.pg_dist_schema d
              JOIN pg_catalog.pg_namespace n ON n.oid = d.schemaid
             WHERE d.colocationid = c.colocationid ORDER BY n.nspname LIMIT 1)
      FROM pg_catalog.pg_dist_colocation c
"""


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which groups, and whether the nodes are asked for sizes."""

    colocation_id: int | None = integer(None, 1, 2**31 - 1, "only this group")
    include_sizes: bool = flag(False, "ask every node for sizes: one connection to each")


@dataclass(frozen=True)
class TableName:
    """A table, as the catalog spells it."""

    schema: str
    table: str


@dataclass(frozen=True)
class ShardGroup:
    """Shards that lie together.

    Attributes:
        shard_group: the rank of its range of hashes, from 1.
        node: where it lies.
        share_pct: of the bytes of all groups of this colocation.
    """

    shard_group: int
    min_hash: str | None
    max_hash: str | None
    node: str | None
    size_bytes: int
    share_pct: float


@dataclass(frozen=True)
class Row:
    """One colocation group.

    Attributes:
        kind: ``hash``, ``reference``, ``single`` (one shard, no column), ``schema`` (a sharded schema) or ``empty`` (no
            table is in it).
        replication_factor: -1 for reference tables: one copy on each node.
        distribution_type: as SQL has it; None without a distribution column.
        tenant_schema: of a sharded schema, its name.
        tables: by schema and name.
        size_bytes: of all copies of all shards; None if not asked for, or nothing is known.
        size_source: ``exact``, ``estimate`` (something was locked), ``partial`` (a node is silent) or ``none``.
        placement_consistent: whether shards of the same range lie on the same nodes in all tables; None: no tables.
        next_to_split: of a hash group, the largest shard group; None without sizes, or where all are empty.
    """

    colocation_id: int
    kind: str
    shard_count: int
    replication_factor: int
    distribution_type: str | None
    collation: str | None
    tenant_schema: str | None
    tables: tuple[TableName, ...]
    size_bytes: int | None
    size_source: str
    placement_consistent: bool | None
    next_to_split: ShardGroup | None


def _kind(tenant_schema: str | None, replication_factor: int, column_type: str | None, has_tables: bool) -> str:
    if tenant_schema is not None:
        return "schema"
    if not has_tables:
        return "empty"
    if replication_factor == -1:
        return "reference"
    return "hash" if column_type is not None else "single"


def _largest(ranked: Sequence[Ranked], sizes: Sizes, names: dict[int | None, str | None]) -> ShardGroup | None:
    by_rank: dict[int, list[Ranked]] = defaultdict(list)
    for each in ranked:
        by_rank[each[0]].append(each)
    totals = {
        at: sizes.total((p.shardid, p.groupid) for _, p in found).size_bytes or 0 for at, found in by_rank.items()
    }
    whole = sum(totals.values())
    if not whole:
        return None
    at = min(totals, key=lambda key: (-totals[key], key))
    first = by_rank[at][0][1]
    where = sorted({name for _, each in by_rank[at] if (name := names.get(each.groupid)) is not None})
    return ShardGroup(
        shard_group=at,
        min_hash=first.min_value,
        max_hash=first.max_value,
        node=", ".join(where) or None,
        size_bytes=totals[at],
        share_pct=round(100 * totals[at] / whole, 2),
    )


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    groups = session.rows(sql.SQL(_GROUPS))
    if inputs.colocation_id is not None:
        groups = [group for group in groups if group[0] == inputs.colocation_id]
        if not groups:
            raise Unavailable(Reason.NOT_FOUND, f"there is no colocation group {inputs.colocation_id}")
    wanted = {group[0] for group in groups}
    tables = {relid: each for relid, each in fetch_tables(session).items() if each.colocation_id in wanted}
    placements = of_table(fetch_placements(session, list(tables)))
    ids = {each.shardid for found in placements.values() for each in found}
    sizes = fetch_sizes(session, ids) if inputs.include_sizes else None
    nodes = primaries(session)
    names: dict[int | None, str | None] = {groupid: node_name(nodes, groupid) for groupid in nodes}
    ranked = {tables[relid]: rank(found) for relid, found in placements.items()}
    split = {colocation_id for colocation_id, _ in split_groups(ranked)}
    members: dict[int, list[CitusTable]] = defaultdict(list)
    for table in tables.values():
        members[table.colocation_id].append(table)
    rows = []
    for colocation_id, shard_count, replication_factor, column_type, collation, tenant_schema in groups:
        own = sorted(members[colocation_id], key=lambda each: each.key)
        kind = _kind(tenant_schema, replication_factor, column_type, bool(own))
        copies = [each for table in own for each in ranked.get(table, ())]
        total = sizes.total((each.shardid, each.groupid) for _, each in copies) if sizes else Total(None, "none")
        rows.append(
            Row(
                colocation_id=colocation_id,
                kind=kind,
                shard_count=shard_count,
                replication_factor=replication_factor,
                distribution_type=column_type,
                collation=collation,
                tenant_schema=tenant_schema,
                tables=tuple(TableName(*each.key) for each in own),
                size_bytes=total.size_bytes,
                size_source=total.source,
                placement_consistent=colocation_id not in split if own else None,
                next_to_split=_largest(copies, sizes, names) if sizes and kind == "hash" else None,
            )
        )
    return Found(rows, sizes.reason if sizes else None, sizes.message if sizes else "")


INSPECTOR = Inspector(
    name="citus_colocation_inspector",
    summary="Colocation groups: kind, tables, whether shards of one range lie together, size and largest shard group",
    cost=Cost.SIZES,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("colocation_id",),
    volatile=frozenset(),
    sources=(
        Source(
            "pg_dist_colocation",
            (
                ("colocationid", "integer"),
                ("shardcount", "integer"),
                ("replicationfactor", "integer"),
                ("distributioncolumntype", "oid"),
                ("distributioncolumncollation", "oid"),
            ),
        ),
        Source("pg_collation", (("oid", "oid"), ("collname", "name"))),
        *TABLE_SOURCES,
        *SHARD_SOURCES,
        *SIZE_SOURCES,
    ),
    look=_look,
)
