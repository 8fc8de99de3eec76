"""A real pg_trickle 0.2: its own library, its own functions, and what an upgrade finds hard."""

from __future__ import annotations

import psycopg
from psycopg.rows import TupleRow

Connection = psycopg.Connection[TupleRow]

#: What the chain begins with; the stream tables by name, with their mode.
STREAM_TABLES = {
    "by_cust": "DIFFERENTIAL",  # changes pending
    "pages": "DIFFERENTIAL",  # over a source without a key
    "stale": "DIFFERENTIAL",  # refreshed once, long before the changes that wait for it
    "never": "DIFFERENTIAL",  # no frontier: its first refresh is a full one
    "weights": "IMMEDIATE",
}
_TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id bigint PRIMARY KEY, cust int, amt numeric(12,2), note text);
CREATE TABLE shop.visits (cust int, page text);
CREATE TABLE shop.parts (id int PRIMARY KEY, weight int NOT NULL);
INSERT INTO shop.orders SELECT i, i % 200, i % 97, 'note ' || i FROM generate_series(1, 5000) i;
INSERT INTO shop.visits SELECT i % 50, 'page ' || i FROM generate_series(1, 500) i;
INSERT INTO shop.parts SELECT i, i % 30 FROM generate_series(1, 300) i;
"""
_QUERIES = {
    "by_cust": "SELECT cust, sum(amt) AS total, count(*) AS n FROM shop.orders GROUP BY cust",
    "pages": "SELECT page, count(*) AS n FROM shop.visits GROUP BY page",
    "stale": "SELECT id, amt FROM shop.orders WHERE amt > 90",
    "never": "SELECT id, note FROM shop.orders WHERE amt < 3",
    "weights": "SELECT weight, count(*) AS n FROM shop.parts GROUP BY weight",
}


def build(conn: Connection) -> None:
    """Tables, stream tables, and changes that wait; with the extension's own functions only."""
    conn.execute("CREATE EXTENSION pg_trickle VERSION '0.2.0'")
    conn.execute(_TABLES)
    for name, mode in STREAM_TABLES.items():
        conn.execute(
            "SELECT pgtrickle.create_stream_table(name => %s, query => %s, schedule => '1h', refresh_mode => %s)",
            [f"shop.{name}", _QUERIES[name], mode],
        )
    conn.execute("SELECT pgtrickle.refresh_stream_table('shop.stale')")
    conn.execute("UPDATE shop.orders SET amt = amt + 1 WHERE id % 10 = 0")
    conn.execute("INSERT INTO shop.visits SELECT 60, 'late page ' || i FROM generate_series(1, 20) i")
    for name in ("by_cust", "pages"):
        conn.execute("SELECT pgtrickle.refresh_stream_table(%s)", [f"shop.{name}"])
    conn.execute("UPDATE shop.orders SET amt = amt + 3, cust = cust + 1 WHERE id <= 300")
    conn.execute("DELETE FROM shop.orders WHERE id BETWEEN 4000 AND 4100")
    conn.execute("DELETE FROM shop.visits WHERE cust = 7")
    conn.execute("INSERT INTO shop.visits VALUES (8, 'page 8'), (NULL, NULL)")
    conn.execute("UPDATE shop.parts SET weight = weight + 1 WHERE id < 50")
