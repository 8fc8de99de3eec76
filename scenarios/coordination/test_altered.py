"""A stream table that gets another query: readers see one of the two, whatever happens on the way."""

from __future__ import annotations

import contextlib
import threading

import psycopg
import pytest
from psycopg import sql

from harness.errors import RefusedError
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.coordination.clients import (
    client,
    held_before_its_commit,
    refresh_from_two,
    st,
    wait_for_refresh_before_its_commit,
    wait_for_session_end,
)
from scenarios.coordination.schedulers import scheduler
from scenarios.coordination.stages import change, prepare

OTHER = "SELECT account % 2 AS parity, count(*) AS n FROM entries GROUP BY account % 2"


def _is_as_before(node: Node) -> None:
    with node.connect() as connection, StreamTables(connection) as tables:
        (found,) = (one for one in tables.list() if one.name == "balances")
        assert (found.status, found.is_populated) == ("ACTIVE", True)
        change(node)
        assert tables.refresh("balances").action == "DIFFERENTIAL"
        assert_equal(connection, "balances")


def test_readers_never_see_it_empty_while_its_query_changes(place: Node) -> None:
    done = threading.Event()
    counts: list[int] = []

    def read() -> None:
        with place.connect() as reader:
            while not done.is_set():
                row = reader.execute("SELECT sum(n) FROM balances").fetchone()
                counts.append(0 if row is None or row[0] is None else int(row[0]))

    reading = threading.Thread(target=read)
    reading.start()
    try:
        with place.connect() as connection, StreamTables(connection) as tables:
            number = tables.list()[0].pgt_id
            for query in (OTHER, "SELECT account, amount, count(*) AS n FROM entries GROUP BY account, amount", OTHER):
                altered = tables.alter("balances", query=query, schedule="7m")
                assert (altered.pgt_id, altered.schedule, altered.status) == (number, "7m", "ACTIVE")
                assert_equal(connection, "balances")
                change(place)
                assert tables.refresh("balances").action == "DIFFERENTIAL"
                assert_equal(connection, "balances")
    finally:
        done.set()
        reading.join()
    assert counts
    assert min(counts) >= 200
    assert place.value("SELECT count(*) FROM pgtrickle.pgt_stream_tables") == 1
    assert place.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 1
    assert place.value("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND starts_with(relname, '__pgt_new')") == 0


def test_query_that_cannot_be_filled_leaves_it_as_it_was(place: Node) -> None:
    with place.connect() as connection, StreamTables(connection) as tables:
        place.sql("INSERT INTO entries VALUES (900, 0, 0)")
        tables.refresh("balances")
        with pytest.raises(psycopg.errors.DivisionByZero):
            tables.alter("balances", query="SELECT id, 1 / amount AS share FROM entries")
        connection.execute("CREATE VIEW uses AS SELECT * FROM balances")
        with pytest.raises(RefusedError, match="uses"):
            tables.alter("balances", query=OTHER)
        connection.execute("DROP VIEW uses")
        assert [found.name for found in tables.list()] == ["balances"]
    _is_as_before(place)


def test_suspended_one_stays_suspended(place: Node) -> None:
    with place.connect() as connection, StreamTables(connection) as tables:
        tables.suspend("balances", "the night's load")
        altered = tables.alter("balances", query=OTHER)
        assert (altered.status, altered.suspended_reason, altered.is_populated) == (
            "SUSPENDED",
            "the night's load",
            True,
        )
        assert_equal(connection, "balances")
        tables.resume("balances")
        change(place)
        assert tables.refresh("balances").action == "DIFFERENTIAL"
        assert_equal(connection, "balances")


@pytest.mark.allow_log("connection to client lost|could not (send|receive) data", "the client was killed")
def test_harness_killed_on_the_way_leaves_it_as_it_was_and_the_next_goes_on(place: Node) -> None:
    with contextlib.ExitStack() as stack, held_before_its_commit(place):
        killed = stack.enter_context(client(st("alter", "balances", "--query", OTHER), place.dsn()))
        session = wait_for_refresh_before_its_commit(place)
        killed.kill()
    wait_for_session_end(place, session, deadline_s=30)
    _is_as_before(place)
    with place.connect() as connection, StreamTables(connection) as tables:
        tables.alter("balances", query=OTHER)
        assert [found.name for found in tables.list()] == ["balances"], "what the killed one left is gone"
        assert_equal(connection, "balances")


def test_scheduler_clears_away_what_a_killed_change_left_and_not_what_is_at_work(database: Node) -> None:
    prepare(database, is_distributed=False)
    aside = "SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE starts_with(pgt_name, '__pgt_new')"
    with contextlib.ExitStack() as stack, held_before_its_commit(database):
        killed = stack.enter_context(client(st("alter", "balances", "--query", OTHER), database.dsn()))
        wait_for_refresh_before_its_commit(database)
        with database.connect() as connection, StreamTables(connection) as tables:
            assert tables.clear_left_behind() == []
        killed.kill()
    assert database.value(aside) == 1
    with scheduler(database.dsn()) as running:
        running.wait_for("started")
        running.wait_for("repaired")
        wait_until("it to be gone", lambda: not database.value(aside), deadline_s=30)
        assert running.finish() == 0
    _is_as_before(database)


def test_leases_work_where_transactions_are_serializable(place: Node) -> None:
    with place.connect() as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = serializable").format(name))
    ended = refresh_from_two(place, count=30, wait_s=30)
    assert [code for code, _, _ in ended] == [0, 0], ended
    _is_as_before(place)
