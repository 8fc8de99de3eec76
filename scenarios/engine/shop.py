"""A small shop for scenarios of the engine: orders, customers, and stream tables over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.rows import TupleRow

from harness.chain.runner import upgrade
from harness.postgres import Node
from harness.trickle import Refresh, StreamTables
from harness.trickle.oracle import assert_equal

Connection = psycopg.Connection[TupleRow]

TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, region text, vip boolean);
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, amount numeric, note text, placed timestamptz DEFAULT
now(), score float8);
INSERT INTO customers SELECT i, 'r' || i % 3, i % 2 = 0 FROM generate_series(1, 20) i;
INSERT INTO orders SELECT i, i % 20 + 1, i % 7, CASE WHEN i % 5 <> 0 THEN 'n' || i % 4 END, now(), i / 3.0 FROM
    generate_series(1, 300) i;
"""
TOTALS = "SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer"
CHANGES = """
UPDATE orders SET amount = amount + 1 WHERE id % 10 = 0;
DELETE FROM orders WHERE id % 25 = 1;
INSERT INTO orders SELECT (SELECT max(id) FROM orders) + i, i, i, 'new', now(), i FROM generate_series(1, 5) i;
"""


@contextmanager
def open_shop(node: Node) -> Iterator[tuple[Connection, StreamTables]]:
    """A plain database at head with the shop in it, a connection, and its stream tables."""
    upgrade(node.dsn())
    with node.connect() as connection:
        connection.execute(TABLES.encode())
        with StreamTables(connection) as stream_tables:
            yield connection, stream_tables


def refreshed(connection: Connection, stream_tables: StreamTables, name: str, *, mode: str | None = None) -> Refresh:
    """Refresh, and compare with the query."""
    done = stream_tables.refresh(name, mode=mode)
    assert_equal(connection, name)
    return done
