"""Where a refresh and somebody's own statements wait for each other in a circle, the refresh gives way (F24 to F26)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from psycopg import sql

from harness.errors import LeaseLostError
from harness.postgres import Node
from harness.trickle import StreamTables, catalog
from harness.trickle.catalog import Refresh
from harness.trickle.oracle import assert_equal
from harness.trickle.repair import settle
from harness.waiting import wait_until

QUERY = "SELECT a.id, a.v, b.w FROM a JOIN b USING (id)"
WAITS = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    " AND application_name = 'the refresh'"
)


@pytest.fixture
def joined(database: Node) -> Node:
    with database.connect() as connection, StreamTables(connection) as tables:
        connection.execute("CREATE TABLE a (id int PRIMARY KEY, v int)")
        connection.execute("CREATE TABLE b (id int PRIMARY KEY, w int)")
        connection.execute("INSERT INTO a SELECT i, i FROM generate_series(1, 50) i")
        connection.execute("INSERT INTO b SELECT i, i FROM generate_series(1, 50) i")
        tables.create("joined", QUERY, None, "DIFFERENTIAL")
        # So long others wait before they look for a circle; the refresh gives way before that.
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '4s'").format(name))
    return database


@contextlib.contextmanager
def refreshing(node: Node, mode: str) -> Iterator[list[Refresh | Exception]]:
    """A refresh in another thread; what came of it is in the list after the block."""
    found: list[Refresh | Exception] = []

    def work() -> None:
        with node.connect() as connection, StreamTables(connection) as tables:
            connection.execute("SET application_name = 'the refresh'")
            try:
                found.append(tables.refresh("joined", mode=mode))
            except Exception as error:
                found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield found
    finally:
        thread.join(timeout=60)


def test_somebody_who_closes_a_circle_with_a_refresh_is_not_its_victim(joined: Node) -> None:
    """The refresh has read a and waits for b; who has b alters a. The last one to wait would be the one that fails."""
    for mode in ("FULL", "DIFFERENTIAL"):
        joined.sql("UPDATE a SET v = v + 1 WHERE id < 9")
        joined.sql("UPDATE b SET w = w + 1 WHERE id > 40")
        with contextlib.closing(joined.connect(autocommit=False)) as person:
            person.execute("LOCK TABLE b IN ACCESS EXCLUSIVE MODE")
            with refreshing(joined, mode) as found:
                wait_until("the refresh to wait for b", lambda: joined.rows(WAITS), deadline_s=20)
                person.execute(f"ALTER TABLE a ADD COLUMN of_{mode} int".encode())
                person.commit()
        assert isinstance(found[0], Refresh), found
        with joined.connect() as connection:
            assert_equal(connection, "joined")


def test_what_settles_a_stream_table_cannot_commit_without_its_lease(joined: Node) -> None:
    joined.sql("ALTER TABLE a ALTER COLUMN v TYPE bigint")
    with joined.connect() as connection, StreamTables(connection, lease_kind="lease") as tables:
        found = catalog.find(connection, "joined")
        assert found.needs_reinit
        before = joined.rows("SELECT a.attname, a.atttypid FROM pg_attribute a WHERE a.attrelid = 'joined'::regclass")

        def settle_late() -> None:
            with tables.leases.held(found.pgt_id, "joined"):
                joined.sql("DELETE FROM pgtrickle.st_locks")  # as whoever takes it over
                settle(connection, found)

        with pytest.raises(LeaseLostError):
            settle_late()
        assert before == joined.rows(
            "SELECT a.attname, a.atttypid FROM pg_attribute a WHERE a.attrelid = 'joined'::regclass"
        )
        assert tables.refresh("joined").action == "REINITIALIZE"
        assert_equal(connection, "joined")


def test_two_that_settle_over_one_source_do_not_meet(joined: Node) -> None:
    with joined.connect() as connection, StreamTables(connection) as tables:
        for number in range(3):
            tables.create(f"more_{number}", "SELECT id, v FROM a WHERE v > 2", None, "DIFFERENTIAL")
    for _round in range(4):
        joined.sql("ALTER TABLE a ALTER COLUMN v TYPE bigint")
        joined.sql("ALTER TABLE a ALTER COLUMN v TYPE int")
        errors: list[BaseException] = []

        def work(name: str, errors: list[BaseException] = errors) -> None:
            try:
                with joined.connect() as connection, StreamTables(connection) as tables:
                    tables.refresh(name)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=[f"more_{number}"]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert errors == []
    with joined.connect() as connection:
        for number in range(3):
            assert_equal(connection, f"more_{number}")
