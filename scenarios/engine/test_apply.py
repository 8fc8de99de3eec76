"""What a delta does to the table, and what it must not do: merge two rows, miss one, or show none."""

from __future__ import annotations

import threading
from typing import LiteralString

import pytest
from psycopg import sql

from harness.errors import CheckFailedError, LockedError, RefusedError
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from scenarios.engine.shop import CHANGES, TOTALS, open_shop, refreshed

LOOKS: tuple[LiteralString, ...] = (
    "CREATE TYPE mood AS ENUM ('sad', 'glad')",
    "CREATE TABLE images (id int PRIMARY KEY, n numeric, i interval, j jsonb, k json, m mood, f float8, a numeric[])",
    """INSERT INTO images VALUES (1, 1.0, '1 day', '{"a": 1}', '{"a":1}', 'sad', 0, '{1.0}'),
    (2, 'NaN', '24 hours', '[]', NULL, 'glad', '-0', NULL)""",
)
LOOK_DIFFERENT: LiteralString = "UPDATE images SET n = 1.00, i = '24 hours', a = '{1.00}', m = 'glad' WHERE id = 1"
WRITTEN_BEHIND = (TOTALS, "SELECT note FROM orders", "SELECT id, amount FROM orders")


def test_two_groups_with_one_hash_are_never_merged(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        connection.execute(
            "BEGIN; SET LOCAL pgtrickle.refreshing = 'on';"
            " UPDATE totals SET __pgt_row_id = hash_record_extended(ROW(777), 5871781006564002453) WHERE customer ="
            " 5; COMMIT"
        )
        connection.execute("INSERT INTO orders (id, customer, amount) VALUES (9001, 777, 3)")
        done = refreshed(connection, stream_tables, "totals")
        assert done.action == "REINITIALIZE", "a group of another key was in the way, and was not added to"
        assert connection.execute("SELECT n, total FROM totals WHERE customer = 777").fetchone() == (1, 3)


def test_two_rows_with_one_hash_are_an_error_and_change_nothing(database: Node) -> None:
    """A collision that filling anew does not mend: it is made by a hash function of this test's own."""
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("plain", "SELECT id, note FROM orders", None, "DIFFERENTIAL")
        connection.execute("CREATE UNIQUE INDEX only_one_note ON plain (note) WHERE note = 'twice'")
        connection.execute("INSERT INTO orders (id, customer, note) VALUES (9001, 1, 'twice'), (9002, 1, 'twice')")
        before = connection.execute("SELECT count(*) FROM plain").fetchone()
        with pytest.raises(CheckFailedError, match="row id"):
            stream_tables.refresh("plain")
        assert connection.execute("SELECT count(*) FROM plain").fetchone() == before
        connection.execute("DROP INDEX only_one_note")
        refreshed(connection, stream_tables, "plain")


@pytest.mark.parametrize("query", WRITTEN_BEHIND)
def test_table_that_was_written_behind_its_back_is_filled_anew(database: Node, query: str) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("kept", query, None, "DIFFERENTIAL")
        connection.execute("BEGIN; SET LOCAL pgtrickle.refreshing = 'on'; DELETE FROM kept; COMMIT")
        connection.execute("DELETE FROM orders WHERE customer = 3")
        done = refreshed(connection, stream_tables, "kept")
        assert done.action == "REINITIALIZE"
        assert "did not fit" in done.reason
        row = connection.execute(
            "SELECT was_full_fallback, reason FROM pgtrickle.pgt_refresh_history ORDER BY refresh_id DESC LIMIT 1"
        ).fetchone()
        assert row == (True, done.reason)


def test_values_that_look_different_and_are_equal_follow_as_they_look(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        for statement in LOOKS:
            connection.execute(statement)
        stream_tables.create("looks", "SELECT n, i, j, k, m, f, a FROM images", None, "DIFFERENTIAL")
        connection.execute(LOOK_DIFFERENT)
        assert stream_tables.refresh("looks").action == "DIFFERENTIAL"
        seen = connection.execute("SELECT n::text, i::text, a::text, m::text FROM looks WHERE n <> 'NaN'").fetchone()
        assert seen == ("1.00", "24:00:00", "{1.00}", "glad")


def test_sums_with_nan_and_infinity_are_those_of_the_query(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        for value in ("NaN", "Infinity", "-Infinity", "1"):
            connection.execute("UPDATE orders SET amount = %s WHERE id IN (7, 40)", [value])
            refreshed(connection, stream_tables, "totals")


def test_full_refresh_never_shows_an_empty_table(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "FULL")
        done, seen = threading.Event(), threading.Event()
        counts: list[int] = []

        def read() -> None:
            with database.connect() as reader:
                while not done.is_set():
                    row = reader.execute("SELECT count(*) FROM totals").fetchone()
                    counts.append(row[0] if row else -1)
                    seen.set()

        reading = threading.Thread(target=read)
        reading.start()
        try:
            for _round in range(15):
                seen.clear()
                assert seen.wait(timeout=30), "the reader reads"
                connection.execute("UPDATE orders SET amount = amount + 1")
                assert stream_tables.refresh("totals").action == "FULL"
        finally:
            done.set()
            reading.join()
        assert set(counts) == {20}
        assert_equal(connection, "totals")


def test_two_sessions_do_not_refresh_one_table_at_once(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        row = connection.execute("SELECT pgt_id FROM pgtrickle.pgt_stream_tables").fetchone()
        assert row is not None
        with database.connect() as other:
            other.execute("SELECT pg_advisory_lock(%s, %s)", [0x7067_7443, row[0]])
            with pytest.raises(LockedError, match="totals"):
                stream_tables.refresh("totals")
            other.execute("SELECT pg_advisory_unlock_all()")  # a server notices a closed connection a moment later
        refreshed(connection, stream_tables, "totals")


def test_suspended_table_is_not_refreshed_and_loses_nothing(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        stream_tables.suspend("totals")
        connection.execute(CHANGES)
        with pytest.raises(RefusedError, match="suspended"):
            stream_tables.refresh("totals")
        assert stream_tables.status("totals")[0].pending["public.orders"] > 0
        stream_tables.resume("totals")
        assert refreshed(connection, stream_tables, "totals").action == "DIFFERENTIAL"


def test_stream_table_over_a_stream_table(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        stream_tables.create("spread", "SELECT n, count(*) AS customers FROM totals GROUP BY n", None, "DIFFERENTIAL")
        connection.execute(CHANGES)
        refreshed(connection, stream_tables, "totals")
        assert refreshed(connection, stream_tables, "spread").action == "DIFFERENTIAL"
        with pytest.raises(RefusedError, match="spread"):
            stream_tables.drop("totals")
        stream_tables.drop("totals", cascade=True)
        assert stream_tables.list() == []
        assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)


def test_alter_changes_query_and_mode(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        made = stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        altered = stream_tables.alter(
            "totals", query="SELECT note, count(*) AS n FROM orders GROUP BY note", schedule="5m"
        )
        assert (altered.pgt_id, altered.schedule, altered.is_populated) == (made.pgt_id, "5m", True)
        connection.execute(CHANGES)
        assert refreshed(connection, stream_tables, "totals").action == "DIFFERENTIAL"
        stream_tables.alter("totals", mode="FULL")
        assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)
        connection.execute(CHANGES)
        assert refreshed(connection, stream_tables, "totals").action == "FULL"
        stream_tables.alter("totals", mode="AUTO", schedule="manual")
        connection.execute("UPDATE orders SET note = 'other' WHERE id < 3")
        done = refreshed(connection, stream_tables, "totals")
        assert done.action == "DIFFERENTIAL"
        assert stream_tables.list()[0].schedule is None


def test_auto_takes_the_cheaper_and_says_so(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "AUTO")
        connection.execute("UPDATE pgtrickle.pgt_stream_tables SET last_full_ms = 5, differential_us_per_change = 100")
        connection.execute("UPDATE orders SET amount = amount + 1")
        done = refreshed(connection, stream_tables, "totals")
        assert done.action == "FULL"
        assert "600 changes at 100 us would take 60 ms, recomputing took 5 ms" in done.reason
        assert connection.execute(
            "SELECT action, was_full_fallback, reason FROM pgtrickle.pgt_refresh_history ORDER BY refresh_id DESC"
            " LIMIT 1"
        ).fetchone() == ("FULL", True, done.reason)
        connection.execute("UPDATE orders SET amount = amount + 1 WHERE id < 4")
        assert refreshed(connection, stream_tables, "totals").action == "DIFFERENTIAL"


def test_consumed_rows_leave_the_buffer(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("one", TOTALS, None, "DIFFERENTIAL")
        stream_tables.create("two", "SELECT note, count(*) AS n FROM orders GROUP BY note", None, "DIFFERENTIAL")
        stable = connection.execute("SELECT source_stable_name FROM pgtrickle.pgt_change_tracking").fetchone()
        assert stable is not None

        def left() -> int:
            return sum(status.pending["public.orders"] for status in stream_tables.status())

        connection.execute(CHANGES)
        stream_tables.refresh("one")
        assert left() > 0
        stream_tables.refresh("two")
        assert left() == 0
        buffer = sql.Identifier("pgtrickle_changes", f"changes_{stable[0]}")
        row = database.value(sql.SQL("SELECT count(*) FROM {}").format(buffer))
        assert row == 0


def test_connection_in_a_transaction_is_refused(database: Node) -> None:
    with open_shop(database) as (connection, _stream_tables):
        connection.autocommit = False
        connection.execute("SELECT 1")
        with pytest.raises(RefusedError, match="autocommit"):
            StreamTables(connection)
