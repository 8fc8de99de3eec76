"""Harnesses of their own that meet at one stream table: frozen, killed, at once, waiting, in two sessions."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import Counter

import pytest

from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.coordination.clients import (
    client,
    completed,
    documents,
    held_before_its_commit,
    refresh_from_two,
    set_lock_timeout,
    st,
    wait_for_refresh_before_its_commit,
    wait_for_session_end,
)
from scenarios.coordination.stages import change, prepare


def _freeze_and_go_on(node: Node, *, has_leases: bool) -> None:
    set_lock_timeout(node, "2s")
    change(node)
    with contextlib.ExitStack() as stack:
        with held_before_its_commit(node):
            frozen = stack.enter_context(client(st("refresh", "balances", "--json"), node.dsn()))
            session = wait_for_refresh_before_its_commit(node)
            frozen.freeze()
            begun = time.monotonic()
        change(node)
        with node.connect() as connection, StreamTables(connection) as tables:
            # Its server process is not frozen: it has done all and waits for the COMMIT, with its locks.
            done = tables.refresh("balances", wait_s=30)
            elapsed_s = time.monotonic() - begun
            print(f"harness frozen (lock_timeout 2 s), to the next right refresh: {elapsed_s:.2f} s")  # noqa: T201
            assert done.action == "DIFFERENTIAL"
            assert done.change_count == 2, "what the frozen one took and did not commit is taken again"
            assert tables.leases.takeovers == int(has_leases)
            assert_equal(connection, "balances")
            wait_for_session_end(node, session, deadline_s=10)
            frozen.thaw()
            code, out, complaint = frozen.end()
            assert (code, out) == (3, ""), complaint
            assert "error" in complaint
            assert "Traceback" not in complaint
            assert_equal(connection, "balances")
            assert tables.refresh("balances").action == "NO_DATA"
    assert [row[0] for row in completed(node, "balances")] == ["FULL", "DIFFERENTIAL", "NO_DATA"]
    assert node.value("SELECT sum(n) FROM balances") == node.value("SELECT count(*) FROM entries") == 202


def test_frozen_client_loses_its_lock_and_cannot_commit_on_postgresql(database: Node) -> None:
    prepare(database, is_distributed=False)
    _freeze_and_go_on(database, has_leases=False)


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log(
    "terminating connection due to administrator command", "the session that lost its lease is ended"
)
@pytest.mark.allow_log("idle-in-transaction timeout", "the frozen session may be ended by the server first")
def test_frozen_client_loses_its_lease_and_cannot_commit_on_a_cluster(citus_database: Cluster) -> None:
    prepare(citus_database.coordinator, is_distributed=True)
    _freeze_and_go_on(citus_database.coordinator, has_leases=True)


def _kill_and_go_on(node: Node) -> float:
    change(node)
    with contextlib.ExitStack() as stack:
        with held_before_its_commit(node):
            killed = stack.enter_context(client(st("refresh", "balances"), node.dsn()))
            wait_for_refresh_before_its_commit(node)
            killed.kill()
            begun = time.monotonic()
        with node.connect() as connection, StreamTables(connection) as tables:
            done = tables.refresh("balances", wait_s=30)
            elapsed_s = time.monotonic() - begun
            assert (done.action, done.change_count) == ("DIFFERENTIAL", 1)
            assert_equal(connection, "balances")
    assert [row[0] for row in completed(node, "balances")] == ["FULL", "DIFFERENTIAL"]
    print(f"harness killed, to the next right refresh: {elapsed_s:.2f} s")  # noqa: T201
    return elapsed_s


def test_killed_harness_is_followed_at_once_on_postgresql(database: Node) -> None:
    prepare(database, is_distributed=False)
    assert _kill_and_go_on(database) < 15


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log("connection to client lost|could not (send|receive) data", "the client was killed")
def test_killed_harness_is_followed_at_once_on_a_cluster(citus_database: Cluster) -> None:
    prepare(citus_database.coordinator, is_distributed=True)
    assert _kill_and_go_on(citus_database.coordinator) < 15, "its lease had ten minutes to go"


def _meet_many_times(node: Node, *, count: int, wait_s: float) -> None:
    ended = refresh_from_two(node, count=count, wait_s=wait_s)
    assert [code for code, _, _ in ended] == [0, 0], ended
    actions = Counter(document["action"] for _, out, _ in ended for document in documents(out))
    assert actions.total() - actions["LOCKED"] == 2 * count
    # Each had an entry of its own; what another refresh took with it needs none.
    assert actions["DIFFERENTIAL"] >= count, actions
    if wait_s:
        assert actions["LOCKED"] == 0
    else:
        assert actions["LOCKED"] > 0, "they met"
    assert actions["REINITIALIZE"] == actions["FULL"] == 0
    with node.connect() as connection, StreamTables(connection) as tables:
        tables.refresh("balances")
        assert_equal(connection, "balances")
    rows = completed(node, "balances")
    assert len(rows) == 2 + sum(actions.values()) - actions["LOCKED"]
    # Each began when it had the right to, and ended before it gave it back: no two of them overlap.
    overlaps = [(before, after) for before, after in itertools.pairwise(rows) if after[1] < before[2]]
    assert overlaps == []
    assert node.value("SELECT sum(n) FROM balances") == node.value("SELECT count(*) FROM entries")


@pytest.mark.parametrize("wait_s", [0, 30])
def test_two_processes_refresh_one_table_many_times_on_postgresql(database: Node, wait_s: float) -> None:
    prepare(database, is_distributed=False)
    _meet_many_times(database, count=60, wait_s=wait_s)


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("wait_s", [0, 30])
def test_two_processes_refresh_one_table_many_times_on_a_cluster(citus_database: Cluster, wait_s: float) -> None:
    prepare(citus_database.coordinator, is_distributed=True)
    _meet_many_times(citus_database.coordinator, count=40, wait_s=wait_s)


def _one_skips_one_waits(node: Node) -> None:
    change(node)
    with contextlib.ExitStack() as stack, node.connect() as connection, StreamTables(connection) as tables:
        connection.execute("SET application_name = 'harness first'")
        with tables.leases.held(tables.list()[0].pgt_id, "balances"):
            with client(st("refresh", "balances", "--json"), node.dsn()) as second:
                code, out, complaint = second.end()
            assert (code, out) == (2, "")
            assert "balances is being refreshed or changed by" in complaint
            assert "harness first" in complaint, "who has it is named"
            assert "--wait" in complaint
            with client(st("refresh", "balances", "--wait", "0.5"), node.dsn()) as third:
                code, _, complaint = third.end()
            assert code == 2
            assert "waited 0.5 s" in complaint
            fourth = stack.enter_context(client(st("refresh", "balances", "--json", "--wait", "60"), node.dsn()))
            wait_until(
                "the fourth to be there",
                lambda: node.value("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'harness st'"),
                deadline_s=30,
            )
        code, out, complaint = fourth.end()
        assert code == 0, complaint
        assert json.loads(out)["refresh"]["action"] == "DIFFERENTIAL"
        assert_equal(connection, "balances")


def test_second_harness_skips_or_waits_as_asked_on_postgresql(database: Node) -> None:
    prepare(database, is_distributed=False)
    _one_skips_one_waits(database)


@pytest.mark.citus(">= 13")
def test_second_harness_skips_or_waits_as_asked_on_a_cluster(citus_database: Cluster) -> None:
    prepare(citus_database.coordinator, is_distributed=True)
    _one_skips_one_waits(citus_database.coordinator)
