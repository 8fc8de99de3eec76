"""A row that the query cannot compute: it fails the refresh, and once it is mended nothing of it stays."""

from __future__ import annotations

import contextlib
from typing import LiteralString

import psycopg
import pytest

from harness.errors import HarnessError
from harness.postgres import Node
from scenarios.engine.shop import CHANGES, open_shop, refreshed

RATES: LiteralString = (
    "SELECT customer, sum(10 / amount) AS x FROM orders WHERE amount <> 0 OR note = 'zero' GROUP BY customer"
)
NOT_COMPUTED: LiteralString = "INSERT INTO orders (id, customer, amount, note) VALUES (9000, 1, 0, 'zero')"


def test_row_that_could_not_be_computed_and_was_mended_does_not_stop_refreshes(database: Node) -> None:
    """Its image stays in the buffer, where the delta meets it again; the query itself can be run."""
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("rates", RATES, None, "DIFFERENTIAL")
        connection.execute(NOT_COMPUTED)
        with contextlib.closing(database.connect()) as other, pytest.raises(psycopg.errors.DivisionByZero):
            other.execute(RATES)
        with pytest.raises((HarnessError, psycopg.errors.DivisionByZero), match="division by zero"):
            stream_tables.refresh("rates")
        assert stream_tables.list()[0].consecutive_errors == 1
        connection.execute("UPDATE orders SET amount = 1 WHERE id = 9000")
        refreshed(connection, stream_tables, "rates")
        assert stream_tables.list()[0].consecutive_errors == 0
        connection.execute(CHANGES)
        assert refreshed(connection, stream_tables, "rates").action == "DIFFERENTIAL"
