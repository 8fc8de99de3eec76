"""The shards of a table with their sizes, and how many rows a table has (the plan's P5.7, repaired: F6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from harness.citus.catalog import Connection, Placement, Relation, fetch_placement
from harness.citus.commands import ask_nodes, require_all
from harness.errors import BadInputError, ServerError

_LEAVES_QUERY: LiteralString = """
    SELECT t.relid::oid FROM pg_catalog.pg_partition_tree(%s::oid::regclass) t WHERE t.isleaf
"""
_SHARDS_QUERY: LiteralString = """
    SELECT s.shardid, s.shardminvalue, s.shardmaxvalue, p.groupid, n.nodename, n.nodeport
      FROM pg_catalog.pg_dist_shard s
      JOIN pg_catalog.pg_dist_placement p ON p.shardid = s.shardid
      LEFT JOIN pg_catalog.pg_dist_node n ON n.groupid = p.groupid AND n.noderole = 'primary'
     WHERE s.logicalrelid = ANY (%s::oid[])
     ORDER BY s.shardid, p.groupid
"""
# What an estimate needs of one relation: its statistics, what it has on disk, and how wide a row is if every column
# that has no fixed width takes 32 bytes, as the planner has it; 28 is a row's header and its pointer.
_MEASURES: LiteralString = """
    pg_catalog.json_build_array(c.reltuples, c.relpages, pg_catalog.pg_relation_size(c.oid),
        pg_catalog.pg_total_relation_size(c.oid),
        (SELECT 28 + coalesce(pg_catalog.sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 32 END), 0)
           FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
"""
# Run on every node: OIDs differ there, shard ids do not. A node has its own shards' relations and no others.
_NODE_QUERY: LiteralString = """
    SELECT coalesce(pg_catalog.json_object_agg(s.shardid, {measures}), '{{}}')
      FROM pg_catalog.pg_dist_shard s
      JOIN pg_catalog.pg_class c
        ON c.oid = pg_catalog.to_regclass(pg_catalog.shard_name(s.logicalrelid, s.shardid, false))
     WHERE s.shardid = ANY ({shards}::bigint[])
"""
_LOCAL_QUERY: LiteralString = "SELECT {measures} FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s::oid[])"
_PAGE_BYTES = 8192
_PAGE_HEADER_BYTES = 24


@dataclass(frozen=True)
class ShardPlacement:
    """One copy of a shard.

    Attributes:
        group_id, host, port: the node that has it; host and port are None where that node is not registered.
        size_bytes: with indexes and toast; None where it was not asked for.
    """

    group_id: int
    host: str | None
    port: int | None
    size_bytes: int | None = None


@dataclass(frozen=True)
class Shard:
    """One shard of a table.

    Attributes:
        shard_id: Citus' number for it; no OID (F6).
        min_value, max_value: its range of hashes, as text; None for a table without a distribution column.
        placements: its copies, by group; a reference table has one on each node.
    """

    shard_id: int
    min_value: str | None
    max_value: str | None
    placements: tuple[ShardPlacement, ...]

    @property
    def size_bytes(self) -> int | None:
        """Of its first copy."""
        return self.placements[0].size_bytes if self.placements else None


@dataclass(frozen=True)
class RowEstimate:
    """About how many rows a table has.

    Attributes:
        rows: the estimate.
        basis: ``statistics`` (every part was analysed), ``size`` (none was; told from bytes and the width of a
            row), ``mixed``, or ``empty`` (nothing on disk, so it is no estimate).
        part_count: relations that were looked at: shards, partitions or the table itself.
        unanalysed_count: how many of those with rows were never analysed (their ``reltuples`` is -1).
    """

    rows: int
    basis: str
    part_count: int
    unanalysed_count: int

    def __str__(self) -> str:
        if self.basis in {"statistics", "empty"}:
            return f"{self.rows} rows by {'statistics' if self.basis == 'statistics' else 'size: nothing on disk'}"
        return (
            f"{self.rows} rows, {self.unanalysed_count} of {self.part_count} parts told from their size (run ANALYZE)"
        )


@dataclass(frozen=True)
class _Measure:
    tuples: float
    pages: int
    heap_bytes: int
    total_bytes: int
    row_bytes: int
    density: float | None = field(init=False)

    def __post_init__(self) -> None:
        known = self.tuples / self.pages if self.tuples >= 0 and self.pages > 0 else None
        object.__setattr__(self, "density", known)

    @property
    def rows(self) -> float:
        """As the planner estimates it: rows a page when it was analysed, times the pages of now."""
        pages = self.heap_bytes / _PAGE_BYTES
        if pages == 0:
            return 0.0
        if self.pages == pages and self.tuples >= 0:
            return self.tuples
        density = self.density
        if density is None:
            density = (_PAGE_BYTES - _PAGE_HEADER_BYTES) / max(1, self.row_bytes)
        return density * pages


def _leaves(connection: Connection, placement: Placement) -> list[int]:
    """The relations with rows of their own: its partitions, or itself."""
    if not placement.is_partitioned:
        return [placement.relid]
    return [row[0] for row in connection.execute(_LEAVES_QUERY, [placement.relid]).fetchall()]


def _measure_shards(connection: Connection, shard_ids: Sequence[int]) -> dict[int, dict[int, _Measure]]:
    """By shard and group; one round trip to all nodes (20 ms for 1+2, F32)."""
    query = sql.SQL(_NODE_QUERY).format(measures=sql.SQL(_MEASURES), shards=sql.Literal(list(shard_ids)))
    found: dict[int, dict[int, _Measure]] = {}
    for answer in require_all(ask_nodes(connection, query)):
        group_id = answer.node.group_id if answer.node else 0
        for shard_id, measures in json.loads(answer.result or "{}").items():
            found.setdefault(int(shard_id), {})[group_id] = _Measure(*measures)
    missing = sorted(set(shard_ids) - set(found))
    if missing:
        raise ServerError(
            f"no node that answered has shard {missing[0]}, nor {len(missing) - 1} others"
            if len(missing) > 1
            else f"no node that answered has shard {missing[0]}",
            hint="a worker without metadata can't say: SELECT start_metadata_sync_to_all_nodes()",
        )
    return found


def fetch_shards(connection: Connection, relation: Relation, *, with_sizes: bool = True) -> tuple[Shard, ...]:
    """The shards of a table, as the coordinator has them; none for a table that Citus does not know.

    Args:
        connection: to the coordinator, or a plain server.
        relation: an OID or (schema, name).
        with_sizes: ask every node for the sizes; without, only the coordinator's catalog is read.

    Raises:
        BadInputError: there is no such relation.
        NodesFailedError: sizes were asked for and a node did not answer; names it.
    """
    placement = fetch_placement(connection, relation)
    if not placement.has_shards:
        return ()
    rows = connection.execute(_SHARDS_QUERY, [[placement.relid]]).fetchall()
    measures = _measure_shards(connection, sorted({row[0] for row in rows})) if with_sizes and rows else {}
    shards: dict[int, Shard] = {}
    for shard_id, low, high, group_id, host, port in rows:
        measure = measures.get(shard_id, {}).get(group_id)
        copy = ShardPlacement(group_id, host, port, measure.total_bytes if measure else None)
        before = shards[shard_id].placements if shard_id in shards else ()
        shards[shard_id] = Shard(shard_id, low, high, (*before, copy))
    return tuple(shards.values())


def fetch_row_estimate(connection: Connection, relation: Relation) -> RowEstimate:
    """About how many rows a table has, without counting them.

    The coordinator's own ``reltuples`` of a table with shards is of no use, and ``pg_dist_shard.shardid`` is no OID
    (F6): the nodes are asked for what they know of their shards. A part that was never analysed (``reltuples`` -1) is
    told from its size, as PostgreSQL's planner does; ``basis`` says so. Of a columnar table never analysed that is a
    low guess, since its bytes are compressed. Partitions are summed, as autovacuum never analyses their parent.

    Args:
        connection: to the coordinator, or a plain server.
        relation: an OID or (schema, name).

    Raises:
        BadInputError: there is no such relation, or it has no rows of its own (a view, a foreign table).
        NodesFailedError: a node did not answer; names it.
    """
    placement = fetch_placement(connection, relation)
    if placement.relkind in {"v", "f"}:
        what = "a view" if placement.relkind == "v" else "a foreign table"
        raise BadInputError(
            f"{placement.schema}.{placement.name} is {what}: nothing here knows how many rows it has",
            hint="ask for the tables that it reads",
        )
    leaves = _leaves(connection, placement)
    if placement.has_shards:
        rows = connection.execute(_SHARDS_QUERY, [leaves]).fetchall()
        by_shard = _measure_shards(connection, sorted({row[0] for row in rows})) if rows else {}
        # Any copy of a shard has its rows; the one that was analysed knows best.
        measures = [max(copies.values(), key=lambda each: each.tuples) for copies in by_shard.values()]
    else:
        query = sql.SQL(_LOCAL_QUERY).format(measures=sql.SQL(_MEASURES))
        measures = [_Measure(*row[0]) for row in connection.execute(query, [leaves]).fetchall()]
    return _estimate(measures)


def _estimate(measures: Sequence[_Measure]) -> RowEstimate:
    filled = [measure for measure in measures if measure.heap_bytes > 0]
    unanalysed = [measure for measure in filled if measure.density is None]
    if not filled:
        basis = "empty"
    elif not unanalysed:
        basis = "statistics"
    else:
        basis = "size" if len(unanalysed) == len(filled) else "mixed"
    return RowEstimate(round(sum(measure.rows for measure in measures)), basis, len(measures), len(unanalysed))
