"""Delta or everything: what AUTO goes by, what it learns from each refresh, and what the history says of it."""

from __future__ import annotations

import pytest

from harness.postgres import Node
from scenarios.engine.shop import CHANGES, TOTALS, Connection, open_shop, refreshed

LAST = "SELECT action, reason FROM pgtrickle.pgt_refresh_history ORDER BY refresh_id DESC LIMIT 1"
COSTS = "SELECT last_full_ms, differential_us_per_change FROM pgtrickle.pgt_stream_tables"


def costs(connection: Connection) -> tuple[float | None, float | None]:
    row = connection.execute(COSTS).fetchone()
    assert row is not None
    return row[0], row[1]


def set_costs(connection: Connection, last_full_ms: float | None, us_per_change: float | None) -> None:
    connection.execute(
        "UPDATE pgtrickle.pgt_stream_tables SET last_full_ms = %s, differential_us_per_change = %s",
        [last_full_ms, us_per_change],
    )


def test_auto_goes_to_full_and_back_and_history_has_every_reason(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None)
        seen = []
        for changes, last_full_ms, us_per_change in (
            ("UPDATE orders SET amount = amount + 1 WHERE id < 5", 5.0, 100.0),  # few
            ("UPDATE orders SET amount = amount + 1", 5.0, 100.0),  # many, and dear
            ("UPDATE orders SET amount = amount + 1", 500.0, 100.0),  # as many, and recomputing is dearer
            ("UPDATE orders SET amount = amount + 1", None, 100.0),  # nobody knows
            ("UPDATE orders SET amount = amount + 1", 5.0, 100.0),
        ):
            set_costs(connection, last_full_ms, us_per_change)
            connection.execute(changes)
            done = refreshed(connection, stream_tables, "totals")
            assert connection.execute(LAST).fetchone() == (done.action, done.reason)
            seen.append(done.action)
        assert seen == ["DIFFERENTIAL", "FULL", "DIFFERENTIAL", "DIFFERENTIAL", "FULL"]
        assert refreshed(connection, stream_tables, "totals").action == "NO_DATA"


def test_costs_are_measured_by_the_refreshes_themselves(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None)
        full, change = costs(connection)
        assert (full is not None and full > 0, change) == (True, None), "the first fill is a measure of recomputing"
        connection.execute("UPDATE orders SET amount = amount + 1 WHERE id < 3")
        refreshed(connection, stream_tables, "totals")
        assert costs(connection) == (full, None), "four captured rows say nothing of one"
        connection.execute("UPDATE orders SET amount = amount + 1")
        done = refreshed(connection, stream_tables, "totals")
        assert done.change_count == 600
        found = costs(connection)
        assert found[0] == full
        assert found[1] is not None
        assert 0 < found[1] <= done.elapsed_ms * 1000 / 600
        connection.execute("UPDATE orders SET amount = amount + 1")
        assert refreshed(connection, stream_tables, "totals", mode="FULL").action == "FULL"
        again = costs(connection)
        assert again[0] != full
        assert again[1] == pytest.approx(0.9 * found[1])


def test_mode_that_was_asked_for_is_taken_whatever_it_costs(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("kept", TOTALS, None, "DIFFERENTIAL")
        set_costs(connection, 0.001, 1e6)
        connection.execute("UPDATE orders SET amount = amount + 1")
        assert refreshed(connection, stream_tables, "kept").action == "DIFFERENTIAL"
        connection.execute(CHANGES)
        done = refreshed(connection, stream_tables, "kept", mode="FULL")
        assert (done.action, done.reason) == ("FULL", "mode FULL")
        assert stream_tables.list()[0].mode == "DIFFERENTIAL", "for this time"
        assert stream_tables.status("kept")[0].pending == {"public.orders": 0}
        connection.execute(CHANGES)
        assert refreshed(connection, stream_tables, "kept").action == "DIFFERENTIAL"


def test_forced_delta_of_a_table_in_mode_auto_is_one(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("kept", TOTALS, None, "AUTO")
        set_costs(connection, 0.001, 1e6)
        connection.execute("UPDATE orders SET amount = amount + 1")
        assert refreshed(connection, stream_tables, "kept", mode="differential").action == "DIFFERENTIAL"


def test_refresh_in_full_without_changes_recomputes_and_one_in_auto_does_not(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("kept", TOTALS, None)
        assert refreshed(connection, stream_tables, "kept", mode="FULL").action == "FULL"
        done = refreshed(connection, stream_tables, "kept")
        assert (done.action, done.change_count, done.rows_inserted, done.rows_deleted) == ("NO_DATA", 0, 0, 0)
        assert connection.execute(LAST).fetchone() == ("NO_DATA", done.reason)


def test_refresh_counts_what_it_took_and_what_it_did(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("large", "SELECT id, amount FROM orders WHERE amount > 3", None, "DIFFERENTIAL")
        connection.execute("INSERT INTO orders (id, customer, amount) VALUES (901, 1, 9), (902, 1, 1)")
        connection.execute("DELETE FROM orders WHERE id IN (4, 5)")
        done = refreshed(connection, stream_tables, "large")
        assert (done.action, done.change_count) == ("DIFFERENTIAL", 4)
        assert (done.rows_inserted, done.rows_deleted) == (1, 2)
        row = connection.execute(
            "SELECT rows_inserted, rows_deleted, status, initiated_by FROM pgtrickle.pgt_refresh_history"
            " ORDER BY refresh_id DESC LIMIT 1"
        ).fetchone()
        assert row == (1, 2, "COMPLETED", "MANUAL")
