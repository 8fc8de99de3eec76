"""A worker dies while capture is being installed: nothing remains anywhere, and a retry works (the plan's risk 6)."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import psycopg
import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.clusters.running import RunningCluster
from harness.errors import HarnessError
from harness.postgres import AdministeredNode, Node
from harness.waiting import wait_until
from scenarios.capture.capturing import Captured, Connection, capture, left_of_capture

# Something waits for a lock on a relation of this node, in a session that Citus opened.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def _shard_on(cluster: Cluster, node: AdministeredNode) -> str:
    """A shard of `events` that lives on a worker."""
    found = cluster.coordinator.value(
        "SELECT max(shard_name(logicalrelid, shardid)) FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)"
        " JOIN pg_dist_node USING (groupid) WHERE logicalrelid = 'events'::regclass"
        " AND (nodename, nodeport) = (%s, %s)",
        node.address,
    )
    return str(found)


def _prepare(coordinator: Node) -> None:
    upgrade(coordinator.dsn())
    coordinator.sql("CREATE TABLE events (id integer PRIMARY KEY, v text)")
    coordinator.sql("SELECT create_distributed_table('events', 'id', shard_count => 4)")
    coordinator.sql("INSERT INTO events SELECT i, 'v' FROM generate_series(1, 40) i")


def _lock(holder: Connection, shard: str) -> None:
    """Read a shard for so long that no trigger can be made on it: all else of its capture is there by then."""
    holder.execute("SET citus.enable_manual_changes_to_shards = on")
    holder.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(*shard.split("."))))


def _assert_nothing_remains_and_a_retry_works(cluster: Cluster, before: Mapping[str, list[str]]) -> None:
    coordinator = cluster.coordinator
    assert {node.name: left_of_capture(node) for node in cluster.nodes} == before
    assert coordinator.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 0
    coordinator.sql("UPDATE events SET v = 'nobody looks'")
    with coordinator.connect() as connection:
        made = Captured(coordinator, connection, "events", capture(connection, "events"), "distributed")
        made.before = made.rows()
        made.run("UPDATE {t} SET v = 'again'")
        made.run("DELETE FROM {t} WHERE id % 2 = 0")
        assert made.actions() == {"D": 60, "I": 40}
        made.assert_sums()
        assert made.writers() == {1, 2}


@pytest.mark.citus(">= 13")
def test_lock_that_is_not_given_leaves_nothing_of_capture(citus_database: Cluster[AdministeredNode]) -> None:
    coordinator = citus_database.coordinator
    _prepare(coordinator)
    before = {node.name: left_of_capture(node) for node in citus_database.nodes}
    victim = citus_database.workers[1]
    with victim.connect(autocommit=False) as reader:
        _lock(reader, _shard_on(citus_database, victim))
        with coordinator.connect() as connection:
            connection.execute("SET citus.propagate_set_commands = 'local'")
            connection.execute("BEGIN")
            connection.execute("SET LOCAL lock_timeout = '200ms'")
            with pytest.raises(psycopg.Error, match="lock timeout"):
                capture(connection, "events")
            connection.rollback()
        reader.rollback()
    _assert_nothing_remains_and_a_retry_works(citus_database, before)


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log("was terminated by signal|interrupted|terminating connection", "a worker is killed on purpose")
@pytest.mark.parametrize("number", [0, 1], ids=["first-worker", "second-worker"])
def test_worker_dies_while_capture_is_installed_and_nothing_remains(fresh_cluster: RunningCluster, number: int) -> None:
    coordinator, victim = fresh_cluster.coordinator, fresh_cluster.workers[number]
    _prepare(coordinator)
    before = {node.name: left_of_capture(node) for node in fresh_cluster.nodes}
    failures: list[BaseException] = []

    def install() -> None:
        try:
            with coordinator.connect() as connection:
                capture(connection, "events")
        except BaseException as error:
            failures.append(error)

    reader = victim.connect(autocommit=False)
    try:
        _lock(reader, _shard_on(fresh_cluster, victim))
        installing = threading.Thread(target=install)
        installing.start()
        wait_until("the installation to reach the shard", lambda: victim.value(WAITING), deadline_s=20)
        victim.kill()
        installing.join(timeout=30)
        assert not installing.is_alive()
    finally:
        reader.close()
    assert len(failures) == 1
    assert isinstance(failures[0], psycopg.Error | HarnessError), failures[0]

    fresh_cluster.close()  # sessions of before have cached connections to the dead
    victim.start()
    coordinator.sql("SELECT recover_prepared_transactions()")
    _assert_nothing_remains_and_a_retry_works(fresh_cluster, before)
