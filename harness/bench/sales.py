"""The tables that refreshes are measured over: a million sales, their customers and products, and how they change."""

from __future__ import annotations

from psycopg import sql

from harness.bench.byhand import Connection
from harness.trickle.names import stable_name

CUSTOMERS, PRODUCTS = 100_000, 10_000
# Numbers that a row's own number does not foretell, so that a change meets rows everywhere.
_FACTS = """
INSERT INTO facts
SELECT i, 1 + (hashint8extended(i, 1) & 1073741823) %% 100000, (hashint8extended(i, 2) & 1073741823) %% 1000,
       (hashint8extended(i, 3) & 1073741823) %% 100000, 1 + (hashint8extended(i, 4) & 1073741823) %% 10000,
       (hashint8extended(i, 5) & 1073741823) %% 1000, 'sale ' || i
FROM generate_series(1, %s) i"""
_TABLES = """
CREATE TABLE facts (id bigint, customer integer NOT NULL, few integer NOT NULL, many integer NOT NULL,
    product integer NOT NULL, amount numeric(12,2) NOT NULL, note text);
CREATE TABLE customers (customer integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE products (product integer PRIMARY KEY, label text NOT NULL);"""


def make_sales(connection: Connection, *, rows: int, has_citus: bool, shards: int = 4) -> None:
    """Make the tables and fill them.

    Args:
        connection: to the coordinator or the server.
        rows: how many sales.
        has_citus: whether sales and customers are distributed, side by side, and products a reference table.
        shards: of the distributed ones.
    """
    for statement in _TABLES.strip().split(";")[:-1]:
        connection.execute(statement.encode())
    if has_citus:
        connection.execute("SELECT create_distributed_table('facts', 'customer', shard_count => %s)", [shards])
        connection.execute("SELECT create_distributed_table('customers', 'customer', colocate_with => 'facts')")
        connection.execute("SELECT create_reference_table('products')")
    connection.execute("INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, %s) i", [CUSTOMERS])
    connection.execute("INSERT INTO products SELECT i, 'product ' || i FROM generate_series(1, %s) i", [PRODUCTS])
    connection.execute(_FACTS, [rows])
    # Built at once: rows come in no order of it.
    connection.execute("ALTER TABLE facts ADD PRIMARY KEY (customer, id)")
    for table in (b"facts", b"customers", b"products"):
        connection.execute(b"VACUUM ANALYZE " + table)


def change_sales(connection: Connection, share: float, number: int) -> int:
    """Change some sales, all over the table.

    Args:
        connection: to the coordinator or the server.
        share: of them; its inverse is a whole number, or it is 0.
        number: of the change: each changes other rows.

    Returns:
        How many were changed.
    """
    if not share:
        return 0
    step = round(1 / share)
    return connection.execute(
        "UPDATE facts SET amount = (amount + 7) %% 1000, many = (many + 7919) %% 100000 WHERE id %% %s = %s",
        [step, number % step],
    ).rowcount


class Changes:
    """Changes sales, and gives each contestant of a round the same captured rows.

    Args:
        connection: to the coordinator or the server; a stream table reads the sales already.
        rows: how many sales there are.
        has_citus: whether the buffer is distributed.
        readers: the contestants' names.

    Attributes:
        readers: the same; they may change between two rounds.
        changed: how many sales the last change was about.
    """

    def __init__(self, connection: Connection, *, rows: int, has_citus: bool, readers: frozenset[str]) -> None:
        self._connection = connection
        self._rows = rows
        self.readers = readers
        self._waiting: set[str] = set()
        self._number = 0
        self._buffer = f"pgtrickle_changes.changes_{stable_name('public', 'facts')}".encode()
        self.changed = 0
        connection.execute(b"CREATE TABLE hand_buffer (LIKE " + self._buffer + b")")
        if has_citus:
            connection.execute("SELECT create_distributed_table('hand_buffer', 'shard_key', colocate_with => 'facts')")

    def close(self) -> None:
        """Drop the copy of the buffer."""
        self._connection.execute("DROP TABLE hand_buffer")

    def before(self, reader: str, share: float) -> None:
        """See to it that a contestant has changes to take; the first of each round makes them for all.

        Args:
            reader: the contestant.
            share: of the sales.
        """
        if reader not in self._waiting:
            self._make(share)
            self._waiting = set(self.readers)
        self._waiting.discard(reader)

    def vacuum(self, table: str) -> None:
        """Sweep a table up, as autovacuum would."""
        self._connection.execute(sql.SQL("VACUUM {}").format(sql.Identifier(table)))

    def _make(self, share: float) -> None:
        # What the last round left dead is swept up, as autovacuum would.
        self._connection.execute(b"VACUUM hand_buffer")
        self._connection.execute(b"VACUUM " + self._buffer)
        self._number += 1
        self.changed = change_sales(self._connection, share, self._number)
        self._connection.execute(b"INSERT INTO hand_buffer SELECT * FROM " + self._buffer)
