"""`table_inspector`: one table as a whole, or each of them: where it lies, its indexes, and where shards lack one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Severity, Source
from harness.inspectors.fan_out import ClusterNode
from harness.inspectors.inputs import flag
from harness.inspectors.placements import (
    LOCKED_RELATIONS,
    SIZE_PAIR,
    SIZE_SOURCES,
    Measure,
    Sizes,
    local_placements,
    read_measure,
    whats_missing,
)
from harness.inspectors.session import Session
from harness.inspectors.table_indexes import (
    INDEX_SOURCES,
    Drift,
    Index,
    TableIndexes,
    fetch_indexes,
    find_drift,
)
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    CatalogPlacement,
    CitusTable,
    OfTables,
    choose_tables,
    fetch_placements,
    fetch_tables,
    of_table,
    primaries,
    quoted,
)

_ASK: LiteralString = """
    WITH {locked}, {placed}
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(f.shardid, {sizes}, f.reltuples,
             pg_catalog.pg_stat_get_live_tuples(f.oid), pg_catalog.pg_stat_get_dead_tuples(f.oid),
             (SELECT pg_catalog.json_object_agg(c.relname, i.indisvalid) FROM pg_catalog.pg_index i
                JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = f.oid)))
      FROM found f WHERE f.oid IS NOT NULL
"""
_IDENTITIES = {"d": "default", "n": "nothing", "f": "full", "i": "index"}
# Of one table; `drift_count` has all.
_MOST_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Inputs(OfTables):
    """Which tables, and how much of each."""

    include_shards: bool = flag(False, "every copy of every shard with its size, the first 100 of a table")
    include_indexes: bool = flag(True, "the indexes that the coordinator has")
    include_stats: bool = flag(True, "live and dead rows")


@dataclass(frozen=True)
class NodeShare:
    """What one node has of the table; ``size_bytes`` None: it did not say."""

    nodeid: int
    node: str
    shards: int
    size_bytes: int | None


@dataclass(frozen=True)
class ShardSize:
    """One copy of a shard; ``size_bytes`` None: its node did not say."""

    shardid: int
    groupid: int
    node: str | None
    size_bytes: int | None
    size_source: str


@dataclass(frozen=True)
class Row:
    """One table.

    Attributes:
        schema, table: as the catalog spells them.
        type, distribution_column, colocation_id, owner, access_method: see `list_distributed_tables`.
        shard_count, placement_count: shards, and copies of them.
        replica_identity: ``default`` (the primary key), ``nothing``, ``full`` or ``index``.
        has_pk: whether there is a primary key.
        has_replica_identity: whether logical replication can tell its rows, as moving a shard without blocking needs.
        distribution_column_indexed: whether a valid index without a WHERE begins with it; None without a column.
        size_bytes: of all copies with indexes and toast; of a partitioned parent 0, its partitions have their own.
        size_source: ``exact``, ``estimate`` (something was locked), ``partial`` or ``none``.
        live, dead: rows of all copies by the nodes' counters; None: not asked for, or nobody said.
        nodes: by node id.
        indexes: by name.
        drift: by index, shard and node, the first 100; ``drift_count`` has how many there are.
        unknown_shards: copies whose node did not answer, or has no such relation (see citus_placement_integrity).
    """

    schema: str
    table: str
    type: str
    distribution_column: str | None
    colocation_id: int | None
    owner: str
    access_method: str | None
    is_partition: bool
    shard_count: int
    placement_count: int
    replica_identity: str
    has_pk: bool
    has_replica_identity: bool
    distribution_column_indexed: bool | None
    size_bytes: int | None
    size_source: str
    live: int | None
    dead: int | None
    nodes: tuple[NodeShare, ...]
    indexes: tuple[Index, ...]
    drift: tuple[Drift, ...]
    drift_count: int
    unknown_shards: int
    shards: tuple[ShardSize, ...]


@dataclass(frozen=True)
class _Copy:
    """What a node says of one copy of a shard."""

    measure: Measure
    live: int
    dead: int
    indexes: Mapping[str, bool]


@dataclass(frozen=True)
class _Seen:
    """What every table is judged by: copies by (shard, group), the primary of each group, what was asked for."""

    copies: Mapping[tuple[int, int], _Copy]
    nodes: Mapping[int, ClusterNode]
    inputs: Inputs


def _nodes_of(
    placements: Sequence[CatalogPlacement], sizes: Sizes, nodes: Mapping[int, ClusterNode]
) -> tuple[NodeShare, ...]:
    by_group: dict[int, list[CatalogPlacement]] = defaultdict(list)
    for each in placements:
        if each.groupid is not None and each.groupid in nodes:
            by_group[each.groupid].append(each)
    shares = [
        NodeShare(
            nodes[groupid].nodeid,
            nodes[groupid].name,
            len(found),
            sizes.total((each.shardid, each.groupid) for each in found).size_bytes,
        )
        for groupid, found in by_group.items()
    ]
    return tuple(sorted(shares, key=lambda each: each.nodeid))


def _shards_of(
    placements: Sequence[CatalogPlacement], sizes: Sizes, nodes: Mapping[int, ClusterNode]
) -> tuple[ShardSize, ...]:
    found = []
    for each in sorted(placements, key=lambda each: (each.shardid, each.groupid or 0))[:_MOST_SHOWN]:
        if each.groupid is not None:
            measure = sizes.of(each.shardid, each.groupid)
            name = nodes[each.groupid].name if each.groupid in nodes else None
            size, source = (measure.size_bytes, measure.source) if measure else (None, "none")
            found.append(ShardSize(each.shardid, each.groupid, name, size, source))
    return tuple(found)


def _row(table: CitusTable, own: TableIndexes, placements: Sequence[CatalogPlacement], view: _Seen) -> Row:
    copies, nodes, inputs = view.copies, view.nodes, view.inputs
    sizes = Sizes({key: copy.measure for key, copy in copies.items()})
    places = [(each.shardid, each.groupid) for each in placements if each.groupid is not None]
    seen = [copies[place] for place in places if place in copies]
    total = sizes.total(places)
    indexes = sorted(own.indexes.values(), key=lambda each: each.name.encode())
    has_pk = any(each.is_primary for each in indexes)
    identity = _IDENTITIES.get(table.replica_identity, table.replica_identity)
    drift = find_drift(own, placements, {key: copies[key].indexes for key in places if key in copies}, nodes)
    leads = any(
        each.is_valid and not each.is_partial and each.first_column == table.column for each in own.indexes.values()
    )
    has_stats = inputs.include_stats and bool(seen)
    return Row(
        schema=table.schema,
        table=table.name,
        type=table.kind,
        distribution_column=table.column,
        colocation_id=table.colocation_id or None,
        owner=table.owner,
        access_method=table.access_method,
        is_partition=table.is_partition,
        shard_count=len({each.shardid for each in placements}),
        placement_count=len(places),
        replica_identity=identity,
        has_pk=has_pk,
        has_replica_identity=identity == "full"
        or (identity == "default" and has_pk)
        or (identity == "index" and any(each.is_replica_identity for each in indexes)),
        distribution_column_indexed=leads if table.column is not None else None,
        size_bytes=total.size_bytes,
        size_source=total.source,
        live=sum(copy.live for copy in seen) if has_stats else None,
        dead=sum(copy.dead for copy in seen) if has_stats else None,
        nodes=_nodes_of(placements, sizes, nodes),
        indexes=tuple(indexes) if inputs.include_indexes else (),
        drift=tuple(drift[:_MOST_SHOWN]),
        drift_count=len(drift),
        unknown_shards=len(places) - len(seen),
        shards=_shards_of(placements, sizes, nodes) if inputs.include_shards else (),
    )


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    tables = choose_tables(fetch_tables(session), inputs.schema, inputs.table)
    placements = of_table(fetch_placements(session, list(tables)))
    indexes = fetch_indexes(session, list(tables))
    nodes = primaries(session)
    ids = {each.shardid for found in placements.values() for each in found}
    gathered = session.on_all_nodes(
        sql.SQL(_ASK).format(locked=sql.SQL(LOCKED_RELATIONS), placed=local_placements(ids), sizes=sql.SQL(SIZE_PAIR))
    )
    copies: dict[tuple[int, int], _Copy] = {}
    for node, answer in gathered.rows:
        values: Any = answer
        shardid, exact, estimate, tuples, live, dead, there = values
        copies[shardid, node.groupid] = _Copy(read_measure(exact, estimate, tuples), live, dead, there or {})
    view = _Seen(copies, nodes, inputs)
    rows = [_row(table, indexes[relid], placements.get(relid, []), view) for relid, table in tables.items()]
    locked = sum(each.measure.source == "estimate" for each in copies.values())
    return Found(
        rows, *whats_missing(session, gathered, locked), facts={"drift_count": sum(row.drift_count for row in rows)}
    )


def _index_drift(row: Row) -> Finding:
    is_bad = any(each.problem != "extra" for each in row.drift)
    first = row.drift[0]
    return Finding(
        rule="index_drift",
        severity=Severity.ERROR if is_bad else Severity.WARNING,
        scope="table",
        target=f"{quoted(row.schema)}.{quoted(row.table)}",
        title="shards do not have the indexes that the coordinator has",
        evidence=f"{row.drift_count} differences; first: {first.index} {first.problem} on shard {first.shardid}",
        suggestion="drop the index on the coordinator and create it again; drop an extra one on its node",
    )


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    found = [_index_drift(row) for row in envelope.rows if row.drift_count]
    found += [
        Finding(
            rule="missing_index_on_distribution_column",
            severity=Severity.INFO,
            scope="table",
            target=f"{quoted(row.schema)}.{quoted(row.table)}",
            title="no index begins with the distribution column",
            evidence=f"the column is {row.distribution_column}",
            suggestion="create one if queries ask for one tenant",
        )
        for row in envelope.rows
        if row.distribution_column_indexed is False and not row.is_partition
    ]
    found += [
        Finding(
            rule="no_replica_identity",
            severity=Severity.INFO,
            scope="table",
            target=f"{quoted(row.schema)}.{quoted(row.table)}",
            title="its shards cannot be moved without blocking writes",
            evidence=f"replica identity {row.replica_identity}, {'a' if row.has_pk else 'no'} primary key",
            suggestion="add a primary key, or REPLICA IDENTITY FULL; or move with shard_transfer_mode block_writes",
        )
        for row in envelope.rows
        if not row.has_replica_identity and row.type not in ("reference", "local")
    ]
    return found


INSPECTOR = Inspector(
    name="table_inspector",
    summary="A table, or all: placement, size by node, indexes and where shards lack one, replica identity, rows",
    cost=Cost.SIZES,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("schema", "table"),
    volatile=frozenset({"live", "dead"}),
    sources=(
        *TABLE_SOURCES,
        *SHARD_SOURCES,
        *SIZE_SOURCES,
        *INDEX_SOURCES,
        Source("pg_stat_get_live_tuples", (("returns", "bigint"),), "function"),
        Source("pg_stat_get_dead_tuples", (("returns", "bigint"),), "function"),
    ),
    look=_look,
    severity=_severity,
)
