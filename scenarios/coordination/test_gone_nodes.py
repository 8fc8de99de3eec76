"""A worker that is gone is named, whatever Citus makes of it, and is no fault of the stream table."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harness.chain.runner import upgrade
from harness.clusters import LocalCluster, local_cluster
from harness.errors import HarnessError, ServerGoneError
from harness.faults import node_frozen
from harness.postgres import Installation
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from scenarios.coordination.clients import held_before_its_commit, wait_for_refresh_before_its_commit
from scenarios.coordination.histories import build, refresh_all, write


@pytest.fixture(scope="module")
def nodes(citus_installation: Installation) -> Iterator[LocalCluster]:
    """A cluster of this module's own, whose tests leave every node running and every stream table right."""
    with local_cluster(workers=2, installation=citus_installation) as cluster:
        upgrade(cluster.coordinator.dsn())
        build(cluster.coordinator)
        yield cluster


@pytest.mark.parametrize(("name", "first"), [("sums", 1000), ("everywhere", 3000), ("spread", 4000)])
def test_worker_killed_in_the_middle_is_named(nodes: LocalCluster, name: str, first: int) -> None:
    coordinator, worker = nodes.coordinator, nodes.workers[0]
    write(coordinator, first)
    caught: list[HarnessError] = []

    def refresh() -> None:
        with coordinator.connect() as connection, StreamTables(connection) as tables:
            try:
                tables.refresh(name)
            except HarnessError as error:
                caught.append(error)

    beside = threading.Thread(target=refresh)
    with held_before_its_commit(coordinator):
        beside.start()
        wait_for_refresh_before_its_commit(coordinator)
        worker.kill()
    beside.join(timeout=60)
    worker.start()
    assert len(caught) == 1, "a psycopg error would have ended the thread"
    assert isinstance(caught[0], ServerGoneError)
    assert str(worker.port) in caught[0].message
    assert caught[0].node == f"{worker.host}:{worker.port}"
    refresh_all(coordinator)


def test_worker_that_is_down_while_a_query_is_planned_is_no_fault_of_the_query(nodes: LocalCluster) -> None:
    coordinator, worker = nodes.coordinator, nodes.workers[0]
    refresh_all(coordinator)
    write(coordinator, 2000)
    worker.kill()
    with coordinator.connect() as connection, StreamTables(connection) as tables:
        for _round in range(4):  # one more than puts a table into ERROR
            with pytest.raises(ServerGoneError, match=str(worker.port)):
                tables.refresh("spread", initiated_by="SCHEDULER")
        with pytest.raises(ServerGoneError, match=str(worker.port)):
            tables.create("late", "SELECT id FROM orders", None)
        worker.start()
        for name in ("sums", "spread"):
            assert tables.refresh(name).action == "DIFFERENTIAL", "no plan was made of a worker's being down"
            assert_equal(connection, name)
        assert {found.name: found.status for found in tables.list()}["spread"] == "ACTIVE"
    assert coordinator.value("SELECT to_regclass('late') IS NULL")


def test_worker_that_is_silent_is_named_after_a_while_by_sessions_old_and_new(
    nodes: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Citus itself waits for it without end: over the connections that a session of before has, and in each lock."""
    coordinator, worker = nodes.coordinator, nodes.workers[0]
    refresh_all(coordinator)
    write(coordinator, 5000)
    with (
        coordinator.connect() as old,
        coordinator.connect() as new,
        StreamTables(old) as before,
        StreamTables(new) as tables,
    ):
        before.refresh("sums")
        new.execute("SELECT count(*) FROM orders")  # a connection that Citus keeps
        write(coordinator, 6000)
        with node_frozen(worker), monkeypatch.context() as patch:
            patch.setattr("harness.trickle.nodes.ANSWER_DEADLINE_S", 2.0)
            patch.setattr("harness.trickle.nodes.CONNECT_TIMEOUT_S", 2)
            for session in (before, tables):
                with pytest.raises(ServerGoneError, match=str(worker.port)) as caught:
                    session.refresh("sums")
                assert caught.value.node == f"{worker.host}:{worker.port}"
        assert before.refresh("sums").action == "DIFFERENTIAL"
        assert tables.refresh("sums").action == "NO_DATA"
        assert_equal(old, "sums")
    refresh_all(coordinator)
