"""A worker dies while capture is being installed: nothing remains anywhere, and a retry works (the plan's risk 6)."""

from __future__ import annotations

import threading

import psycopg
import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters.local import LocalCluster
from harness.errors import HarnessError
from harness.waiting import wait_until
from scenarios.capture.capturing import Captured, capture, left_of_capture

# Something waits for a lock on a relation of this node, in a session that Citus opened.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def _shard_on(cluster: LocalCluster, number: int) -> str:
    """A shard of `events` that lives on a worker."""
    found = cluster.coordinator.value(
        "SELECT max(shard_name(logicalrelid, shardid)) FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)"
        " JOIN pg_dist_node USING (groupid) WHERE logicalrelid = 'events'::regclass AND nodeport = %s",
        [cluster.workers[number].port],
    )
    return str(found)


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log("was terminated by signal|interrupted|terminating connection", "a worker is killed on purpose")
@pytest.mark.parametrize("number", [0, 1], ids=["first-worker", "second-worker"])
def test_worker_dies_while_capture_is_installed_and_nothing_remains(fresh_cluster: LocalCluster, number: int) -> None:
    coordinator, victim = fresh_cluster.coordinator, fresh_cluster.workers[number]
    upgrade(coordinator.dsn())
    coordinator.sql("CREATE TABLE events (id integer PRIMARY KEY, v text)")
    coordinator.sql("SELECT create_distributed_table('events', 'id', shard_count => 4)")
    coordinator.sql("INSERT INTO events SELECT i, 'v' FROM generate_series(1, 40) i")
    before = {node.name: left_of_capture(node) for node in fresh_cluster.nodes}
    failures: list[BaseException] = []

    def install() -> None:
        try:
            with coordinator.connect() as connection:
                capture(connection, "events")
        except BaseException as error:
            failures.append(error)

    # Who reads a shard holds up the trigger that it gets, when buffer, functions and other triggers are there already.
    reader = victim.connect(autocommit=False)
    try:
        shard = sql.Identifier(*_shard_on(fresh_cluster, number).split("."))
        reader.execute("SET citus.enable_manual_changes_to_shards = on")
        reader.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(shard))
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
    assert {node.name: left_of_capture(node) for node in fresh_cluster.nodes} == before
    assert coordinator.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 0

    with coordinator.connect() as connection:
        made = Captured(coordinator, connection, "events", capture(connection, "events"), "distributed")
        made.before = made.rows()
        made.run("UPDATE {t} SET v = 'again'")
        made.run("DELETE FROM {t} WHERE id % 2 = 0")
        made.assert_sums()
        assert made.writers() == {1, 2}
