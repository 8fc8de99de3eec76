"""What a delta does to the stream table, on both engines: what looks different, what is in its way, what others see."""

from __future__ import annotations

import threading

import psycopg
import pytest

from harness.errors import CheckFailedError, LockedError, RefusedError
from scenarios.beside.shops import Shop, writing
from scenarios.engine import test_apply, test_mended
from scenarios.engine.shop import TOTALS

NOTES = "SELECT note, count(*) AS n FROM orders GROUP BY note"


@pytest.mark.pg_trickle(
    "failed",
    match=r"a write to the source failed: operator does not exist: json = json",
    reason="0.67: every UPDATE of a source with a json column fails",
)
def test_values_that_look_different_and_are_equal_follow_as_they_look(shop: Shop) -> None:
    for statement in test_apply.LOOKS:
        shop.connection.execute(statement)
    shop.tables.create("looks", "SELECT n, i, j, k, m, f, a FROM images", mode="DIFFERENTIAL")
    with writing():
        shop.connection.execute(test_apply.LOOK_DIFFERENT)
    shop.refreshed("looks", as_text=True)


def test_equal_value_of_a_group_that_looks_different_is_no_second_group(shop: Shop) -> None:
    with shop.kept("SELECT amount, count(*) AS n FROM orders GROUP BY amount", "DIFFERENTIAL", "per_amount"):
        shop.connection.execute("INSERT INTO orders (id, customer, amount) VALUES (9001, 1, 3.00), (9002, 1, 3.0)")
        shop.refreshed("per_amount")
        shop.connection.execute("DELETE FROM orders WHERE amount = 3 AND id < 9001")
        shop.refreshed("per_amount")


@pytest.mark.pg_trickle(
    "wrong",
    match=r"^after DIFFERENTIAL: 2 rows missing, 2 extra",
    reason="0.67: sums over NaN or Infinity are wrong, without an error: 2 of 20 groups",
)
def test_sums_with_nan_and_infinity_are_those_of_the_query(shop: Shop) -> None:
    shop.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
    for value in ("NaN", "Infinity", "-Infinity", "1"):
        shop.connection.execute("UPDATE orders SET amount = %s WHERE id IN (7, 40)", [value])
        shop.refreshed("totals")


def test_index_that_its_owner_made_unique_stops_a_refresh_that_changes_nothing(shop: Shop) -> None:
    shop.tables.create("plain", "SELECT id, note FROM orders", mode="DIFFERENTIAL")
    shop.connection.execute("CREATE UNIQUE INDEX only_one_note ON plain (note) WHERE note = 'twice'")
    shop.connection.execute("INSERT INTO orders (id, customer, note) VALUES (9001, 1, 'twice'), (9002, 1, 'twice')")
    with pytest.raises((CheckFailedError, RefusedError)):
        shop.tables.refresh("plain")
    assert shop.connection.execute("SELECT count(*) FROM plain").fetchone() == (300,)
    shop.connection.execute("DROP INDEX only_one_note")
    shop.refreshed("plain")


@pytest.mark.parametrize("query", test_apply.WRITTEN_BEHIND, ids=["groups", "values", "rows"])
@pytest.mark.pg_trickle(
    "lost",
    match=r"^after DIFFERENTIAL: (19|285) rows missing, 0 extra",
    reason="0.67 takes no notice: 19 of 19 groups and 285 of 285 rows stay away, without an error",
)
def test_table_that_a_replicas_session_emptied_is_filled_again(shop: Shop, query: str) -> None:
    """Where a delta finds what it cannot have left, it is no use any more."""
    shop.tables.create("kept", query, mode="DIFFERENTIAL")
    for statement in ("SET session_replication_role = replica", "DELETE FROM kept", "RESET session_replication_role"):
        shop.connection.execute(statement.encode())
    shop.connection.execute("DELETE FROM orders WHERE customer = 3")
    shop.refreshed("kept")


def test_full_refresh_never_shows_an_empty_table(shop: Shop) -> None:
    shop.tables.create("totals", TOTALS, mode="FULL")
    done, seen = threading.Event(), threading.Event()
    counts: list[int] = []

    def look() -> None:
        with shop.cluster.coordinator.connect() as reader:
            while not done.is_set():
                row = reader.execute("SELECT count(*) FROM totals").fetchone()
                counts.append(row[0] if row else -1)
                seen.set()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _round in range(15):
            seen.clear()
            assert seen.wait(timeout=30), "the reader reads"
            shop.connection.execute("UPDATE orders SET amount = amount + 1")
            shop.tables.refresh("totals")
    finally:
        done.set()
        looking.join()
    assert set(counts) == {20}
    assert shop.tables.difference("totals").is_equal


def test_sessions_that_refresh_one_table_at_once_do_it_once(shop: Shop) -> None:
    """Who comes second may be turned away; what both did is what one had done."""
    shop.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
    errors: list[Exception] = []

    def refresh() -> None:
        try:
            with shop.cluster.coordinator.connect() as own, shop.engine.open(own) as tables:
                tables.refresh("totals")
        except LockedError:
            pass
        except Exception as error:
            errors.append(error)

    for _round in range(5):
        shop.change()
        threads = [threading.Thread(target=refresh) for _number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        shop.refreshed("totals")


@pytest.mark.pg_trickle(
    "failed",
    match=r"column \"n\" is of type bigint but expression is of type text",
    reason="0.67: alter to another query keeps the old columns' types, and fails where they do not fit",
)
def test_query_and_mode_are_altered_and_followed(shop: Shop) -> None:
    shop.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
    shop.tables.alter("totals", query=NOTES, schedule="5m")
    shop.change()
    shop.refreshed("totals")
    for mode in ("FULL", "AUTO", "DIFFERENTIAL"):
        shop.tables.alter("totals", mode=mode)
        shop.change()
        shop.refreshed("totals")


@pytest.mark.pg_trickle(
    "unlike",
    match=r"^77 rows stay",
    reason="0.67: all 77 consumed rows stay after both readers were refreshed",
)
def test_rows_that_all_readers_consumed_leave_the_buffer(shop: Shop) -> None:
    shop.tables.create("one", TOTALS, mode="DIFFERENTIAL")
    shop.tables.create("two", NOTES, mode="DIFFERENTIAL")
    shop.change()
    shop.refreshed("one")
    assert shop.tables.footprint("public", "orders").waiting > 0, "the other reader has not seen them"
    shop.refreshed("two")
    waiting = shop.tables.footprint("public", "orders").waiting
    assert waiting == 0, f"{waiting} rows stay"


def test_row_that_could_not_be_computed_and_was_mended_does_not_stop_refreshes(shop: Shop) -> None:
    shop.tables.create("rates", test_mended.RATES, mode="DIFFERENTIAL")
    shop.connection.execute(test_mended.NOT_COMPUTED)
    with pytest.raises((RefusedError, CheckFailedError, psycopg.errors.DivisionByZero), match="division by zero"):
        shop.tables.refresh("rates")
    shop.connection.execute("UPDATE orders SET amount = 1 WHERE id = 9000")
    shop.refreshed("rates")
    shop.change()
    shop.refreshed("rates")


@pytest.mark.pg_trickle("unlike", match="^0 of 2 counted", reason="0.67: what fails by hand is not counted: 0 of 2")
def test_failed_refresh_is_counted_until_one_succeeds(shop: Shop) -> None:
    shop.tables.create("rates", test_mended.RATES, mode="DIFFERENTIAL")
    shop.connection.execute(test_mended.NOT_COMPUTED)
    for _attempt in range(2):
        with pytest.raises((RefusedError, CheckFailedError, psycopg.errors.DivisionByZero)):
            shop.tables.refresh("rates")
    counted = shop.tables.standing("rates").consecutive_errors
    assert counted == 2, f"{counted} of 2 counted"
    shop.connection.execute("UPDATE orders SET amount = 1 WHERE id = 9000")
    shop.refreshed("rates")
    assert shop.tables.standing("rates").consecutive_errors == 0
