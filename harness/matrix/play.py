"""What the rows have in common: the queries, and rounds of writing, refreshing and comparing."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from harness.engines import OURS, Done
from harness.matrix.stage import Stage
from harness.matrix.workload import Connection, Orders

# Every aggregate that a delta keeps by itself, and the two that look again at groups which lost a row (D6).
TOTALS = (
    "SELECT region, count(*) AS orders, count(amount) AS priced, sum(amount) AS amount, avg(amount) AS mean,"
    " min(amount) AS least, max(amount) AS most FROM orders GROUP BY region"
)
LARGE = "SELECT id, region, amount * 2 AS doubled FROM orders WHERE amount > 300"
BY_TIER = (
    "SELECT c.tier, count(*) AS orders, sum(o.amount) AS amount"
    " FROM orders o JOIN customers c ON c.id = o.customer_id GROUP BY c.tier"
)


def refresh(stage: Stage, name: str) -> Done:
    """Refresh a stream table that has changes waiting: by its delta, and by nothing else.

    The public extension may recompute, which it does where it holds that for cheaper; what it costs is for benchmarks.

    Raises:
        CheckFailedError: it recomputed, or found nothing to do.
    """
    done = stage.tables.refresh(name)
    if stage.engine is not OURS:
        return done
    stage.require_equal(f"what the refresh of {name} did ({done.reason})", done.action, "DIFFERENTIAL")
    return done


def refresh_all(stage: Stage, names: Sequence[str]) -> None:
    """Refresh each, then ask the oracle about each."""
    for name in names:
        refresh(stage, name)
    stage.require_oracle(*names)


def play(stage: Stage, orders: Orders, names: Sequence[str], connections: Sequence[Connection]) -> None:
    """A round for each connection: every kind of statement through it, then refresh and compare.

    Args:
        stage: where.
        orders: who writes.
        names: the stream tables.
        connections: to the coordinator or to workers.
    """
    for connection in connections:
        orders.churn(connection)
        refresh_all(stage, names)
        orders.raise_amounts(connection, orders.some(5))  # nothing but sums: a delta whose counts are all 0
        refresh_all(stage, names)
    stage.require_count(orders.table.identifier, len(orders.rows), orders.table.name)


def require_totals(stage: Stage, orders: Orders, name: str = "totals") -> None:
    """A stream table of `TOTALS` counts what the writer counted itself: rows, and their amounts.

    Raises:
        CheckFailedError: says both.
    """
    query = sql.SQL("SELECT coalesce(sum(orders), 0)::int, coalesce(sum(amount), 0) FROM {}")
    ((count, amount),) = stage.rows(query.format(sql.Identifier(name)))
    stage.require_equal(f"orders in {name}", count, len(orders.rows))
    stage.require_equal(f"amount in {name}", amount, orders.total)
    stage.counts[name] = len(orders.rows)
