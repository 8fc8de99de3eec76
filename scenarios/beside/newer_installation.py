"""Stream tables of many kinds, made by a real 0.66 or 0.67 with its own function, over tables of many kinds."""

from __future__ import annotations

import psycopg
from psycopg.rows import TupleRow

Connection = psycopg.Connection[TupleRow]

_TABLES = """
CREATE SCHEMA "Odd Shop";
CREATE SCHEMA many;
CREATE TABLE many.orders (id bigint PRIMARY KEY, cust int, amt numeric(12,2), note text);
CREATE TABLE many.customers (id int PRIMARY KEY, region text);
CREATE TABLE many.keyless (a int, b text);
CREATE TABLE many.parts (id int, grp int, v int, PRIMARY KEY (id, grp)) PARTITION BY LIST (grp);
CREATE TABLE many.parts_0 PARTITION OF many.parts FOR VALUES IN (0);
CREATE TABLE many.parts_1 PARTITION OF many.parts FOR VALUES IN (1);
CREATE TABLE "Odd Shop"."My Table" ("Id" int PRIMARY KEY, "A b" text);
CREATE VIEW many.large AS SELECT id, cust, amt FROM many.orders WHERE amt > 40;
INSERT INTO many.orders SELECT i, i % 40, i % 97, 'note ' || i % 5 FROM generate_series(1, 1000) i;
INSERT INTO many.customers SELECT i, 'region ' || i % 4 FROM generate_series(0, 39) i;
INSERT INTO many.keyless SELECT i % 5, 'b' || i % 3 FROM generate_series(1, 60) i;
INSERT INTO many.parts SELECT i, i % 2, i FROM generate_series(1, 100) i;
INSERT INTO "Odd Shop"."My Table" SELECT i, 'x' || i % 3 FROM generate_series(1, 50) i;
"""
#: Query and mode by name. It keeps columns of its own beside theirs: counts, sums and squares of the aggregates.
MANY = {
    "many.aggregates": (
        "SELECT cust, avg(amt) AS a, stddev(amt) AS s, min(amt) AS lo, max(amt) AS hi FROM many.orders GROUP BY cust",
        "DIFFERENTIAL",
    ),
    "many.totals": ("SELECT cust, sum(amt) AS total FROM many.orders GROUP BY cust", "AUTO"),
    "many.grand_total": ("SELECT sum(total) AS total FROM many.totals", "DIFFERENTIAL"),
    "many.notes": ("SELECT DISTINCT note FROM many.orders", "DIFFERENTIAL"),
    "many.highest": ("SELECT id, amt FROM many.orders ORDER BY amt DESC, id LIMIT 7", "DIFFERENTIAL"),
    "many.viewed": ("SELECT id, amt FROM many.large", "DIFFERENTIAL"),
    "many.outer_join": (
        "SELECT o.id, c.region FROM many.orders o LEFT JOIN many.customers c ON c.id = o.cust",
        "DIFFERENTIAL",
    ),
    "many.all_rows": ("SELECT a, b FROM many.keyless", "DIFFERENTIAL"),
    "many.frequent": ("SELECT cust, count(*) AS n FROM many.orders GROUP BY cust HAVING count(*) > 24", "DIFFERENTIAL"),
    "many.partitions": ("SELECT grp, sum(v) AS v FROM many.parts GROUP BY grp", "DIFFERENTIAL"),
    "many.odd": ('SELECT "Id", "A b" AS "C d" FROM "Odd Shop"."My Table"', "DIFFERENTIAL"),
    "many.numbered": (
        "SELECT id, row_number() OVER (PARTITION BY cust ORDER BY id) AS place FROM many.orders",
        "FULL",
    ),
    "many.at_once": (
        "SELECT o.id, c.region FROM many.orders o JOIN many.customers c ON c.id = o.cust",
        "IMMEDIATE",
    ),
}
CHANGES = """
UPDATE many.orders SET amt = amt * 2, cust = cust + 1 WHERE id % 7 = 0;
DELETE FROM many.orders WHERE id % 13 = 0;
INSERT INTO many.keyless VALUES (1, 'b1'), (2, NULL);
UPDATE many.parts SET grp = 1 - grp WHERE id < 9;
UPDATE many.customers SET region = 'elsewhere' WHERE id < 5;
DELETE FROM "Odd Shop"."My Table" WHERE "Id" % 5 = 0;
"""


def build(conn: Connection) -> None:
    """Tables, stream tables, and changes that wait; with the extension's own functions only."""
    conn.execute("CREATE EXTENSION pg_trickle")
    conn.execute(_TABLES)
    for name, (query, mode) in MANY.items():
        conn.execute("SELECT pgtrickle.create_stream_table(%s, %s, '1h', %s)", [name, query, mode])
    conn.execute("UPDATE many.orders SET amt = amt + 1 WHERE id % 10 = 0")
    conn.execute("DELETE FROM many.keyless WHERE a = 2")
