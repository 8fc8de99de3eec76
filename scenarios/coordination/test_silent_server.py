"""A server that says nothing holds up who asked it, for as long as they said, and nobody else in the process."""

from __future__ import annotations

import contextlib
import threading

import pytest
from psycopg import sql

from harness.errors import WaitTimeoutError
from harness.postgres import Node
from harness.trickle.canonical import describe

QUERY = sql.SQL("SELECT id FROM quiet")


def test_describing_a_query_ends_at_the_deadline_and_lets_other_threads_run(database: Node) -> None:
    database.sql("CREATE TABLE quiet (id int)")
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.01):
            ticks += 1

    beside = threading.Thread(target=tick)
    with contextlib.closing(database.connect(autocommit=False)) as locker, database.connect() as connection:
        assert [column.name for column in describe(connection, QUERY)] == ["id"]
        locker.execute("LOCK TABLE quiet")  # whoever plans a query of it waits
        connection.execute("SET deadlock_timeout = '20s'")  # the lock is given up before that
        connection.deadline_s = 3
        beside.start()
        try:
            with pytest.raises(WaitTimeoutError):
                describe(connection, QUERY)
        finally:
            done.set()
            beside.join()
    assert ticks > 5
