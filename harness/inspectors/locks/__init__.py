"""`citus_lock_inspector`: who waits for whom, over all nodes, prepared transactions included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity, Source
from harness.inspectors.inputs import Listing, flag, integer
from harness.inspectors.live import (
    ACTIVITY,
    CLASSES,
    DATABASES,
    GLOBAL_PIDS,
    HIDDEN_MESSAGE,
    OWN_GPID,
    PREPARED,
    SCHEMAS,
    is_hidden,
    shown,
    statement_mode,
    steps,
)
from harness.inspectors.locks.graph import Wait, fetch_waits
from harness.inspectors.redaction import Redactor
from harness.inspectors.session import Session

# Waits are told in these steps, so that two looks have one order.
STEP_MS = 100
# As log_lock_waits has it, a wait of a second is news; nobody waits half a minute on purpose.
WARNING_MS, ERROR_MS = 1_000, 30_000
# Of what a blocker holds, so many relations are named.
_MOST_HELD = 20


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which waits, and how much of them."""

    min_wait_ms: int = integer(0, 0, 86_400_000, "leave out waits that are shorter, in milliseconds")
    include_locks: bool = flag(False, "name the relations, at most 20, of which a blocker holds a lock there")
    statements: str = statement_mode()


@dataclass(frozen=True)
class Row:
    """One waits for another; who waits for two is two rows.

    Attributes:
        depth: 1 where the blocker waits for nobody, 2 where it waits for such a one, ..; None in a circle, which ends
            by itself after ``deadlock_timeout`` on one node, and by Citus' daemon over several.
        is_root: whether the blocker waits for nobody: ending it lets others go on.
        wait_ms: how long, in steps of 100 ms.
        waiter_gpid, waiter_node: Citus' global process id, and where its client began; None for a session that began
            before its node knew its own number.
        waiter_database, waiter_user, waiter_app, waiter_state, waiter_query_id, waiter_query: of that session.
        blocker_kind: ``session`` or ``prepared``: a transaction that was prepared, and that nobody works for.
        blocker_gpid: None for what is prepared.
        blocker_node, blocker_database, blocker_user, blocker_app, blocker_state, blocker_query_id, blocker_query:
            of it; the state of what is prepared is ``prepared``.
        blocker_xact_ms: how long its transaction is open, in steps of 100 ms.
        prepared_gid: the name of what is prepared.
        node_of_conflict: where the lock is.
        locktype, mode: what is waited for.
        schema, relation: of the lock, or of the row that it is about, as the node has it; None for another database's.
        shardid, table_schema, table: what it is a shard of.
        held: with ``include_locks``: what the blocker holds there.
    """

    depth: int | None
    is_root: bool
    wait_ms: int | None
    waiter_gpid: int | None
    waiter_node: str | None
    waiter_database: str | None
    waiter_user: str | None
    waiter_app: str | None
    waiter_state: str | None
    waiter_query_id: int | None
    waiter_query: str | None
    blocker_kind: str
    blocker_gpid: int | None
    blocker_node: str | None
    blocker_database: str | None
    blocker_user: str | None
    blocker_app: str | None
    blocker_state: str | None
    blocker_query_id: int | None
    blocker_query: str | None
    blocker_xact_ms: int | None
    prepared_gid: str | None
    node_of_conflict: str
    locktype: str
    mode: str
    schema: str | None
    relation: str | None
    shardid: int | None
    table_schema: str | None
    table: str | None
    held: tuple[str, ...] = ()


def _row(wait: Wait, redactor: Redactor, mode: str) -> Row:
    waiter, blocker, seen = wait.waiter, wait.blocker, wait.seen
    is_session = blocker.gpid is not None
    held: Sequence[str] = seen["held"] or ()
    return Row(
        depth=wait.depth,
        is_root=wait.depth == 1,
        wait_ms=steps(seen["wait_ms"], STEP_MS),
        waiter_gpid=waiter.gpid,
        waiter_node=waiter.node.name if waiter.node else None,
        waiter_database=waiter.told.get("database"),
        waiter_user=waiter.told.get("user"),
        waiter_app=waiter.told.get("app"),
        waiter_state=waiter.told.get("state"),
        waiter_query_id=waiter.told.get("query_id"),
        waiter_query=shown(redactor, waiter.told, mode),
        blocker_kind="session" if is_session else "prepared",
        blocker_gpid=blocker.gpid,
        blocker_node=blocker.node.name if blocker.node else None,
        blocker_database=blocker.told.get("database"),
        blocker_user=blocker.told.get("user"),
        blocker_app=blocker.told.get("app"),
        blocker_state=blocker.told.get("state") if is_session else "prepared",
        blocker_query_id=blocker.told.get("query_id"),
        blocker_query=shown(redactor, blocker.told, mode),
        blocker_xact_ms=steps(blocker.told.get("xact_ms"), STEP_MS),
        prepared_gid=blocker.gid,
        node_of_conflict=wait.node.name,
        locktype=seen["locktype"],
        mode=seen["mode"],
        schema=seen["schema"],
        relation=seen["relation"],
        shardid=seen["shardid"],
        table_schema=seen["table_schema"],
        table=seen["table"],
        held=tuple(sorted(held)[:_MOST_HELD]),
    )


def _told(waits: Sequence[Wait]) -> list[Mapping[str, Any]]:
    return [actor.told for wait in waits for actor in (wait.waiter, wait.blocker)]


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    waits = fetch_waits(session, wants_held=inputs.include_locks)
    rows = [_row(wait, session.redactor, inputs.statements) for wait in waits]
    roots = sorted({row.blocker_gpid for row in rows if row.is_root and row.blocker_gpid is not None})
    facts = {
        "waiters": len({wait.waiter.key for wait in waits}),
        "root_sessions": len(roots),
        "root_prepared": len({wait.blocker.key for wait in waits if wait.depth == 1 and wait.blocker.gpid is None}),
        "in_a_circle": len({wait.waiter.key for wait in waits if wait.depth is None}),
    }
    hidden = is_hidden(_told(waits))
    return Found(
        [row for row in rows if (row.wait_ms or 0) >= inputs.min_wait_ms],
        reason=Reason.INSUFFICIENT_PRIVILEGE if hidden else None,
        message=f"{HIDDEN_MESSAGE}; one session is shown as another one on each node" if hidden else "",
        facts=facts,
    )


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    found = []
    for row in envelope.rows:
        if not row.is_root or row.wait_ms is None or row.wait_ms < WARNING_MS:
            continue
        is_prepared = row.blocker_kind == "prepared"
        blocker = f"prepared transaction {row.prepared_gid}" if is_prepared else f"session {row.blocker_gpid}"
        found.append(
            Finding(
                "lock_wait",
                Severity.ERROR if is_prepared or row.wait_ms >= ERROR_MS else Severity.WARNING,
                "transaction" if is_prepared else "session",
                f"{blocker} on {row.blocker_node or row.node_of_conflict}",
                f"{blocker} keeps session {row.waiter_gpid} waiting for a {row.locktype} on {row.node_of_conflict}",
                f"for {row.wait_ms // 1000} s",
                "decide it: recover_prepared_transactions() for Citus' own, else COMMIT PREPARED or ROLLBACK PREPARED"
                if is_prepared
                else "end its transaction, or pg_terminate_backend() on its node",
            )
        )
    return found


INSPECTOR = Inspector(
    name="citus_lock_inspector",
    summary="Who waits for whom, over all nodes, for transactions that were prepared and left behind too",
    cost=Cost.FAN_OUT,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    ordering=(
        "depth",
        "-wait_ms",
        "waiter_gpid",
        "blocker_gpid",
        "prepared_gid",
        "node_of_conflict",
        "locktype",
        "mode",
        "schema",
        "relation",
    ),
    volatile=frozenset({"wait_ms", "waiter_gpid", "blocker_gpid", "blocker_xact_ms"}),
    sources=(
        ACTIVITY,
        GLOBAL_PIDS,
        OWN_GPID,
        PREPARED,
        CLASSES,
        SCHEMAS,
        DATABASES,
        Source(
            "pg_locks",
            (
                ("locktype", "text"),
                ("database", "oid"),
                ("relation", "oid"),
                ("page", "integer"),
                ("tuple", "smallint"),
                ("virtualxid", "text"),
                ("transactionid", "xid"),
                ("classid", "oid"),
                ("objid", "oid"),
                ("objsubid", "smallint"),
                ("virtualtransaction", "text"),
                ("pid", "integer"),
                ("mode", "text"),
                ("granted", "boolean"),
                ("waitstart", "timestamp with time zone"),
            ),
        ),
        Source("pg_blocking_pids", (("returns", "integer[]"),), "function", note="0 stands for what is prepared"),
        Source("pg_dist_shard", (("logicalrelid", "regclass"), ("shardid", "bigint"))),
        Source("shard_name", (("returns", "text"),), "function"),
    ),
    look=_look,
    severity=_severity,
)
