"""`citus_txn_inspector`: what it says becomes of a prepared transaction is what Citus' own recovery makes of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from harness.faults.nodes import node_killed
from harness.faults.transactions import commits_held, prepared, roll_back_prepared
from harness.inspectors import Reason
from harness.inspectors.contract import Severity
from harness.postgres import Server
from harness.waiting import wait_until
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_live.looks import assert_partial, findings, look, look_whole

NAME = "citus_txn_inspector"
DATABASE = "postgres"
BOTH = "UPDATE app.orders SET note = 'two' WHERE tenant_id IN (1, 2, 3, 4, 5, 6, 7, 8)"


@contextmanager
def _record(live: Standard, group: int, gid: str, outer_xid: str | None = "0") -> Iterator[None]:
    """A commit record, as the coordinator writes one; with None as one of Citus before 13.1 is after the upgrade."""
    live.cluster.sql(
        "INSERT INTO pg_dist_transaction (groupid, gid, outer_xid) VALUES (%s, %s, %s::xid8)", [group, gid, outer_xid]
    )
    try:
        yield
    finally:
        live.cluster.sql("DELETE FROM pg_dist_transaction WHERE gid = %s", [gid])


def _let_age(live: Standard) -> None:
    """Wait until what is prepared is older than a look takes: what is younger may still be committed by its session."""

    def is_old() -> bool:
        query = "SELECT coalesce(min(clock_timestamp() - prepared) > interval '3 s', true) FROM pg_prepared_xacts"
        return all(bool(node.value(query)) for node in live.cluster.nodes)

    wait_until("all that is prepared is older than a look takes", is_old, deadline_s=60)


def test_each_kind_is_told_apart_and_recovery_does_what_was_said(live: Standard) -> None:
    first, second = live.cluster.workers
    committed, aborted, nested = "citus_0_1073741824_71_1", "citus_0_1073741824_72_1", "citus_0_1073741824_73_1"
    upgraded = "citus_0_1073741824_76_1"
    of_worker, of_nobody, foreign = "citus_1_1073741824_5_1", "citus_9_1_1_1", "mine 'own'"
    with contextlib.ExitStack() as stack:
        for node, gid in (
            (first, committed),
            (second, aborted),
            (first, nested),
            (first, upgraded),
            (second, of_worker),
            (second, of_nobody),
            (first, foreign),
        ):
            stack.enter_context(prepared(node, DATABASE, gid))
        stack.enter_context(prepared(second, "template1", "citus_0_1073741824_74_1"))
        stack.enter_context(_record(live, 1, committed))
        stack.enter_context(_record(live, 1, upgraded, outer_xid=None))
        xid = live.cluster.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        stack.enter_context(_record(live, 1, nested, outer_xid=str(int(xid) + 1000)))
        _let_age(live)
        found = look_whole(live.dsn(), NAME)
        monitored = look_whole(live.dsn("mon"), NAME)
        ours = look_whole(live.dsn(), NAME, include_foreign=False)
        young = look_whole(live.dsn(), NAME, min_age_s=3600)
        states = {row.gid: row.state for row in found.rows}
        live.cluster.value("SELECT recover_prepared_transactions()")
        left = {
            gid
            for node in live.cluster.workers
            for (gid,) in node.rows("SELECT gid FROM pg_prepared_xacts WHERE database = 'postgres'")
        }
    assert states == {
        committed: "commit_pending",
        upgraded: "commit_pending",
        aborted: "rollback_pending",
        nested: "outer_pending",
        of_worker: "rollback_pending",
        of_nobody: "unknown_initiator",
        foreign: "not_citus",
        "citus_0_1073741824_74_1": "other_database",
    }
    assert {row.gid: row.state for row in monitored.rows} == states
    assert {row.gid for row in ours.rows} == {committed, upgraded, aborted, nested, of_worker, of_nobody}
    assert young.rows == ()
    assert left.isdisjoint({committed, upgraded, aborted})
    assert {of_worker, of_nobody, foreign} <= left  # none of the coordinator's business
    row = next(each for each in found.rows if each.gid == committed)
    assert (row.initiator_group, row.initiator_process, row.txn_number) == (0, 1073741824, 71)
    assert (row.node, row.database, row.owner, row.kind) == (live.node_names[1], "postgres", "postgres", "citus")
    assert [(each.nodeid, each.gid) for each in found.rows] == sorted(
        ((each.nodeid, each.gid) for each in found.rows), key=lambda key: (key[0], key[1].encode())
    )
    assert found.facts["prepared"] == dict(zip(live.node_names, (0, 4, 4), strict=True))
    assert found.facts["undecided"] == 5
    graded = findings(found)
    assert {each.rule for each in graded} == {"prepared_xact_pending", "2pc_recovery_off"}
    assert {each.severity for each in graded} == {Severity.WARNING}


def test_worker_resolves_what_it_began_itself(live: Standard) -> None:
    with prepared(live.cluster.workers[1], DATABASE, "citus_1_1073741824_5_2") as gid:
        _let_age(live)
        (row,) = look_whole(live.dsn(), NAME).rows
        assert (row.state, row.initiator_group) == ("rollback_pending", 1)
        live.cluster.workers[0].value("SELECT recover_prepared_transactions()")
        assert look_whole(live.dsn(), NAME).rows == ()
        assert live.cluster.workers[1].rows("SELECT FROM pg_prepared_xacts WHERE gid = %s", [gid]) == []


def test_commit_between_its_two_phases_is_in_flight(live: Standard) -> None:
    coordinator = live.cluster.coordinator
    assert isinstance(coordinator, Server)
    with coordinator.connect() as session:
        with commits_held(coordinator):
            thread = threading.Thread(target=lambda: session.execute(BOTH), daemon=True)
            thread.start()

            def in_flight() -> object:
                found = look(live.dsn(), NAME)
                return found if found.rows else None

            found = wait_until("a commit in its second phase", in_flight, deadline_s=20)
            hidden = look(live.dsn("plain"), NAME)
        thread.join(20)
    rows = found.rows  # type: ignore[attr-defined]
    assert {row.state for row in rows} == {"in_flight"}
    assert {row.initiator_group for row in rows} == {0}
    # Without rights its session cannot be seen, and its record is not there yet for others.
    assert {row.state for row in hidden.rows} <= {"unknown", "commit_pending"}
    assert not [each for each in findings(found) if each.rule == "prepared_xact_pending"]  # type: ignore[arg-type]
    assert look_whole(live.dsn(), NAME).rows == ()


def test_role_without_rights_never_hears_that_something_is_to_be_rolled_back(live: Standard) -> None:
    with prepared(live.cluster.workers[0], DATABASE, "citus_0_1073741824_75_1"):
        _let_age(live)
        found = look(live.dsn("plain"), NAME)
    assert_partial(found, Reason.INSUFFICIENT_PRIVILEGE, "pg_monitor")
    assert [row.state for row in found.rows] == ["unknown"]


def test_silent_initiator_leaves_its_transactions_unknown(live: Standard) -> None:
    first, second = live.cluster.workers
    with prepared(second, DATABASE, "citus_1_1073741824_6_1"):
        _let_age(live)
        with node_killed(first):
            found = look(live.dsn(), NAME)
        again = look_whole(live.dsn(), NAME)
    assert_partial(found, Reason.NODE_UNREACHABLE, live.node_names[1])
    assert [(row.node, row.state) for row in found.rows] == [(live.node_names[2], "unknown_initiator")]
    assert [row.state for row in again.rows] == ["rollback_pending"]


def test_commit_records_without_a_transaction_are_counted_and_no_more(live: Standard) -> None:
    before = look_whole(live.dsn(), NAME).facts
    live.cluster.sql(BOTH)
    after = look_whole(live.dsn(), NAME).facts
    node = live.node_names[0]
    (count,) = live.cluster.row("SELECT count(*) FROM pg_dist_transaction")
    assert after["commit_records"][node] == count > before["commit_records"][node]
    assert after["commit_records_without_transaction"][node] == count
    with contextlib.suppress(psycopg.Error):
        roll_back_prepared(live.cluster.workers[0], DATABASE, "nothing")
    assert after["undecided"] == 0
