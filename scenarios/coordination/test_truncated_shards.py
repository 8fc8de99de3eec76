"""TRUNCATE of a distributed source whose shards were moved, and through a worker."""

from __future__ import annotations

import psycopg
import pytest

from harness.chain.runner import downgrade, upgrade
from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from scenarios.coordination.stages import change, prepare

pytestmark = pytest.mark.citus(">= 13")
SHARDS = """
SELECT p.shardid, f.nodeid, t.nodeid
FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid)
JOIN pg_dist_node f ON f.groupid = p.groupid JOIN pg_dist_node t ON t.groupid NOT IN (0, p.groupid)
WHERE s.logicalrelid = 'entries'::regclass AND p.groupid = 1"""
MODES = ("block_writes", "force_logical")


def move_half(node: Node, mode: str) -> None:
    """Every shard of one worker goes to the other."""
    shards = node.rows(SHARDS)
    assert len(shards) == 2
    for shard, source, target in shards:
        node.sql("SELECT citus_move_shard_placement(%s, %s, %s, %s)", [shard, source, target, mode])


def follows(node: Node) -> None:
    """What is truncated is gone from the stream table, and what comes after it is there."""
    with node.connect() as connection, StreamTables(connection) as tables:
        change(node)
        tables.refresh("balances")
        node.sql("TRUNCATE entries")
        assert tables.refresh("balances").action in {"FULL", "REINITIALIZE"}
        assert node.value("SELECT count(*) FROM balances") == 0
        node.sql("INSERT INTO entries SELECT i, i % 7, i FROM generate_series(1, 30) i")
        assert tables.refresh("balances").change_count == 30
        assert_equal(connection, "balances")


@pytest.mark.parametrize("mode", MODES)
def test_truncate_after_shards_were_moved_is_followed(citus_database: Cluster, mode: str) -> None:
    node = citus_database.coordinator
    prepare(node, is_distributed=True)
    move_half(node, mode)
    follows(node)


def test_truncate_that_is_rolled_back_marks_nobody(citus_database: Cluster) -> None:
    node = citus_database.coordinator
    prepare(node, is_distributed=True)
    move_half(node, "block_writes")
    with node.connect(autocommit=False) as connection:
        connection.execute("TRUNCATE entries")
        connection.rollback()
    with node.connect() as connection, StreamTables(connection) as tables:
        assert tables.refresh("balances").action == "NO_DATA"
        assert_equal(connection, "balances")


def test_truncate_through_a_worker_is_refused_in_words_and_changes_nothing(citus_database: Cluster) -> None:
    node = citus_database.coordinator
    prepare(node, is_distributed=True)
    move_half(node, "block_writes")
    for worker in citus_database.workers:
        with pytest.raises(psycopg.errors.FeatureNotSupported, match=r"TRUNCATE of public\.entries") as caught:
            worker.sql("TRUNCATE entries")
        assert "run it on the coordinator" in str(caught.value.diag.message_hint)
    assert node.value("SELECT count(*) FROM entries") == 200
    with node.connect() as connection, StreamTables(connection) as tables:
        assert tables.refresh("balances").action == "NO_DATA"
        assert_equal(connection, "balances")


def test_source_that_could_not_be_truncated_can_be_after_the_upgrade(citus_database: Cluster) -> None:
    """0013 mends those that are there: the function of before fails on a worker, where the catalog is not."""
    node = citus_database.coordinator
    prepare(node, is_distributed=True)
    move_half(node, "block_writes")
    downgrade(node.dsn(), "0012")
    with pytest.raises(psycopg.errors.UndefinedTable):
        node.sql("TRUNCATE entries")
    assert node.value("SELECT count(*) FROM entries") == 200
    upgrade(node.dsn())
    follows(node)
