"""Nodes that are dead, frozen, or never answer; no Citus; a worker; a coordinator that is gone: said in time, typed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest

from harness.clusters import RunningCluster
from harness.inspectors import Inspection, Reason, Status, inspect, registry
from harness.inspectors.contract import Cost, Envelope
from harness.inspectors.limits import Limits
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors import everything
from scenarios.inspectors.fixture_standard import SETTINGS, Standard, build

pytestmark = pytest.mark.citus(">= 14")
# What a look may need beside the time that a silent node takes: the machine may be busy with other things. Who waits
# without a limit of ours waits for 30 seconds and more.
_SPARE_S = 15.0
_NOTHING_TO_ASK = {Reason.GUC_OFF, Reason.PGTRICKLE_MISSING}


@pytest.fixture
def faulty(make_cluster: MakeCluster) -> Standard:
    """The standard cluster, to break."""
    return build(make_cluster(settings=SETTINGS))


def _name(standard: Standard, group: int) -> str:
    return standard.node_names[group]


def _timed(standard: Standard, name: str, **options: Any) -> tuple[Envelope[Any], float]:
    started = time.monotonic()
    found = inspect(standard.dsn(), name, everything.values(name), **options)
    return found, time.monotonic() - started


def _assert_tells(envelope: Envelope[Any], node: str, reasons: set[Reason], answering: set[str]) -> None:
    """An inspector that asks nodes names the one that did not answer; one that needs all of them says why not."""
    assert envelope.status in {Status.PARTIAL, Status.UNAVAILABLE}, envelope
    assert envelope.reason in {*reasons, Reason.GUC_OFF}, envelope
    if envelope.status is Status.PARTIAL:
        assert [each.node for each in envelope.nodes.failed] == [node]
        assert set(envelope.nodes.answered) == answering
        assert node in envelope.message


def _asking() -> list[str]:
    """Inspectors that ask nodes; those that rest on others are the advisor's and the report's own tests'."""
    return [name for name in everything.names() if registry.get(name).cost in {Cost.FAN_OUT, Cost.SIZES}]


def _look_at_all(standard: Standard, node: str, reasons: set[Reason], seconds: float) -> None:
    answering = set(standard.node_names) - {node}
    told = []
    for name in _asking():
        envelope, elapsed_s = _timed(standard, name)
        if not envelope.nodes.asked and (envelope.status is Status.OK or envelope.reason in _NOTHING_TO_ASK):
            continue  # it had nothing to ask: with these inputs, or since what it reads is switched off
        _assert_tells(envelope, node, reasons, answering)
        limits = Limits()
        assert elapsed_s < seconds * limits.node_timeout_ms(registry.get(name).cost) / 1000 + _SPARE_S, name
        told.append(name)
    assert {"list_nodes", "citus_shard_map", "citus_lock_inspector", "citus_txn_inspector"} <= set(told)


def test_stopped_worker_is_named_by_every_inspector_that_asks(faulty: Standard) -> None:
    node = _name(faulty, 2)
    faulty.cluster.workers[1].stop()
    _look_at_all(faulty, node, {Reason.NODE_UNREACHABLE}, 0)


def test_frozen_worker_is_named_within_twice_the_time_of_a_connection(faulty: Standard) -> None:
    node = _name(faulty, 1)
    faulty.cluster.workers[0].freeze()
    try:
        _look_at_all(faulty, node, {Reason.NODE_UNREACHABLE}, 2)
    finally:
        faulty.cluster.workers[0].thaw()


def test_frozen_worker_is_waited_for_once_an_inspection(faulty: Standard) -> None:
    node = _name(faulty, 1)
    with Inspection(faulty.dsn()) as inspection:
        assert inspection.inspect("list_nodes").status is Status.OK
        faulty.cluster.workers[0].freeze()
        try:
            started = time.monotonic()
            found = [inspection.inspect("list_nodes") for _ in range(40)]  # 50 s if each waited
            elapsed_s = time.monotonic() - started
        finally:
            faulty.cluster.workers[0].thaw()
    assert {(each.status, each.reason, each.nodes.failed[0].node) for each in found} == {
        (Status.PARTIAL, Reason.NODE_UNREACHABLE, node)
    }
    assert elapsed_s < 2 * 1.25 + _SPARE_S


@contextmanager
def _locked(cluster: RunningCluster, worker: int, lock: LiteralString) -> Iterator[psycopg.Connection[Any]]:
    """On one worker; who holds the lock can still ask it."""
    with cluster.workers[worker].transaction() as connection:
        connection.execute(lock)
        yield connection


def test_worker_that_never_answers_is_named_and_the_others_are_heard(faulty: Standard) -> None:
    """It lets us in and waits for a lock: cancelling the fan-out would lose everybody's answer."""
    whole = inspect(faulty.dsn(), "list_nodes")
    # Turns of a second for each node: one that is busy is not taken for the one that waits.
    limits = Limits(statement_timeout_ms=8000)
    with _locked(faulty.cluster, 1, "LOCK TABLE pg_catalog.pg_extension IN ACCESS EXCLUSIVE MODE"):
        found, elapsed_s = _timed(faulty, "list_nodes", limits=limits)
    assert (found.status, found.reason) == (Status.PARTIAL, Reason.STATEMENT_TIMEOUT)
    assert [each.node for each in found.nodes.failed] == [_name(faulty, 2)]
    assert found.nodes.answered == whole.nodes.answered[:2]
    assert [row.reachable for row in found.rows] == [True, True, False]
    assert elapsed_s < 8.0 + _SPARE_S


def test_lock_on_a_worker_ends_by_the_roles_own_timeout(faulty: Standard) -> None:
    """What `harness inspect setup-role` sets on every node: nothing of ours stays behind and waits."""
    with _locked(faulty.cluster, 1, "LOCK TABLE pg_catalog.pg_extension IN ACCESS EXCLUSIVE MODE") as locking:
        started = time.monotonic()
        found = inspect(faulty.dsn("inspector"), "list_nodes")
        assert time.monotonic() - started < 1.0 + _SPARE_S
        waiting = locking.execute(
            "SELECT FROM pg_stat_activity WHERE usename = 'inspector' AND wait_event_type = 'Lock'"
        ).fetchall()
    assert (found.status, found.reason) == (Status.PARTIAL, Reason.LOCK_TIMEOUT)
    assert "lock timeout" in found.nodes.failed[0].reason
    assert waiting == []


def test_frozen_coordinator_ends_a_look_at_the_clients_deadline(faulty: Standard) -> None:
    limits = Limits(statement_timeout_ms=2000)
    alone = {"include_reachability": False}  # no other node has a time in which it must have answered
    with Inspection(faulty.dsn(), limits=limits) as inspection:
        assert inspection.inspect("list_nodes", alone).status is Status.OK
        faulty.cluster.coordinator.freeze()
        try:
            started = time.monotonic()
            found = inspection.inspect("list_nodes", alone)
            elapsed_s = time.monotonic() - started
        finally:
            faulty.cluster.coordinator.thaw()
        assert (found.status, found.reason) == (Status.UNAVAILABLE, Reason.STATEMENT_TIMEOUT)
        assert elapsed_s < 2.0 + 3.0 + _SPARE_S
        assert inspection.inspect("list_nodes", alone).status is Status.OK  # on a new connection


def test_coordinator_that_went_away_is_said_and_comes_back(faulty: Standard) -> None:
    with Inspection(faulty.dsn()) as inspection:
        assert inspection.inspect("list_nodes").status is Status.OK
        faulty.cluster.coordinator.restart()
        found = inspection.inspect("list_nodes")
        assert (found.status, found.reason) == (Status.UNAVAILABLE, Reason.SERVER_GONE)
        assert inspection.inspect("list_nodes").status is Status.OK


@pytest.mark.parametrize("name", everything.names())
def test_database_without_citus_is_said(standard: Standard, name: str) -> None:
    found = inspect(standard.cluster.coordinator.dsn("template1"), name, everything.values(name))
    expected = Reason.PGTRICKLE_MISSING if name == "stream_table_inspector" else Reason.CITUS_MISSING
    assert (found.status, found.reason, found.rows) == (Status.UNAVAILABLE, expected, ())


@pytest.mark.parametrize("name", everything.names())
def test_worker_is_no_place_to_look_from(standard: Standard, name: str) -> None:
    found = inspect(standard.cluster.workers[0].dsn(), name, everything.values(name))
    assert (found.status, found.reason, found.rows) == (Status.UNAVAILABLE, Reason.NOT_COORDINATOR, ())
