"""Capture lives and dies with the writer's transaction, wherever the writer is."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from harness.postgres import Node
from scenarios.capture.capturing import Captured, Ground, Written

COLUMNS = "(id integer PRIMARY KEY, v text)"
ROWS = "INSERT INTO {t} SELECT i, 'v' || i FROM generate_series(1, 40) i"


def write_from_four_sessions(node: Node, table: sql.Identifier) -> int:
    """Each fifteen times ten rows and one changed row; answers how many rows came."""
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with node.connect() as connection:
                for step in range(15):
                    low = 1000 * (number + 1) + 10 * step
                    connection.execute(
                        sql.SQL("INSERT INTO {} SELECT i, 'w' FROM generate_series({}, {}) i").format(
                            table, sql.Literal(low), sql.Literal(low + 9)
                        )
                    )
                    connection.execute(
                        sql.SQL("UPDATE {} SET v = v || 'x' WHERE id = {}").format(
                            table, sql.Literal(1 + (step + number) % 40)
                        )
                    )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    return 4 * 15 * 10


def write_many_statements(written: Written) -> None:
    with written.connection.transaction():
        written.run("INSERT INTO {t} SELECT i, 'new' FROM generate_series(41, 80) i")
        written.run("UPDATE {t} SET v = v || '!'")
        written.run("DELETE FROM {t} WHERE id % 4 = 0")
        written.run("INSERT INTO {t} VALUES (4, 'again')")
        for _ in range(10):
            written.run("UPDATE {t} SET v = v || '+' WHERE id = 4")


def write_and_roll_back(written: Written) -> None:
    with written.connection.transaction(force_rollback=True):
        written.run("UPDATE {t} SET v = 'lost'")
        written.run("DELETE FROM {t} WHERE id < 20")


def write_and_fail(written: Written) -> None:
    # Citus hands a worker's refusal on as an internal error.
    with pytest.raises((psycopg.errors.UniqueViolation, psycopg.errors.InternalError_), match="duplicate key"):
        written.run("INSERT INTO {t} SELECT i, 'twice' FROM generate_series(38, 60) i")


def write_between_savepoints(written: Written) -> None:
    with written.connection.transaction():
        written.run("UPDATE {t} SET v = 'kept' WHERE id <= 10")
        with written.connection.transaction(force_rollback=True):
            written.run("DELETE FROM {t}")
        with written.connection.transaction():
            written.run("DELETE FROM {t} WHERE id > 30")
            with written.connection.transaction(force_rollback=True):
                written.run("INSERT INTO {t} SELECT i, 'lost' FROM generate_series(100, 140) i")
        written.run("INSERT INTO {t} VALUES (200, 'kept')")


@pytest.fixture
def captured(ground: Ground) -> Iterator[Captured]:
    with ground.captured(COLUMNS, rows=ROWS) as made:
        yield made


def test_transaction_of_many_statements_is_captured_as_one(captured: Captured) -> None:
    write_many_statements(captured)
    captured.assert_sums()
    assert captured.actions() == {"D": 80 + 20 + 10, "I": 40 + 80 + 1 + 10}
    if captured.placement == "distributed":
        assert captured.writers() == {1, 2}


def test_rollback_leaves_nothing(captured: Captured) -> None:
    write_and_roll_back(captured)
    assert captured.actions() == {}
    captured.assert_sums()


def test_statement_that_fails_leaves_nothing(captured: Captured) -> None:
    write_and_fail(captured)
    assert captured.actions() == {}
    captured.assert_sums()


def test_savepoint_that_is_rolled_back_leaves_what_came_before_it(captured: Captured) -> None:
    write_between_savepoints(captured)
    assert captured.actions() == {"D": 20, "I": 11}
    captured.assert_sums()


def test_rows_of_one_transaction_have_one_transaction_id_a_node(captured: Captured) -> None:
    with captured.connection.transaction():
        captured.run("UPDATE {t} SET v = 'a'")
        with captured.connection.transaction():
            captured.run("DELETE FROM {t} WHERE id < 20")
    is_distributed = captured.placement == "distributed"
    found = captured.connection.execute(
        sql.SQL("SELECT {}, count(DISTINCT xid)::int FROM {} GROUP BY 1 ORDER BY 1").format(
            sql.SQL("(seq_id >> 48)::int") if is_distributed else sql.SQL("0"), captured.buffer
        )
    ).fetchall()
    if not is_distributed:
        assert found == [(0, 1)]
    else:
        # Several shards of a node may be written through several connections, each a transaction of its own there.
        assert [group for group, _ in found] == [1, 2]
        assert all(1 <= count <= 2 for _, count in found)


def test_writes_through_every_worker_are_captured(captured: Captured, ground: Ground) -> None:
    if captured.placement not in {"reference", "distributed"}:
        assert not any(
            worker.value("SELECT to_regclass(%s) IS NOT NULL", [captured.name]) for worker in ground.cluster.workers
        ), "a local table cannot be written through a worker"
        return
    for number, worker in enumerate(ground.cluster.workers):
        first = 100 * (number + 1)
        with worker.connect() as connection:
            with connection.transaction():
                connection.execute(
                    sql.SQL("INSERT INTO {} SELECT i, 'mx' FROM generate_series({}, {}) i").format(
                        captured.table, sql.Literal(first), sql.Literal(first + 39)
                    )
                )
                captured.run("UPDATE {t} SET v = v || '!' WHERE id > 20", on=connection)
            captured.run("DELETE FROM {t} WHERE id % 7 = 0", on=connection)
            with connection.transaction(force_rollback=True):
                captured.run("DELETE FROM {t}", on=connection)
            with (
                connection.cursor() as cursor,
                cursor.copy(sql.SQL("COPY {} FROM STDIN").format(captured.table)) as copy,
            ):
                for row in range(first + 1000, first + 1040):
                    copy.write_row((row, "copied"))
    captured.assert_sums()
    if captured.placement == "distributed":
        assert captured.writers() == {1, 2}


def test_writers_at_the_same_time_are_all_captured(captured: Captured) -> None:
    came = write_from_four_sessions(captured.node, captured.table)
    assert sum(captured.rows().values()) == 40 + came
    captured.assert_sums()


def test_replication_role_replica_is_not_captured_where_the_session_is(captured: Captured) -> None:
    """Ordinary triggers do not fire for a session that says it is a replica, and capture has ordinary triggers.

    So what a logical subscription applies to a source, or a restore that sets this, has to be followed by a rebuild.
    The setting stays on the node where it was set: shards that other nodes write are captured nevertheless.
    """
    captured.run("SET session_replication_role = replica")
    try:
        captured.run("UPDATE {t} SET v = 'unseen'")
    finally:
        captured.run("RESET session_replication_role")
    if captured.placement == "distributed":
        assert captured.actions() == {"D": 40, "I": 40}
        captured.assert_sums()
    else:
        assert captured.actions() == {}
    captured.reset()
    captured.run("UPDATE {t} SET v = 'seen'")
    captured.assert_sums()
