"""`citus_table_stats`: live and dead rows, scans, and when ANALYZE and VACUUM last ran, of shards on their nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Severity, Source
from harness.inspectors.inputs import integer
from harness.inspectors.placements import local_placements, whats_missing
from harness.inspectors.session import Session
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    OfTables,
    choose_tables,
    fetch_placements,
    fetch_tables,
    of_table,
    quoted,
)

# What pg_stat_all_tables has, asked by OID: the view would count every relation of the node first. Of the partitions
# and tables below a node's own placements only: a stray copy on another node is not counted (inspectors.md).
_COUNTERS = ("live", "dead", "ins", "upd", "del", "seq_scan", "idx_scan")
_ASK: LiteralString = """
    WITH {placed}
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(f.shardid,
             pg_catalog.pg_stat_get_live_tuples(f.oid), pg_catalog.pg_stat_get_dead_tuples(f.oid),
             pg_catalog.pg_stat_get_tuples_inserted(f.oid), pg_catalog.pg_stat_get_tuples_updated(f.oid),
             pg_catalog.pg_stat_get_tuples_deleted(f.oid), pg_catalog.pg_stat_get_numscans(f.oid),
             (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_numscans(i.indexrelid)), 0)
                FROM pg_catalog.pg_index i WHERE i.indrelid = f.oid),
             extract(epoch FROM greatest(pg_catalog.pg_stat_get_last_analyze_time(f.oid),
                                         pg_catalog.pg_stat_get_last_autoanalyze_time(f.oid))),
             extract(epoch FROM greatest(pg_catalog.pg_stat_get_last_vacuum_time(f.oid),
                                         pg_catalog.pg_stat_get_last_autovacuum_time(f.oid)))))
      FROM found f WHERE f.oid IS NOT NULL
"""
_NOW: LiteralString = "SELECT extract(epoch FROM pg_catalog.now())::double precision"
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, kw_only=True)
class Inputs(OfTables):
    """Which tables, and how old statistics may be."""

    stale_hours: int = integer(24, 1, 24 * 3660, "older than this, or never: the table's statistics are stale")


@dataclass(frozen=True)
class Row:
    """One table; a partitioned parent is left out, its partitions stand for themselves.

    Attributes:
        shards_expected, shards_seen: copies of shards by the catalog, and those whose node said something.
        live, dead: rows of all copies, as the nodes' counters have them; None: nothing was seen.
        dead_pct: of all rows, 2 decimals; None where there are none.
        ins, upd, deleted, seq_scan, idx_scan: since the counters were reset.
        oldest_analyze, oldest_vacuum: of the copies that ever were, by hand or by autovacuum; ISO 8601 in UTC.
        never_analyzed_shards: copies with rows, or rows changed, that never were.
        is_stale: whether such a copy is there, or the oldest ANALYZE of a copy with rows is older than stale_hours.
    """

    schema: str
    table: str
    shards_expected: int
    shards_seen: int
    live: int | None
    dead: int | None
    dead_pct: float | None
    ins: int | None
    upd: int | None
    deleted: int | None
    seq_scan: int | None
    idx_scan: int | None
    oldest_analyze: str | None
    oldest_vacuum: str | None
    never_analyzed_shards: int
    is_stale: bool


def _moment(epoch: float | None) -> str | None:
    return None if epoch is None else (_EPOCH + timedelta(seconds=float(epoch))).isoformat()


def summarize(key: tuple[str, str], expected: int, copies: Sequence[Sequence[Any]], stale_before: float) -> Row:
    """One table of what its copies say.

    Args:
        key: schema and name.
        expected: copies by the catalog.
        copies: of those that were seen: shard, live, dead, inserted, updated, deleted, scans, scans of indexes, and
            when ANALYZE and VACUUM last ran, in seconds since 1970 or None.
        stale_before: an ANALYZE before it is old, in seconds since 1970.
    """
    schema, table = key
    sums = (
        dict.fromkeys(_COUNTERS)
        if not copies
        else {name: sum(int(copy[at]) for copy in copies) for at, name in enumerate(_COUNTERS, start=1)}
    )
    live, dead = sums["live"] or 0, sums["dead"] or 0
    filled = [copy for copy in copies if copy[1] or copy[3]]
    never = sum(copy[8] is None for copy in filled)
    return Row(
        schema=schema,
        table=table,
        shards_expected=expected,
        shards_seen=len(copies),
        live=sums["live"],
        dead=sums["dead"],
        dead_pct=round(100 * dead / (live + dead), 2) if live + dead else None,
        ins=sums["ins"],
        upd=sums["upd"],
        deleted=sums["del"],
        seq_scan=sums["seq_scan"],
        idx_scan=sums["idx_scan"],
        oldest_analyze=_moment(min((copy[8] for copy in copies if copy[8] is not None), default=None)),
        oldest_vacuum=_moment(min((copy[9] for copy in copies if copy[9] is not None), default=None)),
        never_analyzed_shards=never,
        is_stale=bool(never) or any(copy[8] is not None and copy[8] < stale_before for copy in filled),
    )


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    chosen = choose_tables(fetch_tables(session), inputs.schema, inputs.table)
    tables = {relid: each for relid, each in chosen.items() if each.relkind != "p"}
    placements = of_table(fetch_placements(session, list(tables)))
    relid_of = {each.shardid: relid for relid, found in placements.items() for each in found}
    now = session.rows(_NOW)[0][0]
    gathered = session.on_all_nodes(sql.SQL(_ASK).format(placed=local_placements(relid_of)))
    copies: dict[int, list[Sequence[Any]]] = defaultdict(list)
    for _, answer in gathered.rows:
        copy: Any = answer
        copies[relid_of[copy[0]]].append(copy)
    rows = []
    for relid, table in tables.items():
        expected = sum(each.groupid is not None for each in placements.get(relid, ()))
        rows.append(summarize(table.key, expected, copies[relid], now - 3600 * inputs.stale_hours))
    return Found(rows, *whats_missing(session, gathered))


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    return [
        Finding(
            rule="stale_stats",
            severity=Severity.INFO,
            scope="table",
            target=f"{quoted(row.schema)}.{quoted(row.table)}",
            title="statistics of shards are missing or old",
            evidence=f"{row.never_analyzed_shards} of {row.shards_seen} copies with rows were never analysed"
            if row.never_analyzed_shards
            else "the oldest is older than was asked for",
            suggestion="ANALYZE the table: Citus passes it on to the shards",
        )
        for row in envelope.rows
        if row.is_stale
    ]


INSPECTOR = Inspector(
    name="citus_table_stats",
    summary="Live and dead rows, scans, last ANALYZE and VACUUM of every table, summed over its shards",
    cost=Cost.FAN_OUT,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("-dead", "schema", "table"),
    volatile=frozenset(
        {
            "live",
            "dead",
            "dead_pct",
            "ins",
            "upd",
            "deleted",
            "seq_scan",
            "idx_scan",
            "oldest_analyze",
            "oldest_vacuum",
            "never_analyzed_shards",
            "is_stale",
        }
    ),
    sources=(
        *TABLE_SOURCES,
        *SHARD_SOURCES,
        Source("pg_index", (("indexrelid", "oid"), ("indrelid", "oid"))),
        *(
            Source(f"pg_stat_get_{name}", (("returns", kind),), "function")
            for name, kind in (
                ("live_tuples", "bigint"),
                ("dead_tuples", "bigint"),
                ("tuples_inserted", "bigint"),
                ("tuples_updated", "bigint"),
                ("tuples_deleted", "bigint"),
                ("numscans", "bigint"),
                ("last_analyze_time", "timestamp with time zone"),
                ("last_autoanalyze_time", "timestamp with time zone"),
                ("last_vacuum_time", "timestamp with time zone"),
                ("last_autovacuum_time", "timestamp with time zone"),
            )
        ),
    ),
    look=_look,
    severity=_severity,
)
