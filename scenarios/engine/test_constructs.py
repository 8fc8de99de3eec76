"""Which queries have an incremental form, and what is said of those that have none."""

from __future__ import annotations

import pytest

from harness.errors import QueryRefusedError
from harness.postgres import Node
from scenarios.engine.shop import CHANGES, open_shop, refreshed

RECOMPUTED = {
    "LEFT JOIN": "SELECT o.id, c.region FROM orders o LEFT JOIN customers c ON c.id = o.customer",
    "FULL JOIN": "SELECT o.id, c.region FROM orders o FULL JOIN customers c ON c.id = o.customer",
    "window function": "SELECT id, row_number() OVER (PARTITION BY customer ORDER BY id) AS place FROM orders",
    "LIMIT": "SELECT id FROM orders ORDER BY id LIMIT 3",
    "DISTINCT ON": "SELECT DISTINCT ON (customer) customer, id FROM orders ORDER BY customer, id",
    "EXCEPT": "SELECT customer FROM orders EXCEPT SELECT id FROM customers WHERE vip",
    "INTERSECT": "SELECT customer FROM orders INTERSECT SELECT id FROM customers WHERE vip",
    "recursive CTE": "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3) SELECT r.i, o.id"
    " FROM r JOIN orders o ON o.id = r.i",
    "subquery in an expression": "SELECT id FROM orders WHERE customer IN (SELECT id FROM customers WHERE vip)",
    "EXISTS": "SELECT id FROM customers c WHERE EXISTS (SELECT FROM orders o WHERE o.customer = c.id)",
    "LATERAL": "SELECT c.id, x.m FROM customers c, LATERAL (SELECT max(o.id) AS m FROM orders o WHERE o.customer ="
    " c.id) x",
    "list of values": "SELECT o.id FROM orders o JOIN (VALUES (1), (2)) v(i) ON v.i = o.id",
    "set-returning": "SELECT id, generate_series(1, 2) AS g FROM orders",
    "now": "SELECT id FROM orders WHERE placed < now()",
    "aggregate besides": "SELECT customer, string_agg(note, ',' ORDER BY id) AS notes FROM orders GROUP BY customer",
    "GROUPING SETS": "SELECT customer, note, count(*) FROM orders GROUP BY ROLLUP (customer, note)",
    "system column": "SELECT o.ctid::text AS place, c.region FROM orders o JOIN customers c ON c.id = o.customer",
    "materialized view": "SELECT region FROM kept",
    "row security": "SELECT id FROM hidden",
    "inherit": "SELECT id FROM parent",
}
INCREMENTAL = {
    "view": "SELECT region, n FROM per_region_view WHERE n > 1",
    "cte": "WITH big AS (SELECT * FROM orders WHERE amount > 2) SELECT b.id, c.region FROM big b JOIN customers c ON"
    " c.id = b.customer",
    "using": "SELECT id, region FROM orders JOIN customers USING (id)",
    "self join": "SELECT a.id, b.id AS next FROM orders a JOIN orders b ON b.id = a.id + 1",
    "comma join": "SELECT o.id, c.region FROM orders o, customers c WHERE c.id = o.customer AND c.vip",
    "union": "SELECT note FROM orders UNION SELECT region FROM customers",
    "constants": "SELECT id, -1 AS minus, 'it''s' AS text, NULL::int AS nothing FROM orders WHERE amount <> -1",
    "having": "SELECT customer, sum(amount) AS total FROM orders GROUP BY customer HAVING sum(amount) > 30",
    "float": "SELECT customer, sum(score) AS s, avg(score) AS a FROM orders GROUP BY customer",
    "extremes": "SELECT customer, min(amount) AS low, max(note) AS high FROM orders GROUP BY customer",
    "distinct inside": "SELECT customer, count(DISTINCT note) AS notes FROM orders GROUP BY customer",
    "expressions": "SELECT customer % 3 AS k, round(avg(amount), 2) AS a, count(*) * 2 AS twice FROM orders GROUP BY"
    " customer % 3",
    "nested": "SELECT n, count(*) AS of_so_many FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer)"
    " x GROUP BY n",
    "no groups": "SELECT count(*) AS n, sum(amount) AS total, min(amount) AS low FROM orders WHERE note IS NULL",
    "primary key": "SELECT c.id, c.region, count(*) AS n FROM customers c JOIN orders o ON o.customer = c.id GROUP"
    " BY c.id",
}
SURROUNDINGS = """
CREATE MATERIALIZED VIEW kept AS SELECT region FROM customers;
CREATE TABLE hidden (id int PRIMARY KEY);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE TABLE parent (id int);
CREATE TABLE child () INHERITS (parent);
CREATE VIEW per_region_view AS SELECT c.region, count(*) AS n FROM orders o JOIN customers c ON c.id = o.customer GROUP
    BY c.region;
"""


def test_what_has_no_incremental_form_is_recomputed_and_named(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        connection.execute(SURROUNDINGS)
        for number, (construct, query) in enumerate(RECOMPUTED.items()):
            name = f"recomputed_{number}"
            with pytest.raises(QueryRefusedError, match=r"has no incremental form"):
                stream_tables.create(name, query, None, "DIFFERENTIAL")
            stream_tables.create(name, query, None)
            explained = stream_tables.explain(name)
            assert explained.mode == "FULL", construct
            assert construct.lower() in explained.reason.lower(), (construct, explained.reason)
        connection.execute(CHANGES)
        for number in range(len(RECOMPUTED)):
            assert refreshed(connection, stream_tables, f"recomputed_{number}").action == "FULL"
        assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)


def test_what_has_one_follows_its_changes(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        connection.execute(SURROUNDINGS)
        names = [f"incremental_{number}" for number in range(len(INCREMENTAL))]
        for name, query in zip(names, INCREMENTAL.values(), strict=True):
            stream_tables.create(name, query, None, "DIFFERENTIAL")
        for _round in range(3):
            connection.execute(CHANGES)
            connection.execute("UPDATE customers SET region = 'r' || (id + 1) % 4 WHERE id % 3 = 0")
            for name, construct in zip(names, INCREMENTAL, strict=True):
                done = refreshed(connection, stream_tables, name)
                assert done.action == "DIFFERENTIAL", (construct, done.reason)


def test_volatile_function_is_refused_but_in_mode_full(database: Node) -> None:
    query = "SELECT id, random() AS r FROM orders"
    with open_shop(database) as (_connection, stream_tables):
        for mode in ("AUTO", "DIFFERENTIAL"):
            with pytest.raises(QueryRefusedError, match="random"):
                stream_tables.create("lottery", query, None, mode)
        assert stream_tables.list() == []
        assert stream_tables.create("lottery", query, None, "FULL").mode == "FULL"


def test_float_sums_are_explained(database: Node) -> None:
    with open_shop(database) as (_connection, stream_tables):
        stream_tables.create("scores", INCREMENTAL["float"], None)
        explained = stream_tables.explain("scores")
        assert any("order of addition" in note for note in explained.notes)
        assert explained.statements
        assert explained.strategy == "regroup merge"
