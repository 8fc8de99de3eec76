"""`citus_pool_inspector`: how many connections each node has, from whom, and how near that is to its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity, Source, Unavailable
from harness.inspectors.fan_out import ClusterNode
from harness.inspectors.inputs import Listing, integer
from harness.inspectors.session import Session

_POOLINFO: LiteralString = """
    SELECT p.nodeid, pg_catalog.substring(p.poolinfo, 'host=(''(?:[^'']|'''')*''|[^ ]+)'),
           pg_catalog.substring(p.poolinfo, 'port=(\\d+)')
    FROM pg_catalog.pg_dist_poolinfo p
"""
# Rights to the function are each node's own, and PostgreSQL checks them for whatever a statement names, even where CASE
# does not come to it. So it is named in a text, which ts_stat() runs read-only with the caller's rights (see
# `harness.inspectors.stream_tables.question`): its words are what the function has.
_OUTBOUND = sql.SQL("""CASE
    WHEN pg_catalog.has_function_privilege('pg_catalog.citus_remote_connection_stats()', 'EXECUTE') THEN (
        SELECT coalesce(pg_catalog.json_agg(x.word::json), '[]'::json) FROM pg_catalog.ts_stat({connections}) x)
    END""").format(
    connections=sql.Literal("""
        SELECT pg_catalog.array_to_tsvector(ARRAY[pg_catalog.json_build_object('host', o.hostname, 'port', o.port,
            'database', o.database_name, 'connections', o.connection_count_to_node)::text])
        FROM pg_catalog.citus_remote_connection_stats() o""")
)
_QUERY = sql.SQL("""
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'limits', (
            SELECT pg_catalog.json_object_agg(s.name, s.setting) FROM pg_catalog.pg_settings s
            WHERE s.name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections',
                             'citus.max_shared_pool_size', 'citus.local_shared_pool_size',
                             'citus.max_client_connections')),
        'hidden', a.hidden, 'all', a.all_, 'clients', a.clients, 'from_citus', a.from_citus,
        'from_run_command', a.from_run_command, 'idle', a.idle, 'outbound', {outbound}))
    FROM (
        SELECT pg_catalog.count(*) AS all_,
               pg_catalog.count(*) FILTER (WHERE b.app IS NULL) AS hidden,
               pg_catalog.count(*) FILTER (WHERE b.app LIKE 'citus\\_internal%' OR b.app LIKE 'citus\\_rebalancer%')
                   AS from_citus,
               pg_catalog.count(*) FILTER (WHERE b.app LIKE 'citus\\_run\\_command%') AS from_run_command,
               pg_catalog.count(*) FILTER (WHERE b.app NOT LIKE ALL (
                   ARRAY['citus\\_internal%', 'citus\\_rebalancer%', 'citus\\_run\\_command%'])) AS clients,
               pg_catalog.count(*) FILTER (WHERE b.state = 'idle') AS idle
        FROM (
            SELECT a.state, CASE WHEN a.query = '<insufficient privilege>' THEN NULL
                                 ELSE coalesce(a.application_name, '') END AS app
            FROM pg_catalog.pg_stat_activity a
            WHERE (a.backend_type = 'client backend'
                   OR (a.query = '<insufficient privilege>' AND a.datname IS NOT NULL))
              AND a.pid <> pg_catalog.pg_backend_pid()) b) a
""").format(outbound=_OUTBOUND)
SUPERUSERS = ("superuser_reserved_connections", "reserved_connections")


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """When a node is near its limit."""

    warn_pct: int = integer(
        80, 1, 100, "of the connections that are not reserved, so many percent in use are a warning"
    )


@dataclass(frozen=True)
class Outbound:
    """Connections that a node holds to another one, or to itself, in Citus' shared pool."""

    host: str
    port: int
    database: str
    connections: int


@dataclass(frozen=True)
class Row:
    """A node's connections; the one that asks is not counted.

    Attributes:
        nodeid, node: which.
        max_connections: its limit, with what is reserved.
        reserved: of these, kept for superusers and pg_use_reserved_connections.
        connections: client backends of all databases.
        from_clients: of these, opened by clients.
        from_citus: opened by other nodes for their sessions, cached ones too.
        from_monitoring: opened by ``run_command_on_..``, as inspectors do.
        idle: in state idle.
        hidden: of other roles, that do not show this role who opened them; not in the four above.
        used_pct: connections of those that are not reserved.
        shared_pool_limit: how many connections Citus opens from here to one node at most; None: no limit, or hidden
            from this role.
        local_pool_limit: the same to itself.
        client_limit: ``citus.max_client_connections``: how many clients may connect that are no superusers and not
            Citus; None: no limit.
        outbound: what it holds in that pool; None: it could not be read.
        outbound_pct: the fullest of these of the shared limit; None without both.
        poolinfo_host, poolinfo_port: where else the coordinator reaches it (pg_dist_poolinfo); None: nowhere else.
        verdict: ``ok``, ``near_limit`` (at warn_pct), ``at_limit`` (at 95 percent).
    """

    nodeid: int
    node: str
    max_connections: int
    reserved: int
    connections: int
    from_clients: int
    from_citus: int
    from_monitoring: int
    idle: int
    hidden: int
    used_pct: float
    shared_pool_limit: int | None
    local_pool_limit: int | None
    client_limit: int | None
    outbound: tuple[Outbound, ...] | None
    outbound_pct: float | None
    poolinfo_host: str | None
    poolinfo_port: int | None
    verdict: str


# A node that has 5 of 100 connections left loses clients at the next burst.
_AT_LIMIT_PCT = 95.0


def _limit(limits: Mapping[str, str], name: str) -> int | None:
    """A setting whose 0 and -1 mean that there is no limit; Citus puts the defaults in their place when it starts."""
    value = int(limits.get(name, -1))
    return value if value > 0 else None


def _outbound(told: Mapping[str, Any]) -> tuple[Outbound, ...] | None:
    if told["outbound"] is None:
        return None
    each = (Outbound(o["host"], o["port"], o["database"], o["connections"]) for o in told["outbound"])
    return tuple(sorted(each, key=lambda o: (o.host.encode(), o.port, o.database.encode())))


def _row(node: ClusterNode, told: Mapping[str, Any], inputs: Inputs, elsewhere: tuple[str, str] | None) -> Row:
    limits = told["limits"]
    most = int(limits["max_connections"])
    reserved = sum(int(limits[name]) for name in SUPERUSERS)
    used_pct = round(100 * told["all"] / max(1, most - reserved), 1)
    outbound = _outbound(told)
    shared = _limit(limits, "citus.max_shared_pool_size")
    fullest = max((o.connections for o in outbound), default=0) if outbound is not None else None
    outbound_pct = None if shared is None or fullest is None else round(100 * fullest / shared, 1)
    worst = max(used_pct, outbound_pct or 0.0)
    return Row(
        nodeid=node.nodeid,
        node=node.name,
        max_connections=most,
        reserved=reserved,
        connections=told["all"],
        from_clients=told["clients"],
        from_citus=told["from_citus"],
        from_monitoring=told["from_run_command"],
        idle=told["idle"],
        hidden=told["hidden"],
        used_pct=used_pct,
        shared_pool_limit=shared,
        local_pool_limit=_limit(limits, "citus.local_shared_pool_size"),
        client_limit=_limit(limits, "citus.max_client_connections"),
        outbound=outbound,
        outbound_pct=outbound_pct,
        poolinfo_host=elsewhere[0] if elsewhere else None,
        poolinfo_port=int(elsewhere[1]) if elsewhere and elsewhere[1] else None,
        verdict="at_limit" if worst >= _AT_LIMIT_PCT else "near_limit" if worst >= inputs.warn_pct else "ok",
    )


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    elsewhere = {nodeid: (host, port) for nodeid, host, port in session.rows(_POOLINFO)}
    gathered = session.on_all_nodes(_QUERY)
    rows = [_row(node, told, inputs, elsewhere.get(node.nodeid)) for node, told in gathered.rows]
    if not rows:
        raise Unavailable(Reason.NODE_UNREACHABLE, "no node answered")
    missing = []
    if any(row.hidden for row in rows):
        missing.append("who opened other roles' connections is hidden from this role: grant it pg_monitor")
    if any("citus.max_shared_pool_size" not in told["limits"] for _, told in gathered.rows):
        missing.append("citus.max_shared_pool_size is hidden from this role: grant it pg_monitor")
    unread = [row.node for row in rows if row.outbound is None]
    if unread:
        missing.append(
            "connections to other nodes need GRANT EXECUTE ON FUNCTION citus_remote_connection_stats() to this role on"
            f" {', '.join(unread)}"
        )
    return Found(
        rows, reason=Reason.INSUFFICIENT_PRIVILEGE if missing else None, message="; ".join(missing), warnings=()
    )


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    return [
        Finding(
            "pool_near_limit",
            Severity.ERROR if row.verdict == "at_limit" else Severity.WARNING,
            "node",
            row.node,
            "connections are running out",
            f"{row.connections} of {row.max_connections - row.reserved}, outbound {row.outbound_pct or 0} %",
            "use a pooler in front of it, or raise max_connections and citus.max_shared_pool_size",
        )
        for row in envelope.rows
        if row.verdict != "ok"
    ]


INSPECTOR = Inspector(
    name="citus_pool_inspector",
    summary="How many connections each node has, from whom and to whom, and how near that is to its limits",
    cost=Cost.FAN_OUT,
    least_role="pg_monitor, and EXECUTE on citus_remote_connection_stats()",
    inputs=Inputs,
    row=Row,
    ordering=("nodeid",),
    volatile=frozenset(
        {
            "connections",
            "from_clients",
            "from_citus",
            "from_monitoring",
            "idle",
            "hidden",
            "used_pct",
            "outbound",
            "outbound_pct",
        }
    ),
    sources=(
        Source(
            "pg_stat_activity",
            (
                ("datname", "name"),
                ("pid", "integer"),
                ("application_name", "text"),
                ("state", "text"),
                ("query", "text"),
                ("backend_type", "text"),
            ),
        ),
        Source("pg_settings", (("name", "text"), ("setting", "text"))),
        Source(
            "citus_remote_connection_stats",
            (
                ("hostname", "text"),
                ("port", "integer"),
                ("database_name", "text"),
                ("connection_count_to_node", "integer"),
            ),
            "function",
            note="superusers, and whom EXECUTE was granted; this node's own connections",
        ),
        Source("ts_stat", (("word", "text"),), "function", note="runs the question about connections, where allowed"),
        Source("pg_dist_poolinfo", (("nodeid", "integer"), ("poolinfo", "text"))),
    ),
    look=_look,
    severity=_severity,
)
