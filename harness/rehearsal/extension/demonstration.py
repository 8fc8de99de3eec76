"""A small installation of the extension to update: sources with and without a key, a stream table of each kind."""

from __future__ import annotations

import psycopg

from harness.rehearsal.extension.verbs import make_stream_table
from harness.rehearsal.tables import Connection, SourceTable, TableName, fetch_table

_SCHEMA = "shop"
# Few rows: it is the catalog that an update changes. Enough for deltas that are smaller than their table.
_TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.customers (id int PRIMARY KEY, region text NOT NULL);
CREATE TABLE shop.orders (id bigint PRIMARY KEY, cust int, amt numeric(12,2) NOT NULL, note text);
CREATE TABLE shop.visits (cust int, page text);
CREATE TABLE shop.parts (id int PRIMARY KEY, weight int NOT NULL);
INSERT INTO shop.customers SELECT i, 'region ' || i % 8 FROM generate_series(1, 200) i;
INSERT INTO shop.orders SELECT i, 1 + i % 200, i % 97, 'note ' || i FROM generate_series(1, 5000) i;
INSERT INTO shop.visits SELECT i % 50, 'page ' || i % 11 FROM generate_series(1, 1000) i;
INSERT INTO shop.parts SELECT i, i % 30 FROM generate_series(1, 300) i;
"""
_SOURCES = ("customers", "orders", "parts", "visits")
# Name, query, mode: an aggregate, a join, one over rows without a key, a filter that is rebuilt, one kept at once.
_STREAM_TABLES = (
    ("totals", "SELECT cust, sum(amt) AS total, count(*) AS n FROM shop.orders GROUP BY cust", "DIFFERENTIAL"),
    (
        "regions",
        "SELECT o.id, o.amt, c.region FROM shop.orders o JOIN shop.customers c ON c.id = o.cust",
        "DIFFERENTIAL",
    ),
    ("pages", "SELECT page, count(*) AS n FROM shop.visits GROUP BY page", "DIFFERENTIAL"),
    ("large", "SELECT id, amt FROM shop.orders WHERE amt > 90", "FULL"),
    ("weights", "SELECT weight, count(*) AS n FROM shop.parts GROUP BY weight", "IMMEDIATE"),
)


def build(conn: Connection) -> tuple[tuple[SourceTable, ...], tuple[str, ...]]:
    """Make tables and stream tables in a database that has the extension.

    Args:
        conn: a superuser's, in autocommit.

    Returns:
        The sources, by their label, and what could not be made, with the server's words. After the first stream table
        that cannot be made the others are tried all the same.
    """
    conn.execute(_TABLES)
    refused = []
    for name, query, mode in _STREAM_TABLES:
        table = TableName(_SCHEMA, name)
        try:
            make_stream_table(conn, table, query, mode)
        except psycopg.errors.DatabaseError as error:
            if conn.closed or conn.broken:
                raise
            refused.append(f"{table.label} ({mode}): {error.sqlstate} {error.diag.message_primary}")
    sources = tuple(fetch_table(conn, TableName(_SCHEMA, name)) for name in _SOURCES)
    return sources, tuple(refused)
