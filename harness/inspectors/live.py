"""What the live inspectors share: how a session is known in the whole cluster, and what is told of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from psycopg import sql

from harness.inspectors.contract import Source
from harness.inspectors.inputs import choice
from harness.inspectors.redaction import Redactor, StatementMode

if TYPE_CHECKING:
    from harness.inspectors.fan_out import ClusterNode

# A global pid is the node's id times this, plus the process id (GLOBAL_PID_NODE_ID_MULTIPLIER in Citus'
# backend_data.h).
GPID_NODE = 10**10
# The node id of sessions that began before their node knew its own: the first clients of a new cluster, and Citus'
# daemons with the connections that they open.
UNKNOWN_NODE = 99_999_999
# What pg_stat_activity has for the statement of somebody else's session where the reader is no pg_monitor.
HIDDEN = "<insufficient privilege>"
HIDDEN_MESSAGE = "other roles' sessions are hidden from this role: grant it pg_monitor"
# Of a statement, so much crosses the network: shown are 200 characters, after comments and literals have gone.
STATEMENT_CHARACTERS = 400

ACTIVITY = Source(
    "pg_stat_activity",
    (
        ("datname", "name"),
        ("pid", "integer"),
        ("usename", "name"),
        ("application_name", "text"),
        ("xact_start", "timestamp with time zone"),
        ("query_start", "timestamp with time zone"),
        ("leader_pid", "integer"),
        ("backend_xid", "xid"),
        ("state", "text"),
        ("wait_event_type", "text"),
        ("wait_event", "text"),
        ("query_id", "bigint"),
        ("query", "text"),
        ("backend_type", "text"),
    ),
    note="text, state and application need pg_monitor for sessions of others",
)
GLOBAL_PIDS = Source(
    "get_all_active_transactions",
    (
        ("process_id", "integer"),
        ("worker_query", "boolean"),
        ("transaction_number", "bigint"),
        ("global_pid", "bigint"),
    ),
    "function",
    note="of this node; of other roles' sessions only with pg_monitor",
)
OWN_GPID = Source("citus_backend_gpid", (("returns", "bigint"),), "function")
PREPARED = Source(
    "pg_prepared_xacts",
    (
        ("transaction", "xid"),
        ("gid", "text"),
        ("prepared", "timestamp with time zone"),
        ("owner", "name"),
        ("database", "name"),
    ),
    note="of all databases of the node",
)

CLASSES = Source(
    "pg_class", (("oid", "oid"), ("relname", "name"), ("relnamespace", "oid")), note="of this node, shards included"
)
SCHEMAS = Source("pg_namespace", (("oid", "oid"), ("nspname", "name")))
DATABASES = Source("pg_database", (("oid", "oid"), ("datname", "name")))

# What is told of a session; `a` is pg_stat_activity, `t` what Citus knows of the same process.
SESSION_FIELDS = sql.SQL(
    "'pid', a.pid, 'gpid', t.global_pid, 'is_worker', t.worker_query, 'database', a.datname, 'user', a.usename,"
    " 'app', a.application_name, 'type', a.backend_type, 'state', a.state, 'wait_type', a.wait_event_type,"
    " 'wait_event', a.wait_event,"
    " 'query_ms', extract(epoch FROM clock_timestamp() - a.query_start) * 1000,"
    " 'xact_ms', extract(epoch FROM clock_timestamp() - a.xact_start) * 1000,"
    " 'query_id', a.query_id, 'query', left(a.query, {})"
).format(sql.Literal(STATEMENT_CHARACTERS))


def statement_mode() -> Any:
    """The input that says how much of a statement is shown."""
    return choice(
        "fingerprint",
        ("fingerprint", "truncated"),
        "of statements: the command alone, or the text without literals and comments",
    )


def shown(redactor: Redactor, told: Mapping[str, Any], mode: str) -> str | None:
    """A session's statement as it may be shown; None where it is hidden from this role or there is none.

    Args:
        redactor: the session's.
        told: of a session, as `SESSION_FIELDS` has it.
        mode: as `statement_mode` takes it.
    """
    query = told.get("query")
    if not query or query == HIDDEN:
        return None
    wanted: StatementMode = "truncated" if mode == "truncated" else "fingerprint"
    return redactor.statement(str(query), wanted)


def is_hidden(told: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of these sessions does not show this role what it does."""
    return any(each.get("query") == HIDDEN for each in told)


def global_pid(node: ClusterNode, told: Mapping[str, Any]) -> int:
    """The session's number in the whole cluster; made of node and process where Citus gave it none yet."""
    given = told.get("gpid")
    return int(given) if given else node.nodeid * GPID_NODE + int(told["pid"])


def origin(gpid: int, nodes: Iterable[ClusterNode]) -> ClusterNode | None:
    """The node whose client began what has this number; None where it is not known (see `UNKNOWN_NODE`)."""
    return next((node for node in nodes if node.nodeid == gpid // GPID_NODE), None)


def steps(value: float | None, step: int) -> int | None:
    """Rounded down to whole steps, so that the order does not tremble."""
    return None if value is None else max(0, int(value // step) * step)
