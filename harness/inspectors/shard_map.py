"""`citus_shard_map`: which shards lie together, where, and how large they are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from harness.inspectors.contract import Cost, Found, Inspector, Reason, Unavailable
from harness.inspectors.inputs import flag, integer
from harness.inspectors.placements import SIZE_SOURCES, Sizes, fetch_sizes
from harness.inspectors.session import Session
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    CatalogPlacement,
    CitusTable,
    OfTables,
    choose_tables,
    fetch_placements,
    fetch_tables,
    node_name,
    of_table,
    primaries,
)


@dataclass(frozen=True, kw_only=True)
class Inputs(OfTables):
    """Which tables: of a table all that are colocated with it are shown too."""

    colocation_id: int | None = integer(None, 1, 2**31 - 1, "only this colocation group")
    include_sizes: bool = flag(True, "ask every node for sizes: one connection to each")


@dataclass(frozen=True)
class Row:
    """One copy of a shard.

    Attributes:
        colocation_id: None for a table that has no group; its shards stand by themselves.
        shard_group: the rank of its range among its table's shards, from 1: shards of colocated tables with the same
            rank lie together.
        min_hash, max_hash: its range, as the catalog's text; None without a distribution column.
        node: of the copy; None where no primary is registered for its group.
        split: the shards of this group are not all on the same nodes, or have different ranges: a join would fail.
        size_bytes: with indexes and toast; None where it was not asked for or the node has no such relation.
        size_source: ``exact``, ``estimate`` (locked) or ``none``.
    """

    colocation_id: int | None
    shard_group: int
    min_hash: str | None
    max_hash: str | None
    schema: str
    table: str
    shardid: int
    groupid: int | None
    node: str | None
    split: bool
    size_bytes: int | None
    size_source: str


Ranked = tuple[int, CatalogPlacement]


def rank(placements: list[CatalogPlacement]) -> list[Ranked]:
    """The placements of one table with the rank of their shard, from 1; copies have the same."""
    order = {shardid: at for at, (_, shardid) in enumerate(sorted({(p.rank, p.shardid) for p in placements}), start=1)}
    return [(order[each.shardid], each) for each in placements]


def split_groups(ranked: dict[CitusTable, list[Ranked]]) -> set[tuple[int, int]]:
    """The (colocation id, rank) whose shards are on different nodes, have different ranges, or not in every table."""
    seen: dict[tuple[int, int], list[tuple[frozenset[int | None], str | None, str | None]]] = defaultdict(list)
    tables_of: dict[int, int] = defaultdict(int)
    for table, placements in ranked.items():
        if not table.colocation_id:
            continue
        tables_of[table.colocation_id] += 1
        groups: dict[int, set[int | None]] = defaultdict(set)
        ranges: dict[int, tuple[str | None, str | None]] = {}
        for at, each in placements:
            groups[at].add(each.groupid)
            ranges[at] = each.min_value, each.max_value
        for at, where in groups.items():
            seen[table.colocation_id, at].append((frozenset(where), *ranges[at]))
    return {key for key, found in seen.items() if len(set(found)) > 1 or len(found) < tables_of[key[0]]}


def _choose(tables: dict[int, CitusTable], inputs: Inputs) -> dict[int, CitusTable]:
    chosen = choose_tables(tables, inputs.schema, inputs.table)
    if inputs.colocation_id is not None:
        chosen = {relid: each for relid, each in chosen.items() if each.colocation_id == inputs.colocation_id}
        if not chosen:
            raise Unavailable(Reason.NOT_FOUND, f"no such table is in colocation group {inputs.colocation_id}")
    groups = {each.colocation_id for each in chosen.values() if each.colocation_id}
    return {relid: each for relid, each in tables.items() if relid in chosen or each.colocation_id in groups}


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    tables = _choose(fetch_tables(session), inputs)
    nodes = primaries(session)
    placements = of_table(fetch_placements(session, list(tables)))
    shard_ids = {each.shardid for found in placements.values() for each in found}
    sizes = fetch_sizes(session, shard_ids) if inputs.include_sizes else Sizes()
    ranked = {tables[relid]: rank(found) for relid, found in placements.items()}
    split = split_groups(ranked)
    rows = []
    for table, found in ranked.items():
        for at, each in found:
            measure = sizes.of(each.shardid, each.groupid)
            rows.append(
                Row(
                    colocation_id=table.colocation_id or None,
                    shard_group=at,
                    min_hash=each.min_value,
                    max_hash=each.max_value,
                    schema=table.schema,
                    table=table.name,
                    shardid=each.shardid,
                    groupid=each.groupid,
                    node=node_name(nodes, each.groupid),
                    split=(table.colocation_id, at) in split,
                    size_bytes=measure.size_bytes if measure else None,
                    size_source=measure.source if measure else "none",
                )
            )
    facts = {"shard_groups": len({(row.colocation_id, row.shard_group) for row in rows}), "split_groups": len(split)}
    return Found(rows, sizes.reason, sizes.message, facts=facts)


INSPECTOR = Inspector(
    name="citus_shard_map",
    summary="Which shards lie together and where: shard groups by range of hashes, with sizes",
    cost=Cost.SIZES,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("colocation_id", "shard_group", "schema", "table", "groupid", "shardid"),
    volatile=frozenset(),
    sources=(*TABLE_SOURCES, *SHARD_SOURCES, *SIZE_SOURCES),
    look=_look,
)
