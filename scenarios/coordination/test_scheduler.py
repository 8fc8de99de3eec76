"""``harness scheduler run``: what is due is refreshed, in order; what fails is told; it ends cleanly."""

from __future__ import annotations

import contextlib
import select
import time

import pytest
from psycopg import sql

from harness.postgres import Node
from harness.scheduler.loop import CHANNEL, Options, Scheduler, drain
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.coordination.clients import completed, held_before_its_commit, wait_for_refresh_before_its_commit
from scenarios.coordination.schedulers import scheduler, scrape
from scenarios.coordination.stages import change, prepare

BUCKETS = "SELECT n, count(*) AS accounts, sum(total) AS total FROM balances GROUP BY n"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
TOP = "SELECT count(*) AS buckets, max(total) AS most FROM buckets"


def alter(node: Node, name: str, schedule: str) -> None:
    with node.connect() as connection, StreamTables(connection) as tables:
        tables.alter(name, schedule=schedule)


def assert_all_equal(node: Node, *names: str) -> None:
    with node.connect() as connection:
        for name in names:
            assert_equal(connection, name)


def test_chain_is_refreshed_in_order_after_its_sources(place: Node) -> None:
    is_cluster = place.value("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
    with place.connect() as connection, StreamTables(connection) as tables:
        tables.drop("balances")
        # Stream tables over stream tables, a distributed one below.
        placement = "distributed" if is_cluster else "auto"
        query = "SELECT account, count(*) AS n, sum(amount) AS total FROM entries GROUP BY account"
        tables.create("balances", query, "1s", "DIFFERENTIAL", placement)
        tables.create("buckets", BUCKETS, "after")
        tables.create("top", TOP, "after")
    with scheduler(place.dsn()) as running:
        running.wait_for("started")
        for _round in range(3):
            change(place)
            for name in ("balances", "buckets", "top"):
                # In this order: an event that came before is not found again.
                done = running.wait_for("refreshed", stream_table=f"public.{name}")
                while done["action"] == "NO_DATA":
                    done = running.wait_for("refreshed", stream_table=f"public.{name}")
        assert running.finish() == 0
        assert running.seen("failed") == []
    assert_all_equal(place, "balances", "buckets", "top")
    assert place.value("SELECT sum(total) FROM buckets") == place.value("SELECT sum(amount) FROM entries")
    by = place.rows("SELECT DISTINCT initiated_by FROM pgtrickle.pgt_refresh_history WHERE action = 'DIFFERENTIAL'")
    assert by == [("SCHEDULER",)]


def test_cron_is_followed_by_the_clock_of_the_server(database: Node) -> None:
    prepare(database, is_distributed=False)
    alter(database, "balances", "* * * * *")
    change(database)
    database.sql("UPDATE pgtrickle.pgt_stream_tables SET data_timestamp = data_timestamp - interval '1 hour'")
    with scheduler(database.dsn()) as running:
        running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
        minute = "SELECT date_trunc('minute', data_timestamp) FROM pgtrickle.pgt_stream_tables"
        first = database.value(minute)
        time.sleep(2)  # four looks in which it must not be due, unless the next minute has come
        refreshed = len(running.seen("refreshed"))
        if database.value("SELECT date_trunc('minute', clock_timestamp())") == first:
            assert refreshed == 1
        # Six fields: the first is seconds.
        alter(database, "balances", "* * * * * *")
        change(database)
        running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
        assert running.finish() == 0
    assert_all_equal(database, "balances")


def test_new_stream_table_and_changed_schedule_are_noticed_with_and_without_a_notification(database: Node) -> None:
    prepare(database, is_distributed=False)
    with scheduler(database.dsn(), "--poll", "600") as running:
        running.wait_for("started")
        alter(database, "balances", "1s")
        running.wait_for("refreshed", stream_table="public.balances", deadline_s=60)  # long before the next look
        assert running.finish() == 0
    alter(database, "balances", "1h")
    with scheduler(database.dsn(), "--poll", "0.5") as running:
        running.wait_for("started")
        # Nobody notifies: as when the notification was missed.
        database.sql("UPDATE pgtrickle.pgt_stream_tables SET schedule = '1s'")
        running.wait_for("refreshed", stream_table="public.balances", deadline_s=20)
        assert running.finish() == 0


def test_notification_that_came_during_a_statement_is_not_waited_for_again(database: Node) -> None:
    """psycopg takes it from the socket with the statement's answer, and select would wait for the next one."""
    with database.connect(deadline_s=30) as control:
        control.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        assert drain(control) is False
        with control.transaction():
            control.execute("SELECT 1")
            database.sql(sql.SQL("NOTIFY {}").format(sql.Identifier(CHANNEL)))
        control.execute("SELECT 1")
        assert select.select([control.fileno()], [], [], 0)[0] == []
        began = time.monotonic()
        Scheduler(database.dsn(), Options(), lambda _event: None)._wait(control, 60)
        assert time.monotonic() - began < 30
        assert drain(control) is False, "it was taken"


def test_rebuild_that_was_asked_for_is_done_at_once(place: Node) -> None:
    alter(place, "balances", "1h")
    with scheduler(place.dsn()) as running:
        running.wait_for("started")
        place.sql("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true")
        running.wait_for("refreshed", stream_table="public.balances", action="REINITIALIZE")
        # In ERROR because of a source: as a DDL hook leaves it that could not follow.
        place.sql("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true, status = 'ERROR'")
        running.wait_for("refreshed", stream_table="public.balances", action="REINITIALIZE")
        assert place.row("SELECT status, needs_reinit FROM pgtrickle.pgt_stream_tables") == ("ACTIVE", False)
        assert running.finish() == 0
    assert_all_equal(place, "balances")


def test_failures_back_off_end_in_error_with_the_reason_and_harm_nobody_else(database: Node) -> None:
    prepare(database, is_distributed=False, schedule="1s")
    with database.connect() as connection, StreamTables(connection) as tables:
        tables.create("shares", "SELECT id, 100 / amount AS share FROM entries WHERE amount < 50", "1s")
        connection.execute("INSERT INTO entries VALUES (1000, 1, 0)")
    with scheduler(database.dsn(), "--max-failures", "3", has_metrics=True) as running:
        url = running.wait_for("serving")["message"]
        failures = [running.wait_for("failed", stream_table="public.shares") for _ in range(3)]
        assert all("division by zero" in failure["message"] for failure in failures)
        moments = [failure["at"] for failure in failures]
        assert moments == sorted(moments)
        pauses = [int(failure["message"].split("try in ")[1].split(" ")[0]) for failure in failures]
        assert pauses == [1, 2, 4]
        status, reason, errors = database.row(
            "SELECT status, suspended_reason, consecutive_errors FROM pgtrickle.pgt_stream_tables"
            " WHERE pgt_name = 'shares'"
        )
        assert (status, errors) == ("ERROR", 3)
        assert "3 failed refreshes in a row: division by zero" in reason
        running.wait_for("refreshed", stream_table="public.balances")
        found = scrape(url)
        labels = (("status", "ERROR"), ("stream_table", "public.shares"))
        assert wait_until("the status", lambda: scrape(url)["pgtrickle_status", labels] == 1, deadline_s=10)
        failed = [value for (name, _), value in found.items() if name == "pgtrickle_refresh_failures_total"]
        assert failed == [3]
        # Mended and resumed: noticed, refreshed, and the reason is gone.
        database.sql("UPDATE entries SET amount = 3 WHERE id = 1000")
        with database.connect() as connection, StreamTables(connection) as tables:
            assert tables.list()[1].suspended_reason == reason
            tables.resume("shares")
        running.wait_for("refreshed", stream_table="public.shares")
        assert running.finish() == 0
    assert database.row(
        "SELECT status, suspended_reason, consecutive_errors FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'shares'"
    ) == ("ACTIVE", None, 0)
    assert_all_equal(database, "balances", "shares")


def test_sigterm_lets_the_refresh_in_hand_commit(place: Node) -> None:
    alter(place, "balances", "1h")
    with scheduler(place.dsn()) as running:
        running.wait_for("started")
        with held_before_its_commit(place):
            change(place)
            # Due from now on: one that was due before may have looked before the change.
            place.sql("UPDATE pgtrickle.pgt_stream_tables SET data_timestamp = data_timestamp - interval '2 hours'")
            wait_for_refresh_before_its_commit(place)
            running.process.terminate()
            running.wait_for("stopping")
        assert running.process.wait(timeout=30) == 0
        assert running.finish() == 0
        assert [event["action"] for event in running.seen("refreshed")][-1] == "DIFFERENTIAL"
    assert_all_equal(place, "balances")
    assert place.value("SELECT sum(n) FROM balances") == place.value("SELECT count(*) FROM entries")
    assert place.value("SELECT count(*) FROM pgtrickle.st_locks") == 0


def test_refresh_that_does_not_end_within_the_grace_is_cancelled_and_undone(place: Node) -> None:
    alter(place, "balances", "1s")
    with scheduler(place.dsn(), "--grace", "1s") as running:
        running.wait_for("refreshed")
        with contextlib.closing(place.connect(autocommit=False)) as blocker:
            blocker.execute("LOCK TABLE balances IN EXCLUSIVE MODE")
            change(place)
            wait_until("the refresh to wait", lambda: place.value(WAITING), deadline_s=20)
            running.process.terminate()
            assert running.process.wait(timeout=30) == 0
            blocker.rollback()
        assert running.finish() == 0
        assert "cancelling" in running.seen("stopping")[-1]["message"]
    assert place.value("SELECT count(*) FROM pgtrickle.st_locks") == 0
    with place.connect() as connection, StreamTables(connection) as tables:
        assert tables.refresh("balances").change_count == 1
        assert_equal(connection, "balances")


def test_killed_scheduler_is_followed_at_once_by_the_next(place: Node) -> None:
    alter(place, "balances", "1s")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(scheduler(place.dsn()))
        first.wait_for("refreshed")
        with held_before_its_commit(place):
            change(place)
            wait_for_refresh_before_its_commit(place)
            first.kill()
        begun = time.monotonic()
        second = stack.enter_context(scheduler(place.dsn()))
        second.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
        elapsed_s = time.monotonic() - begun
        print(f"scheduler killed, to the next one's refresh, its start included: {elapsed_s:.2f} s")  # noqa: T201
        assert second.finish() == 0  # its lease had ten minutes to go
    assert_all_equal(place, "balances")


def test_two_schedulers_and_a_person_never_refresh_at_once(place: Node) -> None:
    alter(place, "balances", "1s")
    with (
        scheduler(place.dsn(), "--poll", "0.05") as one,
        scheduler(place.dsn(), "--poll", "0.05") as other,
        place.connect() as connection,
        StreamTables(connection) as tables,
    ):
        one.wait_for("refreshed")
        other.wait_for("started")
        until = time.monotonic() + 6
        while time.monotonic() < until:
            change(place)
            tables.refresh("balances", wait_s=30)
        assert [one.finish(), other.finish()] == [0, 0]
        assert one.seen("failed") == other.seen("failed") == []
        tables.refresh("balances")
        assert_equal(connection, "balances")
    rows = completed(place, "balances")
    overlaps = [number for number, row in enumerate(rows[1:]) if row[1] < rows[number][2]]
    assert overlaps == []
    assert place.value("SELECT sum(n) FROM balances") == place.value("SELECT count(*) FROM entries")


def test_metrics_say_how_far_behind_and_who_holds_it(place: Node) -> None:
    alter(place, "balances", "1s")
    with (
        scheduler(place.dsn(), has_metrics=True) as running,
        contextlib.closing(place.connect(autocommit=False)) as writer,
    ):
        url = running.wait_for("serving")["message"]
        assert url.startswith("http://127.0.0.1:")
        running.wait_for("refreshed")
        table = ("stream_table", "public.balances")
        wait_until("the lag to be small", lambda: scrape(url)["pgtrickle_lag_seconds", (table,)] < 10, deadline_s=30)
        writer.execute("INSERT INTO entries VALUES (5000, 1, 1)")

        def held() -> list[tuple[str, str]]:
            return [
                (dict(labels)["stream_table"], dict(labels)["node"])
                for (name, labels), value in scrape(url).items()
                if name == "pgtrickle_horizon_held_seconds" and value > 0
            ]

        (found, node) = wait_until("the holder to be seen", held, deadline_s=20)[0]
        assert found == "public.balances"
        is_cluster = place.value("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
        assert (":" in node) == is_cluster, "a worker by its address"
        writer.commit()
        wait_until("nobody to hold it", lambda: not held(), deadline_s=20)
        place.sql("UPDATE pgtrickle.pgt_stream_tables SET status = 'SUSPENDED'")
        place.sql("INSERT INTO entries VALUES (5001, 1, 1), (5002, 1, 1)")
        wait_until(
            "the rows to wait", lambda: scrape(url).get(("pgtrickle_pending_rows", (table,)), 0) >= 2, deadline_s=20
        )
        kinds = {name for name, _ in scrape(url)}
        assert {"pgtrickle_refreshes_total", "pgtrickle_last_refresh_seconds", "pgtrickle_status"} <= kinds
        assert running.finish() == 0


@pytest.mark.parametrize(("days", "left"), [("3d", 1), ("1d", 0)])
def test_history_is_kept_as_long_as_asked(database: Node, days: str, left: int) -> None:
    prepare(database, is_distributed=False)
    database.sql("UPDATE pgtrickle.pgt_refresh_history SET end_time = end_time - interval '2 days'")
    count = "SELECT count(*) FROM pgtrickle.pgt_refresh_history"
    with scheduler(database.dsn(), "--keep-history", days) as running:
        running.wait_for("started")
        # Its end waits for what clears.
        wait_until("the history to be as asked", lambda: database.value(count) == left, deadline_s=20)
        assert running.finish() == 0
    assert database.value(count) == left


def test_once_refreshes_what_is_due_and_leaves(database: Node) -> None:
    prepare(database, is_distributed=False, schedule="1h")
    with database.connect() as connection, StreamTables(connection) as tables:
        tables.create("buckets", BUCKETS, "after")
    change(database)
    database.sql("UPDATE pgtrickle.pgt_stream_tables SET data_timestamp = data_timestamp - interval '2 hours'")
    with scheduler(database.dsn(), "--once") as running:
        assert running.process.wait(timeout=60) == 0
        assert running.finish() == 0
        assert [event["stream_table"] for event in running.seen("refreshed")] == ["public.balances", "public.buckets"]
    assert_all_equal(database, "balances", "buckets")
    database.sql("UPDATE pgtrickle.pgt_stream_tables SET schedule = 'soon' WHERE pgt_name = 'balances'")
    with scheduler(database.dsn(), "--once") as running:
        assert running.process.wait(timeout=60) == 1
