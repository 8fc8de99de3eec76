"""Both engines' interface without a server: what is a refusal, and writers that do not end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql

from harness.clusters import Cluster
from harness.engines import PG_TRICKLE, losses
from harness.engines.model import EngineRefusedError
from harness.engines.pg_trickle import PeerTables
from harness.errors import WaitTimeoutError
from harness.postgres import Node
from scenarios.beside.test_random_queries import Player
from scenarios.fixtures.engines import Ground
from scenarios.properties.statements import Statement, Transaction


def _tables(*, closed: bool) -> PeerTables:
    def execute(*_arguments: object) -> None:
        raise psycopg.OperationalError("it said no")

    return PeerTables(cast("psycopg.Connection[Any]", SimpleNamespace(closed=closed, broken=False, execute=execute)))


def test_lost_connection_is_no_refusal_of_the_extension() -> None:
    with pytest.raises(EngineRefusedError, match="refresh totals: it said no"):
        _tables(closed=False).refresh("totals")
    with pytest.raises(psycopg.OperationalError, match=r"^it said no$"):
        _tables(closed=True).refresh("totals")


class _Writer:
    """Refuses what it is told to write, and remembers how its transactions ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.ended.append("rolled back")
            raise
        self.ended.append("committed")

    def execute(self, _query: object) -> None:
        raise psycopg.errors.InternalError_("the capture function failed")


@pytest.mark.parametrize("commits", [True, False])
def test_write_that_fails_inside_a_transaction_is_not_forgotten(commits: bool) -> None:
    writer = _Writer()
    connection = cast("psycopg.Connection[Any]", writer)
    player = Player(Ground(PG_TRICKLE, Cluster("nowhere", cast("Node", None), ())), connection, connection)
    statement = Statement(sql.SQL("INSERT INTO {} VALUES (1)").format(sql.Identifier("a")))
    assert player._run([Transaction((statement,), commits)], None) == "write failed"
    assert writer.ended == ["rolled back", "rolled back"]


def test_writers_that_do_not_end_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def connect() -> None:
        let_go.wait(60)
        raise psycopg.OperationalError("too late")

    monkeypatch.setattr(losses, "_MOST_S", 0.1)
    node = cast("Node", SimpleNamespace(connect=connect))
    try:
        with pytest.raises(WaitTimeoutError, match="last seen: writer 0, writer 1"), losses._writing(node, 2):
            pass
        with pytest.raises(WaitTimeoutError, match="the writers to commit"):
            losses._wait_for_more(lambda: 1)
    finally:
        let_go.set()
