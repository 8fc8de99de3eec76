"""Capture ends although a shard has just moved: its old copy stays, with triggers, until Citus sweeps it."""

from __future__ import annotations

import pytest

from scenarios.capture.capturing import Captured, Ground, grounds, left_of_capture

pytestmark = pytest.mark.parametrize("any_ground", grounds("distributed"), indirect=True)
MOVE = """
SELECT citus_move_shard_placement(p.shardid, f.nodename, f.nodeport, t.nodename, t.nodeport, 'block_writes')
FROM (SELECT p.shardid, p.groupid FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid)
      WHERE s.logicalrelid = %s::regclass ORDER BY p.shardid LIMIT 1) AS p
JOIN pg_dist_node f ON f.groupid = p.groupid JOIN pg_dist_node t ON t.groupid NOT IN (0, p.groupid)"""


def move_a_shard(made: Captured) -> None:
    made.run("INSERT INTO {t} SELECT i, 'v' FROM generate_series(1, 20) i")
    for _ in range(5):  # Citus sweeps every 15 s, and may come just between
        assert len(made.connection.execute(MOVE, [made.table.as_string()]).fetchall()) == 1
        ((waiting,),) = made.connection.execute("SELECT count(*) FROM pg_dist_cleanup").fetchall()
        if waiting > 0:
            break
    assert waiting > 0, "its old copy is still there"
    made.run("UPDATE {t} SET v = 'moved'")
    made.assert_sums()


def test_source_is_dropped_after_a_move(ground: Ground) -> None:
    with ground.captured("(id bigint PRIMARY KEY, v text)") as made:
        move_a_shard(made)
        stable = made.stable
    assert not any(stable in each for each in left_of_capture(ground.cluster.coordinator))


def test_capture_is_removed_after_a_move(ground: Ground) -> None:
    with ground.captured("(id bigint PRIMARY KEY, v text)") as made:
        move_a_shard(made)
        assert made.connection.execute(
            "SELECT pgtrickle.remove_capture(%s::regclass)", [made.table.as_string()]
        ).fetchone() == (True,)
        assert not any(made.stable in each for each in left_of_capture(ground.cluster.coordinator))
        made.run("DELETE FROM {t}")


def test_capture_is_made_anew_after_a_move(ground: Ground) -> None:
    with ground.captured("(id bigint PRIMARY KEY, v text)") as made:
        move_a_shard(made)
        made.connection.execute("SELECT pgtrickle.rebuild_capture(%s::regclass)", [made.table.as_string()])
        made.reset()
        made.run("UPDATE {t} SET v = 'anew'")
        made.assert_sums()
