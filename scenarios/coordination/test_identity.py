"""A node whose history is not the one that a stream table stopped in is noticed and named (D5)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters import LocalCluster, local_cluster
from harness.postgres import Installation, Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.trickle.repair import repair
from scenarios.coordination.histories import (
    NAMES,
    actions,
    build,
    move_to,
    promote,
    put_back,
    refresh_all,
    replica,
    set_aside,
    stop_receiving,
    wait_until_replayed,
    write,
)
from scenarios.fixtures.servers import MakeServer

REASONS = "SELECT h.reason FROM pgtrickle.pgt_refresh_history h WHERE h.action = 'REINITIALIZE' ORDER BY h.refresh_id"


@pytest.fixture
def nodes(citus_installation: Installation) -> Iterator[LocalCluster]:
    """A cluster of this test's own, stream tables of every placement on it, all refreshed once with a delta."""
    with local_cluster(workers=2, installation=citus_installation, settings={"max_wal_senders": "5"}) as cluster:
        upgrade(cluster.coordinator.dsn())
        build(cluster.coordinator)
        write(cluster.coordinator, 1000)
        assert set(actions(refresh_all(cluster.coordinator)).values()) == {"DIFFERENTIAL"}
        yield cluster


def _goes_on(cluster: LocalCluster) -> None:
    """Deltas again, from here on."""
    write(cluster.coordinator, 9000)
    assert set(actions(refresh_all(cluster.coordinator)).values()) == {"DIFFERENTIAL"}
    assert set(actions(refresh_all(cluster.coordinator)).values()) == {"NO_DATA"}


@pytest.mark.parametrize("writes_after", [True, False])
def test_worker_that_was_put_back_is_noticed_and_named(
    nodes: LocalCluster, tmp_path: Path, *, writes_after: bool
) -> None:
    """The copy is of the same server, timeline and transaction numbers; its WAL position may be further on."""
    coordinator, worker = nodes.coordinator, nodes.workers[0]
    set_aside(worker, tmp_path)
    write(coordinator, 2000)
    assert set(actions(refresh_all(coordinator)).values()) == {"DIFFERENTIAL"}
    write(coordinator, 3000)
    refresh_all(coordinator, names=NAMES[:1])  # one of them is further than the others
    put_back(worker, tmp_path)
    if writes_after:
        for first in (4000, 5000, 6000):
            write(coordinator, first)
    assert actions(refresh_all(coordinator)) == dict.fromkeys(NAMES, "REINITIALIZE")
    for (reason,) in coordinator.rows(REASONS):
        assert f"worker {worker.host}:{worker.port} (group 1) is not where the stream table last stopped" in reason
        assert "the last refresh that it knows of is another one" in reason
    _goes_on(nodes)


def test_coordinator_that_was_put_back_is_noticed(nodes: LocalCluster, tmp_path: Path) -> None:
    """Its workers know later refreshes: what those took is in no buffer any more."""
    coordinator = nodes.coordinator
    set_aside(coordinator, tmp_path)
    write(coordinator, 2000)
    refresh_all(coordinator)
    write(coordinator, 3000)
    put_back(coordinator, tmp_path)
    assert actions(refresh_all(coordinator)) == dict.fromkeys(NAMES, "REINITIALIZE")
    assert all("the last refresh that it knows of is another one" in reason for (reason,) in coordinator.rows(REASONS))
    _goes_on(nodes)


def test_restarts_and_crashes_are_no_other_history(nodes: LocalCluster) -> None:
    coordinator = nodes.coordinator
    for node in nodes.nodes:
        write(coordinator, 2000 + 100 * nodes.nodes.index(node))
        refresh_all(coordinator)
        node.restart()
        assert set(actions(refresh_all(coordinator)).values()) == {"NO_DATA"}
    for node in nodes.nodes:
        write(coordinator, 3000 + 100 * nodes.nodes.index(node))
        node.kill()
        node.start()
        assert set(actions(refresh_all(coordinator)).values()) == {"DIFFERENTIAL"}
    _goes_on(nodes)


def test_promoted_worker_that_lost_nothing_goes_on(nodes: LocalCluster, citus_installation: Installation) -> None:
    """Another server under another address on another timeline: what it knows proves that nothing is missing."""
    coordinator, worker = nodes.coordinator, nodes.workers[0]
    with replica(worker, citus_installation) as standby:
        write(coordinator, 2000)
        refresh_all(coordinator)
        wait_until_replayed(worker, standby)
        worker.kill()
        promote(standby)
        move_to(coordinator, 1, standby)
        assert set(actions(refresh_all(coordinator)).values()) == {"NO_DATA"}
        _goes_on(nodes)


def test_promoted_worker_that_lost_something_is_named(nodes: LocalCluster, citus_installation: Installation) -> None:
    coordinator, worker = nodes.coordinator, nodes.workers[0]
    with replica(worker, citus_installation) as standby:
        wait_until_replayed(worker, standby)
        stop_receiving(standby)
        write(coordinator, 2000)
        refresh_all(coordinator)
        worker.kill()
        promote(standby)
        move_to(coordinator, 1, standby)
        assert actions(refresh_all(coordinator)) == dict.fromkeys(NAMES, "REINITIALIZE")
        for (reason,) in coordinator.rows(REASONS):
            assert f"worker {standby.host}:{standby.port} (group 1)" in reason
            assert "on timeline 1, and is server" in reason
            assert "on timeline 2" in reason
        _goes_on(nodes)


def test_metadata_out_of_sync_are_waited_for(nodes: LocalCluster) -> None:
    """After citus_update_node or a restart a node waits for Citus' maintenance daemon, and refuses DDL until then."""
    coordinator = nodes.coordinator
    write(coordinator, 2000)
    coordinator.sql("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true")
    synced = "UPDATE pg_dist_node SET metadatasynced = %s WHERE groupid = 1"
    coordinator.sql(synced, [False])
    refused: list[str] = []

    def mend() -> None:
        try:
            coordinator.sql("CREATE TABLE public.of_nobody (id int)")
            coordinator.sql("SELECT create_reference_table('of_nobody')")
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            refused.append(str(error))
        finally:
            time.sleep(1.5)
            coordinator.sql(synced, [True])

    with ThreadPoolExecutor(1) as pool:
        mending = pool.submit(mend)
        assert actions(refresh_all(coordinator)) == dict.fromkeys(NAMES, "REINITIALIZE")
        mending.result(timeout=30)
    assert "is out of sync" in refused[0]
    _goes_on(nodes)


# one server


def _fill(node: Node) -> None:
    with node.connect() as connection, StreamTables(connection) as tables:
        connection.execute("CREATE TABLE entries (id int PRIMARY KEY, account int)")
        connection.execute("INSERT INTO entries SELECT i, i % 7 FROM generate_series(1, 100) i")
        tables.create("balances", "SELECT account, count(*) AS n FROM entries GROUP BY account", None)
        tables.create("ids", "SELECT id FROM entries WHERE account > 2", None)
        tables.create("over", "SELECT n, count(*) AS accounts FROM balances GROUP BY n", None)


def _change(node: Node, first: int) -> None:
    node.sql("INSERT INTO entries SELECT i, i %% 5 FROM generate_series(%s::int, %s::int + 20) i", [first] * 2)
    node.sql("DELETE FROM entries WHERE id % 13 = 4")


def _refresh(node: Node, *names: str) -> dict[str, str]:
    with node.connect() as connection, StreamTables(connection) as tables:
        found = {}
        for name in names:
            found[name] = tables.refresh(name).action
            assert_equal(connection, name)
        return found


def test_dump_restored_elsewhere_is_filled_anew(make_server: MakeServer) -> None:
    """Other OIDs, smaller transaction numbers, captured rows of the other server in the buffers."""
    server = make_server()
    upgrade(server.dsn())
    with server.connect() as connection:
        for _ in range(3000):  # so that its transaction numbers are ahead
            connection.execute("SELECT pg_current_xact_id()")
    _fill(server)
    _change(server, 1000)
    _refresh(server, "balances", "over")
    _change(server, 2000)
    dump = server.scratch_dir / "dump"
    server.run("pg_dump", "--format=custom", "--file", dump)
    elsewhere = make_server()
    for number in range(50):  # so that numbers of tables are others' there
        elsewhere.sql(sql.SQL("CREATE TABLE {} (id int)").format(sql.Identifier(f"other_{number}")))
    elsewhere.run("pg_restore", "--dbname=postgres", "--exit-on-error", dump)
    _change(elsewhere, 3000)
    assert _refresh(elsewhere, "balances", "ids", "over") == dict.fromkeys(("balances", "ids", "over"), "REINITIALIZE")
    reasons = [reason for (reason,) in elsewhere.rows(REASONS)]
    assert len(reasons) == 3
    assert all("the coordinator's database postgres is not the one that it was refreshed in" in one for one in reasons)
    for first in range(4000, 4400, 100):
        _change(elsewhere, first)
        assert set(_refresh(elsewhere, "balances", "ids").values()) == {"DIFFERENTIAL"}
    _refresh(elsewhere, "over")
    assert elsewhere.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 2
    with elsewhere.connect() as connection:
        assert repair(connection, is_check=True).findings == ()


def test_server_that_was_put_back_goes_on(make_server: MakeServer, tmp_path: Path) -> None:
    """All that a stream table knows went back with it."""
    server = make_server()
    upgrade(server.dsn())
    _fill(server)
    _change(server, 1000)
    _refresh(server, "balances")
    set_aside(server, tmp_path)
    _change(server, 2000)
    _refresh(server, "balances", "ids")
    put_back(server, tmp_path)
    assert _refresh(server, "balances", "ids") == {"balances": "NO_DATA", "ids": "DIFFERENTIAL"}
    _change(server, 3000)
    assert set(_refresh(server, "balances", "ids").values()) == {"DIFFERENTIAL"}
