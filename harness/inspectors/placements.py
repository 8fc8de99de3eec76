"""Sizes of shards, from every node's own catalog: one connection a node, no right needed, no wait for a lock.

``citus_shards``, ``citus_tables`` and ``citus_shard_sizes()`` lose rows without a word where the role has no USAGE, and
wait behind whoever has locked a shard (inspectors.md, findings 4 to 6). A size by OID needs no right; the relation is
found by schema and name, since a node's OIDs are its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Reason, Source
from harness.inspectors.fan_out import Gathered
from harness.inspectors.session import Session

# AS MATERIALIZED: each is needed once. A relation that somebody has locked, or waits to lock, so that nobody may read
# it (TRUNCATE, ALTER, REINDEX of one index, VACUUM FULL), is not opened: its size is told from relpages, which is in
# the catalog. In the race between looking at the locks and opening the relation lock_timeout of the fan-out ends it.
LOCKED_RELATIONS: LiteralString = """
    locked AS MATERIALIZED (
        SELECT coalesce(i.indrelid, l.relation) AS oid
          FROM pg_catalog.pg_locks l
          LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = l.relation
         WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                              WHERE d.datname = pg_catalog.current_database()))
"""
# The placements of the node's own group with their relations. Without metadata a node has none and says so by silence:
# `Sizes.of` then has nothing for it.
LOCAL_PLACEMENTS: LiteralString = """
    placed AS MATERIALIZED (
        SELECT s.shardid, s.logicalrelid::oid AS relid, r.relnamespace,
               (pg_catalog.parse_ident(pg_catalog.shard_name(s.logicalrelid, s.shardid, false)))[2] AS relname
          FROM pg_catalog.pg_dist_local_group g
          JOIN pg_catalog.pg_dist_placement p ON p.groupid = g.groupid
          JOIN pg_catalog.pg_dist_shard s ON s.shardid = p.shardid
          JOIN pg_catalog.pg_class r ON r.oid = s.logicalrelid
         WHERE {wanted}),
    found AS MATERIALIZED (
        SELECT p.shardid, p.relid, c.oid, c.relpages, c.reltuples, c.reltoastrelid
          FROM placed p
          LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = p.relnamespace AND c.relname = p.relname)
"""
ALL_SHARDS: LiteralString = "true"
SOME_SHARDS: LiteralString = "s.shardid = ANY ({shards}::bigint[])"
# [shard, bytes or null if locked, bytes by relpages, rows by statistics]; no relation, no element.
SIZE_PAIR: LiteralString = """
    CASE WHEN EXISTS (SELECT FROM locked l WHERE l.oid IN (f.oid, f.reltoastrelid)) THEN NULL
         ELSE pg_catalog.pg_total_relation_size(f.oid) END,
    CASE WHEN EXISTS (SELECT FROM locked l WHERE l.oid IN (f.oid, f.reltoastrelid))
         THEN (SELECT pg_catalog.current_setting('block_size')::bigint * coalesce(pg_catalog.sum(c.relpages), 0)
                 FROM (SELECT f.oid UNION ALL SELECT f.reltoastrelid
                       UNION ALL
                       SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid IN (f.oid, f.reltoastrelid)) o
                 JOIN pg_catalog.pg_class c ON c.oid = o.oid) END
"""
_QUESTION: LiteralString = """
    WITH {locked}, {placed}
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(f.shardid, {sizes}, f.reltuples)) FROM found f
     WHERE f.oid IS NOT NULL
"""
_WITH_PLACEMENTS: LiteralString = """
    SELECT DISTINCT p.groupid FROM pg_catalog.pg_dist_placement p WHERE p.groupid = ANY (%s::integer[])
"""
SIZE_SOURCES = (
    Source("pg_locks", (("locktype", "text"), ("database", "oid"), ("relation", "oid"), ("mode", "text"))),
    Source("pg_database", (("oid", "oid"), ("datname", "name"))),
    Source("pg_index", (("indexrelid", "oid"), ("indrelid", "oid"))),
    Source("pg_dist_local_group", (("groupid", "integer"),)),
    Source("pg_dist_placement", (("shardid", "bigint"), ("groupid", "integer"))),
    Source("pg_dist_shard", (("logicalrelid", "regclass"), ("shardid", "bigint"))),
    Source(
        "pg_class",
        (
            ("oid", "oid"),
            ("relname", "name"),
            ("relnamespace", "oid"),
            ("relpages", "integer"),
            ("reltuples", "real"),
            ("reltoastrelid", "oid"),
        ),
    ),
    Source("shard_name", (("returns", "text"),), "function", note="hashes what would be longer than 63 bytes"),
    Source("pg_total_relation_size", (("returns", "bigint"),), "function", note="needs no right; waits for a lock"),
)


@dataclass(frozen=True)
class Measure:
    """One copy of one shard.

    Attributes:
        size_bytes: with indexes and toast.
        source: ``exact``, or ``estimate`` where somebody had it locked.
        rows: by the node's statistics; None: it was never analysed.
    """

    size_bytes: int
    source: str
    rows: float | None


@dataclass(frozen=True)
class Total:
    """Of several copies.

    Attributes:
        size_bytes: None: of none of them is a size known.
        source: ``exact``; ``estimate``: of a part of them; ``partial``: not all are known; ``none``.
        rows: by statistics; None: not all were analysed.
    """

    size_bytes: int | None
    source: str
    rows: float | None = None


@dataclass(frozen=True)
class Sizes:
    """What the nodes said.

    Attributes:
        measures: by (shard, group).
        reason, message: for `Found`: what is missing.
    """

    measures: Mapping[tuple[int, int], Measure] = field(default_factory=dict)
    reason: Reason | None = None
    message: str = ""

    def of(self, shardid: int, groupid: int | None) -> Measure | None:
        """One copy; None where its node did not answer, or has no such relation."""
        return None if groupid is None else self.measures.get((shardid, groupid))

    def total(self, copies: Iterable[tuple[int, int | None]]) -> Total:
        """Of these (shard, group), each once."""
        measures = [self.of(*copy) for copy in set(copies)]
        known = [each for each in measures if each is not None]
        if not known:
            return Total(None, "none") if measures else Total(0, "exact", 0.0)
        rows = [each.rows for each in known if each.rows is not None]
        source = (
            "partial"
            if len(known) < len(measures)
            else "estimate"
            if any(each.source == "estimate" for each in known)
            else "exact"
        )
        return Total(
            sum(each.size_bytes for each in known), source, float(sum(rows)) if len(rows) == len(measures) else None
        )


def local_placements(shard_ids: Collection[int] | None) -> sql.Composed:
    """The WITH members ``placed`` and ``found`` of a question to all nodes, for these shards or for all."""
    wanted = (
        sql.SQL(ALL_SHARDS) if shard_ids is None else sql.SQL(SOME_SHARDS).format(shards=sql.Literal(sorted(shard_ids)))
    )
    return sql.SQL(LOCAL_PLACEMENTS).format(wanted=wanted)


def fetch_sizes(session: Session, shard_ids: Collection[int] | None = None) -> Sizes:
    """Sizes and rows of shards, one question to all nodes.

    Args:
        session: on the coordinator.
        shard_ids: which; None: all.

    Returns:
        What the nodes said; who did not answer is in the session. A shard whose relation is not there has no measure.
    """
    question = sql.SQL(_QUESTION).format(
        locked=sql.SQL(LOCKED_RELATIONS), placed=local_placements(shard_ids), sizes=sql.SQL(SIZE_PAIR)
    )
    gathered = session.on_all_nodes(question)
    measures: dict[tuple[int, int], Measure] = {}
    for node, answer in gathered.rows:
        values: Any = answer
        shardid, exact, estimate, rows = values
        measures[shardid, node.groupid] = read_measure(exact, estimate, rows)
    locked = sum(each.source == "estimate" for each in measures.values())
    reason, message = whats_missing(session, gathered, locked)
    return Sizes(measures, reason, message)


def read_measure(exact: int | None, estimate: int | None, rows: float | None) -> Measure:
    """What a node's answer of `SIZE_PAIR` and ``reltuples`` (-1: never analysed) means."""
    return Measure(
        size_bytes=int(exact if exact is not None else estimate or 0),
        source="exact" if exact is not None else "estimate",
        rows=None if rows is None or rows < 0 else float(rows),
    )


def whats_missing(session: Session, gathered: Gathered, locked: int = 0) -> tuple[Reason | None, str]:
    """Reason and message of a fan-out that went by the nodes' own placements.

    Args:
        session: that asked.
        gathered: what they answered; nodes that did not are told of by the envelope.
        locked: how many copies of shards somebody had locked.
    """
    if gathered.failed:
        return None, ""
    inactive = [node for node in session.nodes if node.role == "primary" and not node.is_active]
    if inactive:
        groups = {row[0] for row in session.rows(_WITH_PLACEMENTS, [[node.groupid for node in inactive]])}
        names = ", ".join(node.name for node in inactive if node.groupid in groups)
        if names:
            return Reason.NODE_UNREACHABLE, f"{names} has shards, is not active and was not asked"
    unsynced = [node.name for node in gathered.answered if not node.has_metadata]
    if unsynced:
        return Reason.NODE_FAILED, f"{', '.join(unsynced)} has no metadata and cannot say what its shards are"
    if locked:
        return Reason.LOCK_TIMEOUT, f"copies of shards that are locked: {locked}; their sizes are estimates"
    return None, ""
