"""Indexes of tables, and which shards do not have them as the coordinator does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.inspectors.contract import Source
from harness.inspectors.fan_out import ClusterNode
from harness.inspectors.session import Session
from harness.inspectors.tables import CatalogPlacement

# pg_get_indexdef would wait for AccessExclusiveLock; the catalog does not.
_INDEXES: LiteralString = """
    SELECT i.indrelid::bigint, i.indexrelid::bigint, c.relname, i.indisprimary, i.indisunique, i.indisvalid,
           i.indpred IS NOT NULL, i.indisreplident,
           (SELECT a.attname FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND i.indkey[0] > 0)
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = ANY (%s::oid[])
"""
# shard_name is right for names that had to be shortened too; cutting "_<digits>" off is not.
_NAMES: LiteralString = """
    SELECT i.indexrelid::bigint, s.shardid,
           (pg_catalog.parse_ident(pg_catalog.shard_name(i.indexrelid::regclass, s.shardid, false)))[2]
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_dist_shard s ON s.logicalrelid = i.indrelid
     WHERE i.indrelid = ANY (%s::oid[])
"""
INDEX_SOURCES = (
    Source(
        "pg_index",
        (
            ("indexrelid", "oid"),
            ("indrelid", "oid"),
            ("indisprimary", "boolean"),
            ("indisunique", "boolean"),
            ("indisvalid", "boolean"),
            ("indisreplident", "boolean"),
            ("indkey", "int2vector"),
            ("indpred", "pg_node_tree"),
        ),
    ),
    Source("pg_attribute", (("attrelid", "oid"), ("attname", "name"), ("attnum", "smallint"))),
)


@dataclass(frozen=True)
class Index:
    """An index as the coordinator has it.

    Attributes:
        first_column: None for an expression.
        is_partial: whether it has a WHERE.
        is_replica_identity: whether it was chosen as that.
    """

    name: str
    is_primary: bool
    is_unique: bool
    is_valid: bool
    is_partial: bool
    is_replica_identity: bool
    first_column: str | None


@dataclass(frozen=True)
class Drift:
    """One index that is not on a shard as on the coordinator.

    Attributes:
        index: its name on the coordinator; of one that is extra, on the shard.
        shardid, nodeid, node: where; None for the coordinator's own table.
        problem: ``missing``, ``invalid``, ``extra`` or ``coordinator_invalid``.
    """

    index: str
    shardid: int | None
    nodeid: int | None
    node: str | None
    problem: str


@dataclass(frozen=True)
class TableIndexes:
    """Of one table: its indexes by OID, and their names by (shard, OID)."""

    indexes: Mapping[int, Index]
    names: Mapping[int, Mapping[str, int]]


def fetch_indexes(session: Session, relids: Collection[int]) -> dict[int, TableIndexes]:
    """The indexes of these tables, with the names that their shards must have; coordinator only.

    Args:
        session: on the coordinator.
        relids: OIDs there.
    """
    indexes: dict[int, dict[int, Index]] = defaultdict(dict)
    table_of: dict[int, int] = {}
    for relid, oid, *values in session.rows(sql.SQL(_INDEXES), [list(relids)]):
        indexes[relid][oid] = Index(*values)
        table_of[oid] = relid
    names: dict[int, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for oid, shardid, name in session.rows(sql.SQL(_NAMES), [list(relids)]):
        if oid in table_of:
            names[table_of[oid]][shardid][name] = oid
    return {relid: TableIndexes(indexes.get(relid, {}), names.get(relid, {})) for relid in relids}


def _order(drift: Drift) -> tuple[bytes, int, int, str]:
    return drift.index.encode(), drift.shardid or 0, drift.nodeid or 0, drift.problem


def find_drift(
    own: TableIndexes,
    placements: Iterable[CatalogPlacement],
    seen: Mapping[tuple[int, int], Mapping[str, bool]],
    nodes: Mapping[int, ClusterNode],
) -> list[Drift]:
    """Which shards have not the indexes that the coordinator has.

    Args:
        own: of the table.
        placements: of the table.
        seen: by (shard, group) the names of indexes that are there, with whether each is valid; a copy whose node said
            nothing is not in it and judged in no way.
        nodes: the primary of each group.

    Returns:
        By index, shard, node and problem.
    """
    found = [
        Drift(each.name, None, None, None, "coordinator_invalid") for each in own.indexes.values() if not each.is_valid
    ]
    for placement in placements:
        if placement.groupid is None or (placement.shardid, placement.groupid) not in seen:
            continue
        there = seen[placement.shardid, placement.groupid]
        expected = own.names.get(placement.shardid, {})
        node = nodes.get(placement.groupid)
        where = (placement.shardid, node.nodeid if node else None, node.name if node else None)
        for name, oid in expected.items():
            if not there.get(name, False):
                problem = "invalid" if name in there else "missing"
                found.append(Drift(own.indexes[oid].name, *where, problem))
        found += [Drift(name, *where, "extra") for name in there if name not in expected]
    return sorted(found, key=_order)
