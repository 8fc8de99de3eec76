"""Databases for scenarios of coordination: entries and what is kept of them, on one server or distributed."""

from __future__ import annotations

from harness.chain.runner import upgrade
from harness.postgres import Node
from harness.trickle import StreamTables

QUERY = "SELECT account, count(*) AS n, sum(amount) AS total FROM entries GROUP BY account"


def prepare(node: Node, *, is_distributed: bool, schedule: str | None = None) -> None:
    """Bring a database to head, with a table ``entries`` and a stream table ``balances`` over it."""
    upgrade(node.dsn())
    with node.connect() as connection, StreamTables(connection) as tables:
        connection.execute("CREATE TABLE entries (id bigint PRIMARY KEY, account integer NOT NULL, amount integer)")
        if is_distributed:
            connection.execute("SELECT create_distributed_table('entries', 'id', shard_count => 4)")
        connection.execute("INSERT INTO entries SELECT i, i % 7, i FROM generate_series(1, 200) i")
        tables.create("balances", QUERY, schedule, "DIFFERENTIAL")


def change(node: Node) -> None:
    """One more entry."""
    highest = node.value("SELECT max(id) FROM entries")
    node.sql("INSERT INTO entries VALUES (%s, %s, 1)", [highest + 1, highest % 7])
