"""The story that ``harness demo`` tells, as values: tables, a stream table, changes, refreshes, costs; no printing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from harness import citus, trickle
from harness.chain.runner import upgrade
from harness.trickle.catalog import Refresh, StreamTable
from harness.trickle.oracle import Difference, compare

if TYPE_CHECKING:
    # Loaded with the first stream table: a SQL parser takes its time.
    from harness.trickle import Explanation


NAME = "shop.totals"
QUERY: LiteralString = """\
SELECT customer_id, count(*) AS orders, sum(amount) AS spent
  FROM shop.orders
 GROUP BY customer_id"""
SHOW_QUERY: LiteralString = (
    "SELECT customer_id, orders, spent FROM shop.totals ORDER BY spent DESC, customer_id LIMIT 3"
)
# Half a million orders have 125,000 customers then: `auto` distributes a stream table of so many rows.
ORDERS_PER_CUSTOMER = 4
# A median needs an odd number; five rounds of both are over in a second or two.
ROUNDS = 5

_TABLES: tuple[LiteralString, ...] = (
    "CREATE SCHEMA shop",
    """CREATE TABLE shop.orders (order_id bigint, customer_id int NOT NULL, amount numeric(12, 2) NOT NULL,
                               PRIMARY KEY (customer_id, order_id))""",
)
# Four shards: each costs about 4 to 5 ms in what the coordinator routes to all of them (F30).
_DISTRIBUTE: tuple[LiteralString, ...] = (
    "SELECT pg_catalog.create_distributed_table('shop.orders', 'customer_id', shard_count := 4)",
)
# Multiplying by a prime spreads customers and amounts without chance: every run has the same rows.
_ORDERS: LiteralString = """
    INSERT INTO shop.orders
    SELECT g, 1 + (g * 7919) %% %(customers)s, 1 + (g * 104729) %% 50000 / 100.0
      FROM pg_catalog.generate_series(%(first)s::bigint, %(last)s::bigint) g"""


@dataclass(frozen=True)
class TableFacts:
    """A table and where it lies.

    Attributes:
        name: with its schema.
        rows: how many, counted.
        placement: in words, such as ``distributed by customer_id``.
        shards_by_node: how many shards each node has; empty for a local table.
    """

    name: str
    rows: int
    placement: str
    shards_by_node: Mapping[str, int]


@dataclass(frozen=True)
class Changes:
    """What the shop did between two refreshes: statements with the rows that each touched."""

    statements: tuple[tuple[str, int], ...]

    @property
    def row_count(self) -> int:
        """All rows that were written."""
        return sum(count for _, count in self.statements)


@dataclass(frozen=True)
class Round:
    """One refresh beside one recomputation, over the same changes.

    Attributes:
        refresh: what the engine says of its refresh.
        refresh_ms: the refresh as the client sees it.
        recompute_ms: running the query into a temporary table: the least that recomputing costs.
    """

    refresh: Refresh
    refresh_ms: float
    recompute_ms: float


@dataclass(frozen=True)
class Cost:
    """Medians of all rounds, in milliseconds."""

    rounds: tuple[Round, ...]

    @property
    def refresh_ms(self) -> float:
        """Of a refresh."""
        return statistics.median(each.refresh_ms for each in self.rounds)

    @property
    def recompute_ms(self) -> float:
        """Of a recomputation."""
        return statistics.median(each.recompute_ms for each in self.rounds)

    @property
    def ratio(self) -> float:
        """How many refreshes one recomputation is worth."""
        return self.recompute_ms / self.refresh_ms


def _elapsed_ms(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


class Story:
    """Tells the story step by step, on a server or a cluster that is thrown away afterwards.

    Args:
        dsn: of an empty database, on the coordinator or a plain server.
        rows: how many orders there are at the start.
    """

    def __init__(self, dsn: str, *, rows: int) -> None:
        self._rows = rows
        self._next_order = rows + 1
        self._round = 0
        self._customers = max(1, rows // ORDERS_PER_CUSTOMER)
        upgrade(dsn)
        self.connection: citus.Connection = psycopg.connect(dsn, autocommit=True, application_name="harness demo")
        self.presence = citus.fetch_presence(self.connection)
        self._tables = trickle.StreamTables(self.connection)

    def close(self) -> None:
        """Close the connections; the server goes on."""
        self._tables.close()
        self.connection.close()

    def make_tables(self) -> tuple[TableFacts, ...]:
        """The orders, distributed by customer where Citus is; the same rows each time."""
        for statement in _TABLES + (_DISTRIBUTE if self.presence.is_available else ()):
            self.connection.execute(statement)
        self._insert_orders(1, self._rows)
        self.connection.execute("ANALYZE shop.orders")
        return (self.facts_of("orders"),)

    def facts_of(self, name: str) -> TableFacts:
        """Where a table of the shop lies, and how many rows it has."""
        placement = citus.fetch_placement(self.connection, ("shop", name))
        by_node: dict[str, int] = {}
        for shard in citus.fetch_shards(self.connection, placement.relid, with_sizes=False):
            for copy in shard.placements:
                node = "coordinator" if copy.group_id == 0 else f"worker-{copy.group_id}"
                by_node[node] = by_node.get(node, 0) + 1
        words = str(placement.kind)
        if placement.distribution_column:
            words += f" by {placement.distribution_column}"
        count = sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(sql.Identifier("shop", name))
        (rows,) = self.connection.execute(count).fetchone() or (0,)
        return TableFacts(f"shop.{name}", rows, words, dict(sorted(by_node.items())))

    def create(self) -> tuple[StreamTable, float]:
        """The stream table, and how long making and filling it took, in milliseconds."""
        started = time.perf_counter()
        made = self._tables.create(NAME, QUERY, schedule="1m", mode="DIFFERENTIAL")
        return made, (time.perf_counter() - started) * 1000

    def top(self) -> list[tuple[Any, ...]]:
        """The three customers who spent most, as the stream table has them."""
        return self.connection.execute(SHOW_QUERY).fetchall()

    def change(self) -> Changes:
        """A busy moment: new orders, corrected amounts, cancelled orders."""
        self._round += 1
        few = max(1, self._rows // 2000)
        done: list[tuple[str, int]] = []

        def run(what: str, statement: LiteralString, **values: object) -> None:
            done.append((what, self.connection.execute(statement, values).rowcount))

        first, self._next_order = self._next_order, self._next_order + few
        done.append(("INSERT INTO shop.orders", self._insert_orders(first, first + few - 1)))
        run(
            "UPDATE shop.orders SET amount",
            "UPDATE shop.orders SET amount = amount * 1.1 WHERE order_id BETWEEN %(first)s AND %(last)s",
            first=self._round * few,
            last=self._round * few + few // 2,
        )
        run(
            "DELETE FROM shop.orders",
            "DELETE FROM shop.orders WHERE order_id BETWEEN %(first)s AND %(last)s",
            first=self._rows - self._round * few,
            last=self._rows - self._round * few + few // 4,
        )
        return Changes(tuple(done))

    def _insert_orders(self, first: int, last: int) -> int:
        return self.connection.execute(_ORDERS, {"customers": self._customers, "first": first, "last": last}).rowcount

    def pending(self) -> Mapping[str, int]:
        """Captured rows that no refresh has applied yet, by source."""
        return self._tables.status(NAME)[0].pending

    def explain(self) -> Explanation:
        """The delta's SQL and the engine's choice."""
        return self._tables.explain(NAME)

    def refresh(self) -> Round:
        """One refresh, and what recomputing would have cost, over the same rows."""
        started = time.perf_counter()
        done = self._tables.refresh(NAME)
        refresh_ms = (time.perf_counter() - started) * 1000
        return Round(done, refresh_ms, self._recompute_ms())

    def _recompute_ms(self) -> float:
        connection = self.connection
        elapsed_ms = _elapsed_ms(lambda: connection.execute("CREATE TEMPORARY TABLE recomputed AS " + QUERY))
        connection.execute("DROP TABLE pg_temp.recomputed")
        return elapsed_ms

    def measure(self, first: Round) -> Cost:
        """More rounds after the first, each with its own changes; the first is left out, since caches were cold."""
        rounds = []
        for _ in range(ROUNDS):
            self.change()
            rounds.append(self.refresh())
        return Cost(tuple(rounds) or (first,))

    def check(self) -> Difference:
        """The stream table against its query, as multisets, both ways."""
        return compare(self.connection, NAME)
