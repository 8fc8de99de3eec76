"""`citus_activity`: what the sessions of the whole cluster do, each with its backends on the workers folded in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from harness.inspectors.contract import Cost, Found, Inspector, Reason
from harness.inspectors.fan_out import ClusterNode
from harness.inspectors.inputs import Listing, choice, flag, integer
from harness.inspectors.live import (
    ACTIVITY,
    GLOBAL_PIDS,
    HIDDEN,
    HIDDEN_MESSAGE,
    OWN_GPID,
    SESSION_FIELDS,
    global_pid,
    is_hidden,
    origin,
    shown,
    statement_mode,
    steps,
)
from harness.inspectors.redaction import Redactor
from harness.inspectors.session import Session

# Transactions are told in whole seconds, so that two looks have one order.
STEP_MS = 1_000
STATES = ("active", "idle in transaction", "idle in transaction (aborted)", "idle", "fastpath function call")

# What citus_stat_activity asks every node (its function citus_stat_activity() is this fan-out), asked by ourselves: the
# view drops a node that does not answer with a warning. Kept are sessions and the executors of background tasks, which
# have no state; a session that is hidden from this role has no kind either.
_QUERY = sql.SQL("""
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object({session}))
    FROM pg_catalog.pg_stat_activity a
    LEFT JOIN pg_catalog.get_all_active_transactions() t ON t.process_id = a.pid
    WHERE t.global_pid IS DISTINCT FROM pg_catalog.citus_backend_gpid()
      AND a.pid <> pg_catalog.pg_backend_pid()
      AND a.leader_pid IS NULL
      AND (a.state IS NOT NULL
           OR a.backend_type LIKE 'Citus Background Task Queue Executor%'
           OR a.backend_type LIKE 'Citus Maintenance Daemon%'
           OR (a.query = {hidden} AND a.datname IS NOT NULL))
""").format(session=SESSION_FIELDS, hidden=sql.Literal(HIDDEN))
_DAEMON = "Citus Maintenance Daemon"


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which sessions, and how much of them."""

    state: str | None = choice(None, STATES, "only sessions in this state")
    min_duration_ms: int = integer(0, 0, 31_536_000_000, "only what runs, or has a transaction open, for so long")
    include_idle: bool = flag(False, "sessions that do nothing as well")
    include_workers: bool = flag(False, "a row for each backend that works for a session of another node, too")
    statements: str = statement_mode()


@dataclass(frozen=True)
class Row:
    """A session, or with ``include_workers`` a backend that works for one.

    Attributes:
        gpid: Citus' global process id; the backends that work for a session have the session's.
        nodeid, node: where this process is.
        pid: of it, on its node.
        is_worker: whether it works for a session elsewhere. Without ``include_workers`` such a row stands only for a
            session that was not seen, as its node did not answer.
        database, user, app, backend_type: as pg_stat_activity has them.
        state: None for an executor of background tasks, and for what is hidden from this role.
        wait_type, wait_event: what the process itself waits for; a session whose workers work waits for its client or
            for them.
        query_ms: how long its statement runs; None where none does.
        xact_ms: how long its transaction is open, in whole seconds, as milliseconds.
        worker_backends: how many backends hold a transaction open or run a statement for it, on all nodes.
        worker_idle: how many connections Citus keeps for it.
        worker_wait: what one of them waits for, and where: a lock, if there is one.
        query_id, query: its statement; the last one where it is idle.
    """

    gpid: int
    nodeid: int
    node: str
    pid: int
    is_worker: bool
    database: str | None
    user: str | None
    app: str | None
    backend_type: str | None
    state: str | None
    wait_type: str | None
    wait_event: str | None
    query_ms: int | None
    xact_ms: int | None
    worker_backends: int
    worker_idle: int
    worker_wait: str | None
    query_id: int | None
    query: str | None


@dataclass(frozen=True)
class _Backend:
    """A process of a node, and what is told of it."""

    node: ClusterNode
    gpid: int
    told: Mapping[str, Any]

    @property
    def is_busy(self) -> bool:
        return self.told["state"] not in {"idle", None}


def _worker_wait(workers: Sequence[_Backend]) -> str | None:
    # Whoever waits for its client has nothing to do.
    waiting = [each for each in workers if each.is_busy and each.told["wait_type"] not in {None, "Client"}]
    if not waiting:
        return None
    first = min(waiting, key=lambda each: (each.told["wait_type"] != "Lock", each.node.groupid, each.told["pid"]))
    return f"{first.told['wait_type']}/{first.told['wait_event']} on {first.node.name}"


def _row(backend: _Backend, workers: Sequence[_Backend], redactor: Redactor, mode: str) -> Row:
    told = backend.told
    # query_start of an idle session is that of its last statement.
    runs = told["state"] == "active"
    return Row(
        gpid=backend.gpid,
        nodeid=backend.node.nodeid,
        node=backend.node.name,
        pid=told["pid"],
        is_worker=bool(told["is_worker"]),
        database=told["database"],
        user=told["user"],
        app=told["app"],
        backend_type=told["type"],
        state=told["state"],
        wait_type=told["wait_type"],
        wait_event=told["wait_event"],
        query_ms=steps(told["query_ms"], 1) if runs else None,
        xact_ms=steps(told["xact_ms"], STEP_MS),
        worker_backends=sum(each.is_busy for each in workers),
        worker_idle=sum(not each.is_busy for each in workers),
        worker_wait=_worker_wait(workers),
        query_id=told["query_id"],
        query=shown(redactor, told, mode),
    )


def _fold(backends: Iterable[_Backend], nodes: Sequence[ClusterNode]) -> list[tuple[_Backend, list[_Backend]]]:
    """Each session with its workers; workers whose session was not seen stand for it, the busiest first."""
    by_gpid: dict[int, list[_Backend]] = {}
    for each in backends:
        by_gpid.setdefault(each.gpid, []).append(each)
    folded = []
    for gpid, members in by_gpid.items():
        begun = [each for each in members if not each.told["is_worker"]]
        workers = [each for each in members if each.told["is_worker"]]
        if not begun:
            home = origin(gpid, nodes)
            workers.sort(key=lambda each: (not each.is_busy, each.node != home, each.node.groupid, each.told["pid"]))
            begun = [workers.pop(0)]
        # Two sessions that began before their nodes knew their numbers can have one gpid.
        folded += [(each, workers if at == 0 else []) for at, each in enumerate(begun)]
    return folded


def _is_wanted(row: Row, inputs: Inputs) -> bool:
    if inputs.state is not None:
        if row.state != inputs.state:
            return False
    elif not inputs.include_idle and row.state == "idle":
        return False
    return max(row.query_ms or 0, row.xact_ms or 0) >= inputs.min_duration_ms


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    gathered = session.on_all_nodes(_QUERY)
    seen = [_Backend(node, global_pid(node, told), told) for node, told in gathered.rows]
    # Citus' daemons, and what they opened on other nodes, are not what anybody does.
    daemons = {each.gpid for each in seen if (each.told["type"] or "").startswith(_DAEMON)}
    backends = [each for each in seen if each.gpid not in daemons]
    rows = []
    for backend, workers in _fold(backends, session.nodes):
        rows.append(_row(backend, workers, session.redactor, inputs.statements))
        if inputs.include_workers:
            rows += [_row(each, (), session.redactor, inputs.statements) for each in workers]
    states = Counter(each.told["state"] or "unknown" for each in backends if not each.told["is_worker"])
    facts = {
        "sessions": sum(states.values()),
        "sessions_by_state": dict(sorted(states.items())),
        "worker_backends": sum(bool(each.told["is_worker"]) for each in backends),
    }
    hidden = is_hidden(each.told for each in backends)
    return Found(
        [row for row in rows if _is_wanted(row, inputs)],
        reason=Reason.INSUFFICIENT_PRIVILEGE if hidden else None,
        message=HIDDEN_MESSAGE if hidden else "",
        facts=facts,
    )


INSPECTOR = Inspector(
    name="citus_activity",
    summary="What the sessions of the whole cluster do, and what the workers do for them",
    cost=Cost.FAN_OUT,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    ordering=("-xact_ms", "gpid", "nodeid", "pid"),
    volatile=frozenset(
        {
            "gpid",
            "pid",
            "query_ms",
            "xact_ms",
            "wait_type",
            "wait_event",
            "worker_wait",
            "worker_idle",
            "sessions",
            "sessions_by_state",
            "worker_backends",
        }
    ),
    sources=(ACTIVITY, GLOBAL_PIDS, OWN_GPID),
    look=_look,
)
