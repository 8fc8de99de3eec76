"""Groups whose keys are NULL: one group, as GROUP BY has it, wherever the stream table lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from harness.clusters import Cluster
from harness.matrix.play import refresh_all
from harness.matrix.stage import Stage, open_stage
from harness.matrix.workload import Orders
from harness.postgres import Node

QUERIES = {
    "by_region": "SELECT region, count(*) AS orders, sum(amount) AS amount, min(id) AS m FROM orders GROUP BY region",
    "by_both": "SELECT region, note, count(*) AS orders FROM orders GROUP BY region, note",
    "distinct_pairs": "SELECT DISTINCT region, note FROM orders",
    "pairs": "SELECT region, note FROM orders",
}


def require_groups(stage: Stage, orders: Orders) -> None:
    """The groups and their counts are those that the writer knows, the NULL one among them."""
    known = Counter(row.region for row in orders.rows.values())
    found = dict(stage.rows("SELECT region, orders FROM by_region"))
    assert found == dict(known)
    assert stage.value("SELECT count(*) FROM by_region WHERE region IS NULL") == (1 if known[None] else 0)


def check(stage: Stage, source: str, target: str) -> None:
    """Rows come to the NULL group, leave it, return; the group goes with its last row."""
    orders = Orders()
    orders.create(stage.connection, source)
    orders.insert(stage.connection)
    for name, query in QUERIES.items():
        stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement=target)
    without = [number for number, row in orders.rows.items() if row.region is None]
    assert without, "the workload has a NULL group from the start"
    steps: tuple[Callable[[], None], ...] = (
        lambda: orders.reprice(stage.connection, without, "north"),  # the NULL group goes
        lambda: orders.reprice(stage.connection, orders.some(20), None),  # and is there again
        lambda: orders.delete(stage.connection, orders.some(10)),
        lambda: orders.reprice(stage.connection, list(orders.rows), None),  # it is the only one
        lambda: orders.insert(stage.connection),
        lambda: orders.delete(stage.connection, [number for number, row in orders.rows.items() if row.region is None]),
    )
    for step in steps:
        step()
        refresh_all(stage, list(QUERIES))
        require_groups(stage, orders)
    stage.require_count(orders.table.identifier, len(orders.rows), "orders")


def test_null_groups_come_and_go_on_one_server(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        check(stage, "local", "local")


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("target", ["local", "reference", "distributed"])
def test_null_groups_come_and_go_on_a_cluster(citus_database: Cluster, target: str) -> None:
    with open_stage(citus_database) as stage:
        check(stage, "distributed", target)
