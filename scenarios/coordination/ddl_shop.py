"""A shop whose owner alters it: orders, captured for two stream tables that use different columns of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psycopg
import pytest
from _pytest.mark import ParameterSet
from psycopg.rows import TupleRow

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal

Connection = psycopg.Connection[TupleRow]
PLACEMENTS = ("plain", "local", "reference", "distributed")
TOTALS = "SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer"
NOTES = "SELECT id, note FROM orders WHERE note IS NOT NULL"
NAMES = ("totals", "notes")
WRITES = (
    "INSERT INTO {t} (id, customer, note) SELECT i, i % 9, 'w' || i FROM generate_series({n}, {n} + 9) i",
    "UPDATE {t} SET customer = customer + 1 WHERE id % 4 = 0",
    "UPDATE {t} SET note = NULL WHERE id % 6 = 1",
    "DELETE FROM {t} WHERE id % 11 = 3",
)


def placements(*names: str) -> list[ParameterSet]:
    """Where orders lives; the cases on a cluster are marked so."""
    return [pytest.param(name, marks=() if name == "plain" else pytest.mark.citus(">= 13")) for name in names]


@dataclass
class Shop:
    """The shop, and who works in it.

    Attributes:
        node: the coordinator, or the plain server.
        nodes: all of them.
        connection: its owner's, which no stream table uses.
        tables: the stream tables, over a connection of their own that lives through every DDL.
        placement: where orders is.
        table: what orders is called now.
    """

    node: Node
    nodes: tuple[Node, ...]
    connection: Connection
    tables: StreamTables
    placement: str
    table: str = "public.orders"
    _written: int = 1000

    def run(self, statement: str) -> None:
        """A statement of the owner, in a transaction of its own."""
        self.connection.execute(statement.encode())

    def write(self) -> None:
        """Rows come, change and go; nothing of it may fail."""
        self._written += 10
        for statement in WRITES:
            self.run(statement.format(t=self.table, n=self._written))

    def marked(self) -> set[str]:
        """The stream tables that say that they have to be filled anew."""
        rows = self.connection.execute("SELECT pgt_name FROM pgtrickle.pgt_stream_tables WHERE needs_reinit").fetchall()
        return {str(name) for (name,) in rows}

    def why(self, name: str) -> tuple[str, str]:
        """Status of a stream table, and why it has to be filled anew."""
        row = self.connection.execute(
            "SELECT status, coalesce(reinit_reason, '') FROM pgtrickle.pgt_stream_tables WHERE pgt_name = %s", [name]
        ).fetchone()
        assert row is not None
        return str(row[0]), str(row[1])

    def refresh(self, name: str) -> str:
        """Refresh, compare with the query; the action."""
        done = self.tables.refresh(name)
        assert_equal(self.connection, name)
        return done.action

    def tracked(self) -> set[str]:
        """The stable names that are captured."""
        rows = self.connection.execute("SELECT source_stable_name FROM pgtrickle.pgt_change_tracking").fetchall()
        return {str(name) for (name,) in rows}

    def value(self, query: LiteralString) -> object:
        """The only value of a query."""
        row = self.connection.execute(query).fetchone()
        return None if row is None else row[0]


def place(connection: Connection, table: str, placement: str) -> None:
    """Make a table that is there a reference or a distributed one."""
    if placement == "reference":
        connection.execute("SELECT create_reference_table(%s)", [table])
    elif placement == "distributed":
        connection.execute("SELECT create_distributed_table(%s, 'id', shard_count => 4)", [table])


@contextmanager
def open_shop(cluster: Cluster | Node, placement: str, *, makes_tables: bool = True) -> Iterator[Shop]:
    """A database at head with orders in it, and ``totals`` and ``notes`` over them."""
    nodes: tuple[Node, ...] = tuple(cluster.nodes) if isinstance(cluster, Cluster) else (cluster,)
    node = nodes[0]
    upgrade(node.dsn())
    with node.connect() as connection, node.connect() as session, StreamTables(session) as tables:
        connection.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, customer int, amount int DEFAULT 5, note text, spare int)"
        )
        place(connection, "orders", placement)
        connection.execute("INSERT INTO orders SELECT i, i % 7, i, 'n' || i FROM generate_series(1, 100) i")
        if makes_tables:
            tables.create("totals", TOTALS, None, "DIFFERENTIAL", "local")
            tables.create("notes", NOTES, None, "DIFFERENTIAL", "local")
        yield Shop(node, nodes, connection, tables, placement)


def open_where(request: pytest.FixtureRequest, placement: str) -> Cluster | Node:
    """The plain database or the cluster's, as the placement asks."""
    found: Cluster | Node = request.getfixturevalue("database" if placement == "plain" else "citus_database")
    return found
