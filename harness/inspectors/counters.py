"""`citus_stats_dashboard`: what each node counted of its connections and queries, and whether it counts at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from harness.inspectors.contract import Cost, Found, Inspector, Reason, Source, Unavailable
from harness.inspectors.inputs import Listing
from harness.inspectors.session import Session

# The setting is read in the session that Citus opens for us, which has the server's own.
_QUERY = sql.SQL("""
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'enabled', pg_catalog.current_setting('citus.enable_stat_counters')::boolean,
        'conn_ok', c.connection_establishment_succeeded, 'conn_failed', c.connection_establishment_failed,
        'conn_reused', c.connection_reused, 'single_shard', c.query_execution_single_shard,
        'multi_shard', c.query_execution_multi_shard, 'stats_reset', c.stats_reset AT TIME ZONE 'UTC',
        'commits', d.xact_commit, 'rollbacks', d.xact_rollback, 'deadlocks', d.deadlocks,
        'temp_bytes', d.temp_bytes, 'backends', d.numbackends))
    FROM pg_catalog.pg_stat_database d
    LEFT JOIN pg_catalog.citus_stat_counters c ON c.oid = d.datid
    WHERE d.datname = pg_catalog.current_database()
""")


@dataclass(frozen=True)
class Row:
    """What a node counted in this database since it started, or was reset.

    Attributes:
        nodeid, node: which.
        enabled: whether ``citus.enable_stat_counters`` is on for a new session there. If not, Citus' counts are None:
            the view would say 0.
        conn_ok, conn_failed, conn_reused: connections that it opened to nodes, could not open, and used again. Our own
            looks open one a node.
        reuse_pct: conn_reused of conn_ok and conn_reused together; None where there was none.
        single_shard, multi_shard: queries that it planned, by how many shards they touched; of a worker only those that
            clients sent to it.
        stats_reset: when these were reset; None: never.
        backends, commits, rollbacks, deadlocks, temp_bytes: of pg_stat_database.
    """

    nodeid: int
    node: str
    enabled: bool
    conn_ok: int | None
    conn_failed: int | None
    conn_reused: int | None
    reuse_pct: float | None
    single_shard: int | None
    multi_shard: int | None
    stats_reset: str | None
    backends: int
    commits: int
    rollbacks: int
    deadlocks: int
    temp_bytes: int


def _reuse_pct(told: dict[str, Any]) -> float | None:
    uses = told["conn_ok"] + told["conn_reused"]
    return round(100 * told["conn_reused"] / uses, 1) if uses else None


def _look(session: Session, _inputs: Listing) -> Found[Row]:
    gathered = session.on_all_nodes(_QUERY)
    rows = []
    for node, told in gathered.rows:
        is_on = bool(told["enabled"]) and told["conn_ok"] is not None
        rows.append(
            Row(
                nodeid=node.nodeid,
                node=node.name,
                enabled=is_on,
                conn_ok=told["conn_ok"] if is_on else None,
                conn_failed=told["conn_failed"] if is_on else None,
                conn_reused=told["conn_reused"] if is_on else None,
                reuse_pct=_reuse_pct(told) if is_on else None,
                single_shard=told["single_shard"] if is_on else None,
                multi_shard=told["multi_shard"] if is_on else None,
                stats_reset=None if not is_on or told["stats_reset"] is None else f"{told['stats_reset']}Z",
                backends=told["backends"],
                commits=told["commits"],
                rollbacks=told["rollbacks"],
                deadlocks=told["deadlocks"],
                temp_bytes=told["temp_bytes"],
            )
        )
    if not rows:
        raise Unavailable(Reason.NODE_UNREACHABLE, "no node answered")
    off = [row.node for row in rows if not row.enabled]
    advice = "a superuser sets it with ALTER SYSTEM on each node, and reloads"
    return Found(
        rows,
        reason=Reason.GUC_OFF if off else None,
        message=f"citus.enable_stat_counters is off on {', '.join(off)}: {advice}" if off else "",
    )


INSPECTOR = Inspector(
    name="citus_stats_dashboard",
    summary="What each node counted: connections opened and used again, queries of one shard and of many",
    cost=Cost.FAN_OUT,
    least_role="any role",
    inputs=Listing,
    row=Row,
    ordering=("nodeid",),
    volatile=frozenset(
        {
            "conn_ok",
            "conn_failed",
            "conn_reused",
            "reuse_pct",
            "single_shard",
            "multi_shard",
            "backends",
            "commits",
            "rollbacks",
            "deadlocks",
            "temp_bytes",
        }
    ),
    sources=(
        Source(
            "citus_stat_counters",
            (
                ("oid", "oid"),
                ("connection_establishment_succeeded", "bigint"),
                ("connection_establishment_failed", "bigint"),
                ("connection_reused", "bigint"),
                ("query_execution_single_shard", "bigint"),
                ("query_execution_multi_shard", "bigint"),
                ("stats_reset", "timestamp with time zone"),
            ),
            note="of this node; zeros where counting is off",
        ),
        Source(
            "pg_stat_database",
            (
                ("datid", "oid"),
                ("datname", "name"),
                ("numbackends", "integer"),
                ("xact_commit", "bigint"),
                ("xact_rollback", "bigint"),
                ("temp_bytes", "bigint"),
                ("deadlocks", "bigint"),
            ),
        ),
        Source("citus.enable_stat_counters", kind="setting"),
    ),
    look=_look,
)
