"""Joins of distributed tables with themselves and each other, on columns that they are and are not distributed by."""

from __future__ import annotations

import pytest

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.errors import QueryRefusedError
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal

ACROSS = {
    "pairs": "SELECT a.id, b.id AS next FROM staff a JOIN staff b ON a.id = b.boss",
    "pays": "SELECT a.room, b.pay % 20 AS pay FROM staff a JOIN staff b ON a.id = b.boss",
    "places": "SELECT s.id, r.floor FROM staff s JOIN rooms r ON r.id = s.room WHERE r.floor > 0",
}
ALONG = {
    "selves": "SELECT a.id, b.pay FROM staff a JOIN staff b ON a.id = b.id",
    "best": "SELECT a.id, max(b.pay) AS pay FROM staff a JOIN rooms b0 ON b0.id = a.id JOIN staff b ON b.id = b0.id"
    " GROUP BY a.id",
}
GROUPS_ACROSS = "SELECT a.id, max(b.pay) AS pay FROM staff a JOIN staff b ON a.id = b.boss GROUP BY a.id"
CHANGES = """
UPDATE staff SET boss = (id + 3) % 17 + 1 WHERE id % 4 = 0;
DELETE FROM staff WHERE id % 13 = 5;
INSERT INTO staff SELECT (SELECT max(id) FROM staff) + i, i, i % 9, i FROM generate_series(1, 4) i;
UPDATE rooms SET floor = floor - 1 WHERE id % 3 = 0;
"""


@pytest.mark.citus(">= 13")
def test_joins_of_distributed_tables_lose_no_row_that_meets_across_shards(citus_database: Cluster) -> None:
    """Citus pushes a join of two unions of colocated tables down whatever it is on (docs/findings.md)."""
    upgrade(citus_database.coordinator.dsn())
    citus_database.sql("CREATE TABLE staff (id int PRIMARY KEY, boss int, room int, pay int)")
    citus_database.sql("CREATE TABLE rooms (id int PRIMARY KEY, floor int)")
    citus_database.sql("SELECT create_distributed_table('staff', 'id', shard_count => 4)")
    citus_database.sql("SELECT create_distributed_table('rooms', 'id', colocate_with => 'staff')")
    citus_database.sql("INSERT INTO staff SELECT i, i % 17 + 1, i % 9, i * 10 FROM generate_series(1, 60) i")
    citus_database.sql("INSERT INTO rooms SELECT i, i % 4 FROM generate_series(0, 60) i")
    with citus_database.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        for name, query in {**ACROSS, **ALONG}.items():
            stream_tables.create(name, query, None, "DIFFERENTIAL")
            assert_equal(connection, name)
        with pytest.raises(QueryRefusedError, match="distribution columns"):
            stream_tables.create("highest", GROUPS_ACROSS, None, "DIFFERENTIAL")
        stream_tables.create("highest", GROUPS_ACROSS, None)
        for statement in filter(str.strip, CHANGES.split(";")):
            connection.execute(statement.encode())
        for name in (*ACROSS, *ALONG):
            assert stream_tables.refresh(name).action == "DIFFERENTIAL", name
            assert_equal(connection, name)
        stream_tables.refresh("highest")
        assert_equal(connection, "highest")
