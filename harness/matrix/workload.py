"""A table of orders and its writer, who knows every row of it without asking the database."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from harness.matrix.tables import Table, public

Connection = psycopg.Connection[TupleRow]
REGIONS = ("north", "south", "east", "west", None)
# Enough rows that every one of four shards is met by each statement.
BATCH = 60
# Two clients that change many shards at once, through two nodes, lock them in no common order: Citus finds the deadlock
# and ends one, which tries again, as a client has to.
MOST_RETRIES = 20


@dataclass(frozen=True)
class Order:
    """One row, beside its id."""

    customer_id: int
    region: str | None
    amount: Decimal | None


class Orders:
    """Writes orders and counts them.

    Args:
        name: of the table, in ``public``.
        seed: of what is drawn at random; the same seed writes the same rows.
        first_id: the first id that this writer uses.
        step: from one id to the next: several writers of one table share nothing.

    Attributes:
        rows: what the table holds of this writer's rows, by id; only what was committed.
        deadlocks: how often it was ended by one and tried again.
    """

    def __init__(self, name: str = "orders", *, seed: int = 4, first_id: int = 1, step: int = 1) -> None:
        self.table: Table = public(name)
        self.rows: dict[int, Order] = {}
        self.deadlocks = 0
        self._random = random.Random(seed)  # noqa: S311 - a workload, no secret
        self._next_id = first_id
        self._step = step

    def create(self, connection: Connection, placement: str) -> None:
        """Make the table: ``local``, ``reference``, or ``distributed`` by ``id``; on the coordinator."""
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} (id bigint PRIMARY KEY, customer_id integer NOT NULL, region text,"
                " amount numeric(12, 2), note text)"
            ).format(self.table.identifier)
        )
        if placement == "reference":
            connection.execute("SELECT pg_catalog.create_reference_table(%s::regclass)", [self.table.qualified])
        elif placement == "distributed":
            connection.execute("SELECT pg_catalog.create_distributed_table(%s::regclass, 'id')", [self.table.qualified])

    @property
    def total(self) -> Decimal:
        """The sum of all amounts."""
        return sum((row.amount for row in self.rows.values() if row.amount is not None), Decimal(0))

    def _make(self, count: int) -> dict[int, Order]:
        made = {}
        for _ in range(count):
            amount = Decimal(self._random.randrange(1, 100_000)) / 100
            made[self._next_id] = Order(
                self._random.randrange(1, 21),
                self._random.choice(REGIONS),
                None if self._random.random() < 0.1 else amount,
            )
            self._next_id += self._step
        return made

    def some(self, count: int) -> list[int]:
        """Ids of rows that are there, drawn at random."""
        return self._random.sample(sorted(self.rows), min(count, len(self.rows)))

    def insert(self, connection: Connection, count: int = BATCH) -> None:
        """One INSERT of several rows."""
        made = self._make(count)
        values = sql.SQL(", ").join(
            sql.SQL("({}, {}, {}, {})").format(number, row.customer_id, row.region, row.amount)
            for number, row in made.items()
        )
        connection.execute(
            sql.SQL("INSERT INTO {} (id, customer_id, region, amount) VALUES {}").format(self.table.identifier, values)
        )
        self.rows |= made

    def copy(self, connection: Connection, count: int = BATCH) -> None:
        """The same by COPY."""
        made = self._make(count)
        command = sql.SQL("COPY {} (id, customer_id, region, amount) FROM STDIN").format(self.table.identifier)
        with connection.cursor() as cursor, cursor.copy(command) as copy:
            for number, row in made.items():
                copy.write_row((number, row.customer_id, row.region, row.amount))
        self.rows |= made

    def reprice(self, connection: Connection, ids: Sequence[int], region: str | None = "north") -> None:
        """One UPDATE of several rows: the amount changes, and the group."""
        connection.execute(
            sql.SQL("UPDATE {} SET amount = coalesce(amount, 0) + 1, region = %s WHERE id = ANY (%s)").format(
                self.table.identifier
            ),
            [region, list(ids)],
        )
        for number in ids:
            row = self.rows[number]
            self.rows[number] = replace(row, amount=(row.amount or Decimal(0)) + 1, region=region)

    def raise_amounts(self, connection: Connection, ids: Sequence[int]) -> None:
        """One UPDATE of several rows that leaves each in its group: no count changes, only sums."""
        connection.execute(
            sql.SQL("UPDATE {} SET amount = amount + 2 WHERE id = ANY (%s)").format(self.table.identifier), [list(ids)]
        )
        for number in ids:
            amount = self.rows[number].amount
            self.rows[number] = replace(self.rows[number], amount=None if amount is None else amount + 2)

    def delete(self, connection: Connection, ids: Sequence[int]) -> None:
        """One DELETE of several rows."""
        connection.execute(sql.SQL("DELETE FROM {} WHERE id = ANY (%s)").format(self.table.identifier), [list(ids)])
        for number in ids:
            del self.rows[number]

    def upsert(self, connection: Connection, ids: Sequence[int], fresh: int = 5) -> None:
        """INSERT .. ON CONFLICT DO UPDATE: rows that are there change, others come."""
        given = {number: replace(self.rows[number], region="upserted") for number in ids} | self._make(fresh)
        values = sql.SQL(", ").join(
            sql.SQL("({}, {}, {}, {})").format(number, row.customer_id, row.region, row.amount)
            for number, row in given.items()
        )
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (id, customer_id, region, amount) VALUES {}"
                " ON CONFLICT (id) DO UPDATE SET region = excluded.region"
            ).format(self.table.identifier, values)
        )
        self.rows |= given

    def transact(self, connection: Connection) -> None:
        """One transaction over many shards: rows come, change and go; a savepoint in it is rolled back."""
        with connection.transaction():
            self.insert(connection, BATCH // 2)
            ids = self.some(12)
            self.reprice(connection, ids[:8], "east")
            before = dict(self.rows)
            with connection.transaction(force_rollback=True):
                self.delete(connection, ids[8:])
                self.insert(connection, 7)
            self.rows = before
            self.delete(connection, ids[8:])

    def roll_back(self, connection: Connection) -> None:
        """A transaction of everything that is rolled back."""
        before = dict(self.rows)
        with connection.transaction(force_rollback=True):
            self.insert(connection, 10)
            self.reprice(connection, self.some(5), "nowhere")
            self.delete(connection, self.some(5))
        self.rows = before

    def churn(self, connection: Connection) -> None:
        """Every kind of statement once, each in a transaction of its own, tried again after a deadlock."""
        for step in (
            lambda: self.insert(connection),
            lambda: self.copy(connection),
            lambda: self.reprice(connection, self.some(15), self._random.choice(REGIONS)),
            lambda: self.raise_amounts(connection, self.some(15)),
            lambda: self.upsert(connection, self.some(5)),
            lambda: self.delete(connection, self.some(15)),
            lambda: self.transact(connection),
            lambda: self.roll_back(connection),
        ):
            self._retry(step)

    def _retry(self, step: Callable[[], None]) -> None:
        before = dict(self.rows)
        for _ in range(MOST_RETRIES):
            try:
                step()
            except psycopg.errors.DeadlockDetected:
                self.rows = dict(before)
                self.deadlocks += 1
            else:
                return
        step()


class Customers:
    """The customers of the orders: few rows, changed one by one.

    Attributes:
        tiers: tier by id; only what was committed.
    """

    def __init__(self, name: str = "customers") -> None:
        self.table: Table = public(name)
        self.tiers: dict[int, str] = {}

    def create(self, connection: Connection, placement: str) -> None:
        """Make the table, ``local``, ``reference`` or ``distributed`` by ``id``, with 20 rows; on the coordinator."""
        connection.execute(
            sql.SQL("CREATE TABLE {} (id integer PRIMARY KEY, tier text NOT NULL)").format(self.table.identifier)
        )
        if placement == "reference":
            connection.execute("SELECT pg_catalog.create_reference_table(%s::regclass)", [self.table.qualified])
        elif placement == "distributed":
            connection.execute("SELECT pg_catalog.create_distributed_table(%s::regclass, 'id')", [self.table.qualified])
        for number in range(1, 21):
            self.add(connection, number, ("gold", "silver", "bronze")[number % 3])

    def add(self, connection: Connection, number: int, tier: str) -> None:
        """One more customer."""
        connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(self.table.identifier), [number, tier])
        self.tiers[number] = tier

    def move(self, connection: Connection, number: int, tier: str) -> None:
        """A customer gets another tier."""
        connection.execute(
            sql.SQL("UPDATE {} SET tier = %s WHERE id = %s").format(self.table.identifier), [tier, number]
        )
        self.tiers[number] = tier

    def remove(self, connection: Connection, number: int) -> None:
        """A customer goes; the orders stay."""
        connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(self.table.identifier), [number])
        del self.tiers[number]

    def churn(self, connection: Connection) -> None:
        """One comes, one goes, two change."""
        numbers = sorted(self.tiers)
        self.add(connection, numbers[-1] + 1, "gold")
        self.remove(connection, numbers[0])
        self.move(connection, numbers[1], "platinum")
        self.move(connection, numbers[2], "gold")
