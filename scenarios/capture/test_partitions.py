"""Partitioned sources: rows come in through the parent, through a partition, and move from one to another."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from scenarios.capture.capturing import Captured, Connection, Ground, capture, grounds

COLUMNS = "(id integer, day date, v text) PARTITION BY RANGE (day)"
ROWS = "INSERT INTO {t} SELECT i, date '2026-01-01' + i % 60, 'v' || i FROM generate_series(1, 60) i"
# Citus has no partitioned reference tables.
pytestmark = pytest.mark.parametrize(
    "any_ground", grounds("plain", "local", "distributed"), indirect=True, scope="module"
)


def make_partitions(connection: Connection, name: str) -> None:
    """January and February of a table that is partitioned by day."""
    for month, start, end in (("jan", "2026-01-01", "2026-02-01"), ("feb", "2026-02-01", "2026-03-05")):
        connection.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                sql.Identifier(f"{name}_{month}"), sql.Identifier(name), sql.Literal(start), sql.Literal(end)
            )
        )


@pytest.fixture
def captured(ground: Ground) -> Iterator[Captured]:
    """A table in two partitions, January and February, and its capture."""
    with ground.cluster.coordinator.connect() as connection:
        name = ground.create(connection, COLUMNS)
        make_partitions(connection, name)
    with ground.captured("", name=name, rows=ROWS) as made:
        yield made


def _partition(captured: Captured, month: str) -> sql.Identifier:
    return sql.Identifier(f"{captured.name}_{month}")


def test_writes_through_the_parent_are_captured_once(captured: Captured) -> None:
    captured.run("INSERT INTO {t} SELECT i, date '2026-01-01' + i % 60, 'new' FROM generate_series(100, 159) i")
    assert captured.actions() == {"I": 60}
    captured.run("UPDATE {t} SET v = v || '!'")
    assert captured.actions() == {"D": 120, "I": 180}
    captured.run("DELETE FROM {t} WHERE id % 3 = 0")
    captured.assert_sums()
    copy_in = sql.SQL("COPY {} FROM STDIN").format(captured.table)
    with captured.connection.cursor() as cursor, cursor.copy(copy_in) as copy:
        for number in range(500, 540):
            copy.write_row((number, "2026-02-03", "c"))
    captured.assert_sums()
    if captured.placement == "distributed":
        assert captured.writers() == {1, 2}


def test_writes_to_a_partition_are_captured_once(captured: Captured) -> None:
    month = _partition(captured, "jan")
    captured.connection.execute(
        sql.SQL("INSERT INTO {} SELECT i, '2026-01-05', 'p' FROM generate_series(100, 129) i").format(month)
    )
    assert captured.actions() == {"I": 30}
    captured.connection.execute(sql.SQL("UPDATE {} SET v = v || '?' WHERE id >= 100").format(month))
    captured.connection.execute(sql.SQL("DELETE FROM {} WHERE id % 2 = 0").format(month))
    captured.assert_sums()


def test_rows_that_move_between_partitions_are_captured_once(captured: Captured) -> None:
    captured.run("UPDATE {t} SET day = day + 31 WHERE day < '2026-02-01'")
    assert sum(captured.net().values()) == 0
    captured.assert_sums()


def test_a_partition_made_later_is_captured(captured: Captured) -> None:
    captured.connection.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ('2026-03-05') TO ('2026-04-01')").format(
            _partition(captured, "mar"), captured.table
        )
    )
    captured.run("INSERT INTO {t} SELECT i, '2026-03-10', 'later' FROM generate_series(200, 219) i")
    captured.connection.execute(
        sql.SQL("UPDATE {} SET v = 'direct' WHERE id > 210").format(_partition(captured, "mar"))
    )
    captured.assert_sums()


def test_truncate_of_a_partition_is_not_missed(captured: Captured) -> None:
    captured.connection.execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_name, pgt_schema, defining_query)"
        " VALUES (%s::regclass, %s, 'public', '')",
        [captured.name, captured.name],
    )
    captured.connection.execute(
        "INSERT INTO pgtrickle.pgt_dependencies (pgt_id, source_relid, source_type, source_stable_name)"
        " SELECT pgt_id, pgt_relid, 'TABLE', %s FROM pgtrickle.pgt_stream_tables WHERE pgt_name = %s",
        [captured.stable, captured.name],
    )
    try:
        captured.connection.execute(sql.SQL("TRUNCATE {}").format(_partition(captured, "jan")))
        rebuilt = captured.connection.execute(
            "SELECT needs_reinit FROM pgtrickle.pgt_stream_tables WHERE pgt_name = %s", [captured.name]
        ).fetchone()
        assert rebuilt == (True,) or captured.actions() == {"T": 1}, "its readers learn of it"
    finally:
        captured.connection.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_name = %s", [captured.name])


def test_a_partition_that_is_itself_the_source_sees_its_own_rows_only(captured: Captured) -> None:
    name = f"{captured.name}_feb"
    if captured.placement == "distributed":
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="capture its parent instead"):
            capture(captured.connection, name)
        return
    stable = capture(captured.connection, name)
    alone = Captured(captured.node, captured.connection, name, stable, captured.placement)
    alone.reset()
    captured.run("INSERT INTO {t} SELECT i, date '2026-01-01' + i % 60, 'both' FROM generate_series(300, 359) i")
    captured.run("UPDATE {t} SET day = day + 31 WHERE day < '2026-01-10'")
    captured.run("UPDATE {t} SET v = v || '!' WHERE day >= '2026-02-01'")
    alone.run("DELETE FROM {t} WHERE id % 5 = 0")
    captured.assert_sums()
    alone.assert_sums()
