"""Sessions that meet: at one stream table, at its buffer, and readers beside a refresh."""

from __future__ import annotations

import contextlib
import threading

import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.errors import LockedError
from harness.postgres import Node
from harness.trickle import Refresh, StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.engine.shop import CHANGES, TOTALS, open_shop, refreshed

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def test_second_session_is_turned_away_while_the_first_refreshes(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        stream_tables.create("others", "SELECT note, count(*) AS n FROM orders GROUP BY note", None, "DIFFERENTIAL")
        connection.execute(CHANGES)
        results: list[Refresh] = []
        with (
            database.connect() as second,
            StreamTables(second) as others,
            contextlib.closing(database.connect(autocommit=False)) as blocker,
        ):
            blocker.execute("LOCK TABLE totals IN EXCLUSIVE MODE")
            first = threading.Thread(target=lambda: results.append(stream_tables.refresh("totals")))
            first.start()
            wait_until("the first refresh to wait", lambda: database.value(WAITING), deadline_s=20)
            for attempt in (
                lambda: others.refresh("totals"),
                lambda: others.alter("totals", schedule="5m"),
                lambda: others.drop("totals"),
            ):
                with pytest.raises(LockedError, match="totals"):
                    attempt()
            assert others.refresh("others").action == "DIFFERENTIAL", "another stream table is not in the way"
            blocker.rollback()
            first.join()
            assert [done.action for done in results] == ["DIFFERENTIAL"]
            assert_equal(second, "totals")
            assert others.refresh("totals").action == "NO_DATA"
        failed = connection.execute(
            "SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE status = 'FAILED'"
        ).fetchone()
        assert failed == (0,), "who was turned away is no failure"


def test_sessions_that_refresh_readers_of_one_source_at_once_lose_nothing(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        names = [f"kept_{number}" for number in range(4)]
        for name in names:
            stream_tables.create(name, TOTALS, None, "DIFFERENTIAL")
        for _round in range(5):
            connection.execute(CHANGES)
            errors: list[Exception] = []

            def run(name: str, errors: list[Exception] = errors) -> None:
                try:
                    with database.connect() as own, StreamTables(own) as tables:
                        tables.refresh(name)
                except Exception as error:
                    errors.append(error)

            threads = [threading.Thread(target=run, args=[name]) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            for name in names:
                assert_equal(connection, name)
        for name in names:
            assert refreshed(connection, stream_tables, name).action == "NO_DATA"
        connection.execute("UPDATE orders SET amount = 0 WHERE id = 2")
        for name in names:
            stream_tables.refresh(name)
        stable = database.value("SELECT source_stable_name FROM pgtrickle.pgt_change_tracking")
        buffer = sql.Identifier("pgtrickle_changes", f"changes_{stable}")
        left = database.value(sql.SQL("SELECT count(*) FROM {}").format(buffer))
        assert left == 0, "all readers are past them"


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("placement", ["reference", "distributed"])
def test_full_refresh_never_shows_an_empty_table_on_a_cluster(citus_database: Cluster, placement: str) -> None:
    upgrade(citus_database.coordinator.dsn())
    with citus_database.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        connection.execute("CREATE TABLE sales (id int PRIMARY KEY, kind text)")
        connection.execute("SELECT create_distributed_table('sales', 'id', shard_count => 4)")
        connection.execute("INSERT INTO sales SELECT i, 'k' || i % 40 FROM generate_series(1, 400) i")
        query = "SELECT kind, count(*) AS n FROM sales GROUP BY kind"
        stream_tables.create("totals", query, None, "FULL", placement)
        done, seen = threading.Event(), threading.Event()
        counts: list[int] = []

        def read() -> None:
            with citus_database.coordinator.connect() as reader:
                while not done.is_set():
                    row = reader.execute("SELECT count(*) FROM totals").fetchone()
                    counts.append(row[0] if row else -1)
                    seen.set()

        reading = threading.Thread(target=read)
        reading.start()
        try:
            for _round in range(10):
                seen.clear()
                assert seen.wait(timeout=30), "the reader reads"
                assert stream_tables.refresh("totals").action == "FULL"
        finally:
            done.set()
            reading.join()
        assert min(counts) > 0
        assert counts[-1] == 40
        assert_equal(connection, "totals")
