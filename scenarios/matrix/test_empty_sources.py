"""Sources without rows: created on nothing, filled, emptied by DELETE, filled again."""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.play import BY_TIER, LARGE, TOTALS, refresh_all, require_totals
from harness.matrix.stage import Stage, open_stage
from harness.matrix.workload import Customers, Orders
from harness.postgres import Node

QUERIES = {
    "totals": TOTALS,
    "large": LARGE,
    "by_tier": BY_TIER,
    "everything": "SELECT count(*) AS orders, sum(amount) AS amount, max(amount) AS most FROM orders",
    "regions": "SELECT DISTINCT region FROM orders",
    "twice": "SELECT id FROM orders UNION ALL SELECT id + 1000 FROM orders",
}


def check(stage: Stage, source: str, target: str) -> None:
    """From empty to full to empty to full; the oracle after each."""
    orders, customers = Orders(), Customers()
    orders.create(stage.connection, source)
    customers.create(stage.connection, "reference" if stage.is_citus else "local")
    for name, query in QUERIES.items():
        stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement=target)
    stage.require_oracle(*QUERIES)
    assert stage.rows("SELECT orders, amount, most FROM everything") == [(0, None, None)]  # always there
    assert stage.value("SELECT count(*) FROM totals") == 0
    assert stage.tables.refresh("totals").action == "NO_DATA"

    for _ in range(2):
        orders.insert(stage.connection)
        refresh_all(stage, list(QUERIES))
        require_totals(stage, orders)
        orders.delete(stage.connection, list(orders.rows))
        refresh_all(stage, list(QUERIES))
        require_totals(stage, orders)
        assert stage.rows("SELECT orders, amount, most FROM everything") == [(0, None, None)]
        assert stage.value("SELECT count(*) FROM totals") == 0
    stage.require_count(orders.table.identifier, 0, "orders")


def test_source_goes_from_empty_to_full_and_back_on_one_server(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        check(stage, "local", "local")


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("target", ["local", "reference", "distributed"])
def test_distributed_source_goes_from_empty_to_full_and_back(citus_database: Cluster, target: str) -> None:
    with open_stage(citus_database) as stage:
        check(stage, "distributed", target)
