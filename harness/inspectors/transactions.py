"""`citus_txn_inspector`: transactions that are prepared and not decided, on every node, and what becomes of them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity, Source, Unavailable
from harness.inspectors.fan_out import ClusterNode, Gathered
from harness.inspectors.inputs import Listing, flag, integer
from harness.inspectors.live import PREPARED
from harness.inspectors.session import Session

# Citus' own names: citus_<group that began it>_<its process>_<number of the transaction>_<connection>
# (BuildTransactionIdentifier in transaction_recovery.c).
_CITUS_GID = re.compile(r"citus_(?P<group>\d+)_(?P<process>\d+)_(?P<number>\d+)_(?P<connection>\d+)")
# What Citus' daemon leaves for so long, it does not resolve: it comes every minute by default.
STALE_S = 300
# So many commit records are named by each node; its daemon deletes those whose transactions are decided.
_MOST_RECORDS = 5_000
_QUERY = sql.SQL("""
    SELECT pg_catalog.json_build_array(pg_catalog.json_build_object(
        'prepared', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'gid', x.gid, 'database', x.database, 'owner', x.owner, 'prepared', x.prepared AT TIME ZONE 'UTC',
                'age_s', extract(epoch FROM pg_catalog.clock_timestamp() - x.prepared)))
            FROM pg_catalog.pg_prepared_xacts x),
        'records', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.groupid, r.gid, r.outer_xid::text))
            FROM (SELECT * FROM pg_catalog.pg_dist_transaction r ORDER BY r.groupid, r.gid LIMIT {most}) r),
        'record_count', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_transaction r),
        'active', (
            SELECT pg_catalog.json_agg(DISTINCT t.transaction_number)
            FROM pg_catalog.get_all_active_transactions() t
            WHERE NOT t.worker_query AND t.transaction_number > 0),
        'sees_all', pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'),
        'max_prepared', pg_catalog.current_setting('max_prepared_transactions')::integer))
""").format(most=sql.Literal(_MOST_RECORDS))

_ACTIONS = {
    "in_flight": "wait: its session is committing it",
    "commit_pending": "it is committed: recover_prepared_transactions() on the node of its group finishes it",
    "rollback_pending": "it never committed: recover_prepared_transactions() on the node of its group undoes it",
    "outer_pending": "it hangs on another transaction of the node that began it: that one's end decides",
    "other_database": "look from its own database: its commit records are there",
    "unknown_initiator": "leave it: the node that knows whether it committed did not answer, or is not of this cluster",
    "unknown": "leave it: what is being committed is hidden from this role; grant it pg_monitor",
    "not_citus": "Citus never touches it: COMMIT PREPARED or ROLLBACK PREPARED by whoever prepared it",
}


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which prepared transactions."""

    min_age_s: int = integer(0, 0, 31_536_000, "leave out what was prepared less than so many seconds ago")
    include_foreign: bool = flag(True, "those that are not Citus', or of another database, too")


@dataclass(frozen=True)
class Row:
    """A prepared transaction.

    Attributes:
        nodeid, node: where it is prepared, and holds its locks.
        gid: its name.
        kind: ``citus`` by its name, else ``other``.
        initiator_group, initiator_process, txn_number: the group of the node that began it, the process there, and its
            number; None for another kind.
        database, owner: as pg_prepared_xacts has them.
        prepared_at, age_s: since when.
        state: in_flight, commit_pending, rollback_pending, outer_pending, other_database, unknown_initiator, unknown,
            not_citus.
        action: what to do; nothing is done by us.
    """

    nodeid: int
    node: str
    gid: str
    kind: str
    initiator_group: int | None
    initiator_process: int | None
    txn_number: int | None
    database: str
    owner: str
    prepared_at: str
    age_s: int
    state: str
    action: str


@dataclass(frozen=True)
class _Initiator:
    """What the node that began transactions knows of them."""

    # By group and name: the transaction that it hangs on; None in a record that a Citus before 13.1 wrote.
    records: Mapping[tuple[int, str], str | None]
    record_count: int
    active: frozenset[int]
    sees_all: bool


def _initiators(gathered: Gathered) -> dict[int, _Initiator]:
    return {
        node.groupid: _Initiator(
            {(group, gid): outer for group, gid, outer in told["records"] or ()},
            told["record_count"],
            frozenset(told["active"] or ()),
            bool(told["sees_all"]),
        )
        for node, told in gathered.rows
    }


def _state(node: ClusterNode, gid: str, number: int, initiator: _Initiator | None, *, is_new: bool) -> str:
    """As Citus' own recovery decides (RecoverWorkerTransactions): a record commits, unless it is just being made."""
    if initiator is None:
        return "unknown_initiator"
    if number in initiator.active or is_new:
        return "in_flight"
    record = (node.groupid, gid)
    if record in initiator.records:
        return "commit_pending" if initiator.records[record] in {None, "0"} else "outer_pending"
    if len(initiator.records) < initiator.record_count:
        return "unknown_initiator"
    return "rollback_pending" if initiator.sees_all else "unknown"


def _row(
    node: ClusterNode,
    told: Mapping[str, Any],
    database: str,
    initiators: Mapping[int, _Initiator],
    elapsed_s: float,
) -> Row:
    gid = str(told["gid"])
    named = _CITUS_GID.fullmatch(gid)
    if named is None:
        state = "not_citus"
    elif told["database"] != database:
        state = "other_database"
    else:
        # What was prepared while we asked may be unknown to a node that answered before.
        is_new = told["age_s"] < elapsed_s
        state = _state(node, gid, int(named["number"]), initiators.get(int(named["group"])), is_new=is_new)
    return Row(
        nodeid=node.nodeid,
        node=node.name,
        gid=gid,
        kind="other" if named is None else "citus",
        initiator_group=None if named is None else int(named["group"]),
        initiator_process=None if named is None else int(named["process"]),
        txn_number=None if named is None else int(named["number"]),
        database=told["database"],
        owner=told["owner"],
        prepared_at=datetime.fromisoformat(told["prepared"]).isoformat(timespec="milliseconds") + "Z",
        age_s=max(0, int(told["age_s"])),
        state=state,
        action=_ACTIONS[state],
    )


def _facts(gathered: Gathered, rows: Sequence[Row]) -> dict[str, Any]:
    pending = {(node.groupid, each["gid"]) for node, told in gathered.rows for each in told["prepared"] or ()}
    return {
        "prepared": {node.name: len(told["prepared"] or ()) for node, told in gathered.rows},
        "max_prepared_transactions": {node.name: told["max_prepared"] for node, told in gathered.rows},
        "commit_records": {node.name: told["record_count"] for node, told in gathered.rows},
        "commit_records_without_transaction": {
            node.name: sum((group, gid) not in pending for group, gid, _ in told["records"] or ())
            for node, told in gathered.rows
        },
        "undecided": sum(row.state in {"commit_pending", "rollback_pending", "outer_pending"} for row in rows),
    }


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    started = time.monotonic()
    gathered = session.on_all_nodes(_QUERY)
    elapsed_s = time.monotonic() - started
    if not gathered.rows:
        raise Unavailable(Reason.NODE_UNREACHABLE, "no node answered")
    initiators = _initiators(gathered)
    rows = [
        _row(node, each, session.database, initiators, elapsed_s)
        for node, told in gathered.rows
        for each in told["prepared"] or ()
    ]
    interval = session.settings("citus.recover_2pc_interval")["citus.recover_2pc_interval"]
    is_off = interval == "-1"
    hidden = any(row.state == "unknown" for row in rows)
    many = [node.name for node, told in gathered.rows if told["record_count"] > _MOST_RECORDS]
    warnings = [f"{name} keeps more than {_MOST_RECORDS} commit records: is its recovery running?" for name in many]
    if is_off:
        warnings.append("citus.recover_2pc_interval is -1: nobody resolves what is left prepared")
    return Found(
        [
            row
            for row in rows
            if row.age_s >= inputs.min_age_s
            and (inputs.include_foreign or row.state not in {"not_citus", "other_database"})
        ],
        reason=Reason.INSUFFICIENT_PRIVILEGE if hidden else None,
        message="which transactions are being committed is hidden from this role: grant it pg_monitor"
        if hidden
        else "",
        warnings=tuple(warnings),
        facts={**_facts(gathered, rows), "recovery_interval": interval, "is_recovery_off": is_off},
    )


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    found = [
        Finding(
            "prepared_xact_pending",
            Severity.ERROR if row.age_s >= STALE_S else Severity.WARNING,
            "transaction",
            f"{row.gid} on {row.node}",
            f"it is prepared and {row.state.replace('_', ' ')}, and holds its locks and the horizon of vacuum",
            f"for {row.age_s // 60} min",
            row.action,
        )
        for row in envelope.rows
        if row.state != "in_flight"
    ]
    if envelope.facts.get("is_recovery_off"):
        found.append(
            Finding(
                "2pc_recovery_off",
                Severity.WARNING if envelope.facts["undecided"] else Severity.INFO,
                "cluster",
                "citus.recover_2pc_interval",
                "nobody resolves what commits leave prepared when a node dies between their two phases",
                f"{envelope.facts['undecided']} undecided",
                "set citus.recover_2pc_interval to 1min on the coordinator",
            )
        )
    return found


INSPECTOR = Inspector(
    name="citus_txn_inspector",
    summary="Transactions that are prepared and not decided, on every node, and what is to become of each",
    cost=Cost.FAN_OUT,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    ordering=("nodeid", "gid"),
    volatile=frozenset({"age_s", "commit_records", "commit_records_without_transaction"}),
    sources=(
        PREPARED,
        Source("pg_dist_transaction", (("groupid", "integer"), ("gid", "text"), ("outer_xid", "xid8"))),
        Source(
            "get_all_active_transactions",
            (("worker_query", "boolean"), ("transaction_number", "bigint")),
            "function",
            note="of this node; of other roles' sessions only with pg_monitor",
        ),
        Source("max_prepared_transactions", kind="setting"),
        Source("citus.recover_2pc_interval", kind="setting"),
    ),
    look=_look,
    severity=_severity,
)
