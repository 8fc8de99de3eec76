"""What each kind of statement leaves in a change buffer, by placement: its sum is the table's own change (F21)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from scenarios.capture.capturing import Captured, Connection, Ground, Written

COLUMNS = "(id integer, k integer, v text, n numeric, PRIMARY KEY (id, k))"
ROWS = "INSERT INTO {t} SELECT i, i % 3, 'v' || i, i / 4.0 FROM generate_series(1, 40) i"

# Each with how many rows go (D) and come (I).
STATEMENTS: dict[str, tuple[LiteralString, int, int]] = {
    "insert": ("INSERT INTO {t} VALUES (100, 1, 'a', 1.5)", 0, 1),
    "insert-rows": ("INSERT INTO {t} VALUES (100, 1, 'a', 1.5), (101, 1, 'b', NULL), (102, 2, NULL, 0)", 0, 3),
    "insert-select": ("INSERT INTO {t} SELECT i, 0, 's', i FROM generate_series(200, 259) i", 0, 60),
    "insert-select-of-itself": ("INSERT INTO {t} SELECT id, k + 10, v, n FROM {t} WHERE id <= 30", 0, 30),
    "insert-select-other-key": ("INSERT INTO {t} SELECT id + 1000, k, v, n FROM {t}", 0, 40),
    "update-all": ("UPDATE {t} SET n = n + 1", 40, 40),
    "update-one": ("UPDATE {t} SET v = NULL WHERE id = 7 AND k = 1", 1, 1),
    "update-to-the-same": ("UPDATE {t} SET v = v", 40, 40),
    "update-none": ("UPDATE {t} SET v = 'x' WHERE id < 0", 0, 0),
    "update-key": ("UPDATE {t} SET k = k + 100", 40, 40),
    "update-from": ("UPDATE {t} SET v = s.v || '!' FROM {t} s WHERE s.id = {t}.id AND s.k = {t}.k", 40, 40),
    "delete-one": ("DELETE FROM {t} WHERE id = 3", 1, 0),
    "delete-some": ("DELETE FROM {t} WHERE id % 2 = 0", 20, 0),
    "delete-all": ("DELETE FROM {t}", 40, 0),
    "delete-none": ("DELETE FROM {t} WHERE n < 0", 0, 0),
    "on-conflict-update": (
        "INSERT INTO {t} VALUES (1, 1, 'x', 9), (2, 2, 'x', 9), (9, 9, 'x', 0) ON CONFLICT (id, k) DO UPDATE SET n = 0",
        2,
        3,
    ),
    "on-conflict-nothing": ("INSERT INTO {t} VALUES (1, 1, 'new', 9), (99, 9, 'new', 9) ON CONFLICT DO NOTHING", 0, 1),
    "returning-in-a-cte": (
        "WITH gone AS (DELETE FROM {t} WHERE id <= 10 RETURNING *) SELECT count(*), sum(n) FROM gone",
        10,
        0,
    ),
}
# Of rows 11 to 40, six are deleted and 24 updated; 41 to 60 are new.
MERGED_COLUMNS: LiteralString = "(id integer, k integer, v text)"
_MERGED = "INSERT INTO {s} SELECT i, i % 3, 'm' FROM generate_series(11, 60) i"
_MERGE = (
    "MERGE INTO {t} USING {s} ON {t}.id = {s}.id AND {t}.k = {s}.k"
    " WHEN MATCHED AND {t}.id % 5 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET v = {s}.v"
    " WHEN NOT MATCHED THEN INSERT (id, k, v) VALUES ({s}.id, {s}.k, {s}.v)"
)


def copy_rows(written: Written, numbers: Iterable[int]) -> None:
    copy_in = sql.SQL("COPY {} FROM STDIN").format(written.table)
    with written.connection.cursor() as cursor, cursor.copy(copy_in) as copy:
        for number in numbers:
            copy.write_row((number, 1, None if number % 5 == 0 else f"c{number}", number))


def fill_merged(connection: Connection, other: sql.Identifier) -> None:
    connection.execute(sql.SQL(_MERGED).format(s=other))


def merge_rows(written: Written, other: sql.Identifier) -> None:
    written.connection.execute(sql.SQL(_MERGE).format(t=written.table, s=other))


@pytest.fixture
def captured(ground: Ground) -> Iterator[Captured]:
    """Forty rows that were there before capture began."""
    with ground.captured(COLUMNS, rows=ROWS) as made:
        yield made


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_is_captured(captured: Captured, name: str) -> None:
    statement, gone, come = STATEMENTS[name]
    captured.run(statement)
    expected = {action: count for action, count in (("D", gone), ("I", come)) if count}
    assert captured.actions() == expected
    captured.assert_sums()
    if captured.placement == "distributed" and gone + come >= 20:
        assert captured.writers() == {1, 2}, "both workers captured (F9)"


def test_update_of_the_distribution_column_is_captured_or_refused(captured: Captured) -> None:
    statement: LiteralString = "UPDATE {t} SET id = id + 1000 WHERE id <= 5"
    if captured.placement == "distributed":
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="partition value"):
            captured.run(statement)
        assert captured.actions() == {}
    else:
        captured.run(statement)
        assert captured.actions() == {"D": 5, "I": 5}
    captured.assert_sums()


def test_copy_is_captured(captured: Captured) -> None:
    copy_rows(captured, range(500, 560))
    assert captured.actions() == {"I": 60}
    captured.assert_sums()
    if captured.placement == "distributed":
        assert captured.writers() == {1, 2}


def test_copy_that_fails_leaves_nothing(captured: Captured) -> None:
    # Citus hands a worker's refusal on as an internal error.
    with pytest.raises((psycopg.errors.UniqueViolation, psycopg.errors.InternalError_), match="duplicate key"):
        copy_rows(captured, (900, 901, 902, 900))
    assert captured.actions() == {}
    captured.assert_sums()


def test_merge_is_captured(captured: Captured, ground: Ground) -> None:
    other = sql.Identifier(ground.create(captured.connection, MERGED_COLUMNS))
    fill_merged(captured.connection, other)
    if captured.placement == "reference":  # F22
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            merge_rows(captured, other)
        assert captured.actions() == {}
    else:
        merge_rows(captured, other)
        assert captured.actions() == {"D": 30, "I": 44}
    captured.assert_sums()
    captured.connection.execute(sql.SQL("DROP TABLE {}").format(other))


def test_truncate_says_that_all_is_gone(captured: Captured) -> None:
    reader = captured.connection.execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_name, pgt_schema, defining_query) VALUES"
        " (%s::regclass, %s, 'public', '') RETURNING pgt_id",
        [captured.name, f"reader_of_{captured.name}"],
    ).fetchone()
    assert reader is not None
    captured.connection.execute(
        "INSERT INTO pgtrickle.pgt_dependencies (pgt_id, source_relid, source_type, source_stable_name)"
        " VALUES (%s, %s::regclass, 'TABLE', %s)",
        [reader[0], captured.name, captured.stable],
    )
    try:
        captured.run("TRUNCATE {t}")
        captured.run("INSERT INTO {t} VALUES (1, 1, 'after', 1)")
        marked = captured.connection.execute(
            "SELECT needs_reinit FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s", reader
        ).fetchone()
        if captured.placement == "distributed":
            # It fires once, on the coordinator, where no shard can be written (F11): the readers are rebuilt.
            assert marked == (True,)
            assert captured.actions() == {"I": 1}
        else:
            assert marked == (False,)
            assert captured.actions() == {"I": 1, "T": 1}
            found = captured.connection.execute(
                sql.SQL("SELECT string_agg(action, '' ORDER BY lsn) FROM {}").format(captured.buffer)
            ).fetchone()
            assert found == ("TI",), "what came after it is told from what came before"
    finally:
        captured.connection.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s", reader)


def test_truncate_rolled_back_leaves_nothing(captured: Captured) -> None:
    with captured.connection.transaction(force_rollback=True):
        captured.run("TRUNCATE {t}")
    assert captured.actions() == {}
    captured.assert_sums()


def test_cascade_of_a_foreign_key_is_captured(ground: Ground) -> None:
    with ground.captured("(id integer PRIMARY KEY)", rows="INSERT INTO {t} SELECT generate_series(1, 10)") as parent:
        child = ground.create(parent.connection, "(id integer, c integer, PRIMARY KEY (id, c))")
        parent.connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT fk FOREIGN KEY (id) REFERENCES {} ON DELETE CASCADE").format(
                sql.Identifier(child), parent.table
            )
        )
        with ground.captured(
            "", name=child, rows="INSERT INTO {t} SELECT i, c FROM generate_series(1, 10) i, generate_series(1, 3) c"
        ) as made:
            made.reset()
            parent.run("DELETE FROM {t} WHERE id <= 4")
            assert made.actions() == {"D": 12}
            made.assert_sums()
        parent.assert_sums()
