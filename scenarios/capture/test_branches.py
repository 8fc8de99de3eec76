"""A capture function that names each shard's buffer shard (0011), and what becomes of it when shards change."""

from __future__ import annotations

import re
from typing import LiteralString

import pytest
from psycopg import sql

from harness.chain.runner import downgrade, upgrade
from scenarios.capture.capturing import Captured, Ground, grounds

pytestmark = pytest.mark.parametrize("any_ground", grounds("distributed"), indirect=True)
COLUMNS: LiteralString = "(id bigint PRIMARY KEY, v text)"
WRITES: tuple[LiteralString, ...] = (
    "INSERT INTO {t} SELECT i, 'new ' || i FROM generate_series(1, 60) i",
    "UPDATE {t} SET v = v || '!' WHERE id % 3 = 0",
    "DELETE FROM {t} WHERE id % 7 = 0",
    "INSERT INTO {t} VALUES (1, 'again'), (700, 'first') ON CONFLICT (id) DO UPDATE SET v = excluded.v",
)


def body(made: Captured) -> str:
    found = made.connection.execute(
        "SELECT prosrc FROM pg_proc WHERE proname = %s", [f"pg_trickle_cdc_fn_{made.stable}"]
    ).fetchone()
    assert found is not None
    return str(found[0])


def shards(made: Captured) -> list[int]:
    found = made.connection.execute(
        "SELECT shardid FROM pg_dist_shard WHERE logicalrelid = %s::regclass ORDER BY 1", [made.table.as_string()]
    )
    return [int(shard) for (shard,) in found]


def has_branch(made: Captured, shard: int) -> bool:
    return re.search(rf"TG_TABLE_NAME = '[^']*_{shard}' THEN", body(made)) is not None


def problems(made: Captured) -> list[str]:
    query = "SELECT pgtrickle.capture_problems(%s::regclass)"
    return [str(words) for (words,) in made.connection.execute(query, [made.table.as_string()])]


def write(made: Captured) -> None:
    for statement in WRITES:
        made.run(statement)
    made.assert_sums()


def test_each_shard_has_a_branch_and_all_that_is_written_is_captured(ground: Ground) -> None:
    with ground.captured(COLUMNS) as made:
        assert len(shards(made)) == 4
        for shard in shards(made):
            assert has_branch(made, shard)
        write(made)
        assert len(made.writers()) == 2
        assert problems(made) == []


def test_names_that_the_function_uses_itself_are_columns_all_the_same(ground: Ground) -> None:
    columns: LiteralString = (
        '("__pgt" bigint PRIMARY KEY, seq bigint, n text, o text, "tg_op" text, "%s" text, "a\'b" text, "q""q" text,'
        ' "__pgt_new" text, "SEQ" int)'
    )
    with ground.captured(columns, by="__pgt") as made:
        made.run("INSERT INTO {t} SELECT i, -i, 'n', 'o', 'op', '%L', 'a', 'q', 'new', 7 FROM generate_series(1, 40) i")
        made.run("UPDATE {t} SET seq = seq - 1, \"%s\" = '%%' WHERE seq < -20")
        made.assert_sums()
        made.run("DELETE FROM {t} WHERE n = 'n'")
        made.assert_sums()


def test_a_function_that_would_be_too_long_looks_its_shard_up(ground: Ground) -> None:
    with ground.cluster.coordinator.connect() as connection:
        name = ground.create(connection, COLUMNS)
        adding = sql.SQL(", ").join(
            sql.SQL("ADD COLUMN {} int").format(sql.Identifier(f"column_with_a_longer_name_{number}"))
            for number in range(300)
        )
        connection.execute(sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(name), adding))
    with ground.captured("", name=name) as made:
        assert "TG_TABLE_NAME =" not in body(made)
        made.run(
            "INSERT INTO {t} (id, v, column_with_a_longer_name_299) SELECT i, 'v', i FROM generate_series(1, 20) i"
        )
        made.run("UPDATE {t} SET column_with_a_longer_name_0 = 1 WHERE id < 5")
        made.assert_sums()
        assert problems(made) == []


def test_a_session_that_wrote_before_a_move_and_a_rename_writes_after_them(ground: Ground) -> None:
    with ground.captured(COLUMNS) as made:
        write(made)
        made.reset()
        shard = shards(made)[0]
        found = made.connection.execute(
            "SELECT p.groupid, n.groupid FROM pg_dist_placement p, pg_dist_node n WHERE p.shardid = %s"
            " AND n.groupid <> p.groupid AND n.groupid <> 0",
            [shard],
        ).fetchone()
        assert found is not None
        made.connection.execute(
            "SELECT citus_move_shard_placement(%s, f.nodename, f.nodeport, t.nodename, t.nodeport, 'block_writes')"
            " FROM pg_dist_node f, pg_dist_node t WHERE f.groupid = %s AND t.groupid = %s",
            [shard, *found],
        )
        made.run("DELETE FROM {t}")
        write(made)
        assert len(made.writers()) >= 1
        with made.connection.transaction():
            made.run("UPDATE {t} SET v = 'before' WHERE id = 1")
            made.run("UPDATE {t} SET v = 'after' WHERE id = 1")
        made.assert_sums()


def test_shards_that_a_split_made_are_looked_up_until_capture_is_made_anew(ground: Ground) -> None:
    with ground.captured(COLUMNS) as made:
        write(made)
        made.reset()
        made.connection.execute(
            "SELECT citus_split_shard_by_split_points(s.shardid,"
            " ARRAY[((s.shardminvalue::bigint + s.shardmaxvalue::bigint) / 2)::text],"
            " ARRAY[n.nodeid, n.nodeid], 'block_writes') FROM pg_dist_shard s, LATERAL"
            " (SELECT nodeid FROM pg_dist_node WHERE groupid <> 0 ORDER BY 1 LIMIT 1) n WHERE s.shardid = %s",
            [shards(made)[0]],
        )
        assert len(shards(made)) == 5
        assert sum(has_branch(made, shard) for shard in shards(made)) == 3
        made.run("DELETE FROM {t}")
        write(made)
        assert len(problems(made)) == 1
        made.connection.execute("SELECT pgtrickle.resync_capture(%s::regclass)", [made.table.as_string()])
        assert problems(made) == []
        assert all(has_branch(made, shard) for shard in shards(made))
        made.run("UPDATE {t} SET v = 'resynced'")
        made.assert_sums()


def test_down_and_up_again_while_a_session_writes(ground: Ground) -> None:
    dsn = ground.cluster.coordinator.dsn()
    with ground.captured(COLUMNS) as made, ground.cluster.coordinator.connect() as writer:
        made.run("INSERT INTO {t} SELECT i, 'v' FROM generate_series(1, 30) i", on=writer)
        downgrade(dsn, "0010")
        try:
            assert "TG_TABLE_NAME =" not in body(made)
            made.run("UPDATE {t} SET v = 'below' WHERE id % 2 = 0", on=writer)
            made.assert_sums()
        finally:
            upgrade(dsn)
        assert has_branch(made, shards(made)[0])
        made.run("DELETE FROM {t} WHERE id % 3 = 0", on=writer)
        made.assert_sums()
        assert problems(made) == []
