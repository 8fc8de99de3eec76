"""Extremes that go, equal rows that are counted, partitions that come and go."""

from __future__ import annotations

from harness.postgres import Node
from scenarios.engine.shop import open_shop, refreshed

PARTITIONED = """
CREATE TABLE readings (id int NOT NULL, v int) PARTITION BY RANGE (id);
CREATE TABLE readings_1 PARTITION OF readings FOR VALUES FROM (0) TO (10);
CREATE TABLE readings_2 PARTITION OF readings FOR VALUES FROM (10) TO (20);
INSERT INTO readings SELECT i, i FROM generate_series(0, 19) i;
CREATE TABLE readings_3 (id int NOT NULL, v int);
INSERT INTO readings_3 VALUES (30, 1);
"""


def test_extreme_that_goes_leaves_the_next_one(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        query = "SELECT customer % 2 AS odd, min(id) AS low, max(id) AS high, count(*) AS n FROM orders GROUP BY 1"
        stream_tables.create("span", query, None, "DIFFERENTIAL")
        for _round in range(3):
            connection.execute("DELETE FROM orders WHERE id IN (SELECT low FROM span UNION SELECT high FROM span)")
            assert refreshed(connection, stream_tables, "span").action == "DIFFERENTIAL"
        connection.execute("UPDATE orders SET id = id + 10000 WHERE id IN (SELECT low FROM span)")
        assert refreshed(connection, stream_tables, "span").action == "DIFFERENTIAL"
        connection.execute("INSERT INTO orders (id, customer) VALUES (-1, 1), (99999, 1)")
        connection.execute("DELETE FROM orders WHERE id IN (-1, 99999)")
        assert refreshed(connection, stream_tables, "span").action == "DIFFERENTIAL"
        connection.execute("DELETE FROM orders WHERE customer % 2 = 0")
        assert refreshed(connection, stream_tables, "span").action == "DIFFERENTIAL"
        assert connection.execute("SELECT count(*) FROM span").fetchone() == (1,)


def test_equal_rows_are_counted_one_by_one(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        connection.execute("CREATE TABLE votes (who int, what text)")
        connection.execute("INSERT INTO votes SELECT i, 'same' FROM generate_series(1, 5) i")
        stream_tables.create("ballot", "SELECT what FROM votes", None, "DIFFERENTIAL")
        count = 5
        for change, difference in (
            ("INSERT INTO votes SELECT i, 'same' FROM generate_series(6, 9) i", 4),
            ("DELETE FROM votes WHERE who IN (1, 4, 9)", -3),
            ("UPDATE votes SET what = 'other' WHERE who = 2", -1),
            ("UPDATE votes SET what = 'same' WHERE who = 2", 1),
            ("DELETE FROM votes", -6),
            ("INSERT INTO votes SELECT i, 'same' FROM generate_series(1, 1000) i", 1000),
        ):
            connection.execute(change.encode())
            assert refreshed(connection, stream_tables, "ballot").action == "DIFFERENTIAL"
            count += difference
            row = connection.execute(
                "SELECT count(*) FILTER (WHERE what = 'same'), count(DISTINCT (__pgt_row_id, __pgt_ordinal)), count(*)"
                " FROM ballot"
            ).fetchone()
            assert row is not None
            assert row[0] == count
            assert row[1] == row[2], "each has an ordinal of its own"


def test_partitions_that_come_and_go_are_not_missed(database: Node) -> None:
    """No row is captured for them: the table is filled anew, and follows its changes again afterwards."""
    with open_shop(database) as (connection, stream_tables):
        connection.execute(PARTITIONED)
        stream_tables.create("sums", "SELECT count(*) AS n, sum(v) AS s FROM readings", None, "DIFFERENTIAL")
        for change, action in (
            ("ALTER TABLE readings DETACH PARTITION readings_1", "REINITIALIZE"),
            ("UPDATE readings_1 SET v = v + 1", "NO_DATA"),
            ("ALTER TABLE readings ATTACH PARTITION readings_1 FOR VALUES FROM (0) TO (10)", "REINITIALIZE"),
            ("DELETE FROM readings WHERE id = 2", "DIFFERENTIAL"),
            ("DROP TABLE readings_1", "REINITIALIZE"),
            ("ALTER TABLE readings ATTACH PARTITION readings_3 FOR VALUES FROM (20) TO (40)", "REINITIALIZE"),
            ("INSERT INTO readings VALUES (31, 4)", "DIFFERENTIAL"),
            ("ALTER TABLE readings ALTER v TYPE bigint", "REINITIALIZE"),
            ("INSERT INTO readings VALUES (32, 4)", "DIFFERENTIAL"),
        ):
            connection.execute(change.encode())
            assert refreshed(connection, stream_tables, "sums").action == action, change
