"""A query that cannot be read for a moment, as while a new name reaches the nodes one by one, is not given up."""

from __future__ import annotations

import pytest
from psycopg import sql

from harness.citus import Connection
from harness.errors import QueryRefusedError
from harness.postgres import Node
from harness.trickle import StreamTables, analysis, planner
from harness.trickle.canonical import Canonical, canonicalize
from harness.trickle.oracle import assert_equal

QUERY = "SELECT account, count(*) AS n FROM entries GROUP BY account"
_CAPTURED = "SELECT bool_and(is_captured) FROM pgtrickle.pgt_dependencies"


class Flickering:
    """Reads queries, but for some times of looking again, which find what a worker says during a rename."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.calls = 0
        self._real = canonicalize

    def __call__(self, connection: Connection, query: sql.Composable) -> Canonical:
        self.calls += 1
        # The first look at a query is refused in words; it is the second one that was taken for a judgement.
        if self.calls % 2 == 0 and self.left:
            self.left -= 1
            self.calls = 0
            raise QueryRefusedError('column "account" does not exist', hint="name a column that is there")
        return self._real(connection, query)


@pytest.fixture
def made(place: Node) -> Node:
    with place.connect() as connection, StreamTables(connection) as tables:
        tables.create("shares", QUERY, None, "DIFFERENTIAL")
    return place


@pytest.mark.parametrize("failures", [1, 2])
def test_it_stays_followed(made: Node, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    flickering = Flickering(failures)
    monkeypatch.setattr(analysis, "canonicalize", flickering)
    with made.connect() as connection, StreamTables(connection) as tables:
        connection.execute("INSERT INTO entries SELECT i + 100000, 3, 1 FROM generate_series(1, 4) i")
        assert tables.refresh("shares").action == "DIFFERENTIAL"
        assert flickering.left == 0
        assert connection.execute(_CAPTURED).fetchone() == (True,)
        assert_equal(connection, "shares")


def test_what_lasts_is_a_judgement(made: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "canonicalize", Flickering(1000))
    monkeypatch.setattr(planner, "PAUSES_S", (0.05, 0.05))
    with made.connect() as connection, StreamTables(connection) as tables:
        connection.execute("INSERT INTO entries SELECT i + 100000, 3, 1 FROM generate_series(1, 4) i")
        assert tables.refresh("shares").action in {"FULL", "REINITIALIZE"}
        assert connection.execute(_CAPTURED).fetchone() == (False,)
        assert_equal(connection, "shares")
