"""Two sessions make the capture of one source at the same time, as two stream tables over it do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from psycopg import sql

from harness.trickle import StreamTables
from harness.trickle.making import install_captures
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.capture.capturing import Ground, capture

WAITS = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"


def test_who_comes_second_waits_and_both_have_made_it(ground: Ground) -> None:
    node = ground.cluster.coordinator
    with ground.captured("(id bigint PRIMARY KEY, v text)") as made, ThreadPoolExecutor(1) as pool:
        with node.connect() as second, node.connect(autocommit=False) as first:
            # Where it stands in the middle: later its row of pgt_change_tracking would keep the other one out.
            first.execute("SELECT pgtrickle._set_function(%s::regclass, %s)", [made.table.as_string(), made.stable])
            later = pool.submit(capture, second, made.name)
            wait_until("the second one to wait", lambda: node.value(WAITS, [second.info.backend_pid]), deadline_s=30)
            first.commit()
            assert later.result(timeout=30) == made.stable
        made.run("INSERT INTO {t} SELECT i, 'v' FROM generate_series(1, 20) i")
        made.run("UPDATE {t} SET v = 'w' WHERE id > 10")
        made.assert_sums()


def test_two_stream_tables_are_made_at_once_over_one_source(ground: Ground) -> None:
    node = ground.cluster.coordinator
    with node.connect() as connection, ThreadPoolExecutor(1) as pool:
        source = ground.create(connection, "(id bigint PRIMARY KEY, v text)")
        defined = sql.SQL("SELECT v, count(*) AS n FROM {} GROUP BY v").format(sql.Identifier(source)).as_string()
        with (
            node.connect() as second,
            StreamTables(second) as others,
            node.connect(autocommit=False) as first,
        ):
            # As who makes the first one does: nothing of it is there for anybody else before the commit.
            install_captures(first, [node.value("SELECT %s::regclass::oid::bigint", [source])])
            later = pool.submit(others.create, "second", defined, None, "DIFFERENTIAL")
            wait_until("the second one to wait", lambda: node.value(WAITS, [second.info.backend_pid]), deadline_s=30)
            first.commit()
            later.result(timeout=30)
            connection.execute(
                sql.SQL("INSERT INTO {} SELECT i, 'v' || i % 3 FROM generate_series(1, 20) i").format(
                    sql.Identifier(source)
                )
            )
            assert others.refresh("second").change_count == 20
            assert_equal(second, "second")
            others.drop("second")
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(source)))
