"""A worker that joins later: what it captures counts, and what was there stays right."""

from __future__ import annotations

import pytest

from harness.clusters import RunningCluster
from harness.matrix.play import LARGE, TOTALS, refresh_all, require_totals
from harness.matrix.proofs import captured, prove_captured_on_workers, prove_source
from harness.matrix.stage import open_stage
from harness.matrix.workload import Orders
from scenarios.fixtures.clusters import MakeCluster

NAMES = ("totals", "large")
JOIN = "SELECT citus_add_node(%s, %s)"


@pytest.mark.citus(">= 13")
def test_worker_that_joins_later_captures_too(make_cluster: MakeCluster) -> None:
    cluster: RunningCluster = make_cluster(workers=2)
    late = cluster.workers[1]
    cluster.sql("SELECT citus_remove_node(%s, %s)", late.address)
    with open_stage(cluster) as stage:
        orders = Orders()
        orders.create(stage.connection, "distributed")
        orders.insert(stage.connection)
        for name, query in zip(NAMES, (TOTALS, LARGE), strict=True):
            stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement="distributed")
        orders.churn(stage.connection)
        assert captured(stage, orders.table) > 0

        stage.run(JOIN, late.address)
        with late.connect() as through_late:
            orders.churn(through_late)
        refresh_all(stage, NAMES)

        orders.churn(stage.connection)  # waits in the buffer while its shards move to the new worker
        stage.run("SELECT citus_rebalance_start()")
        stage.run("SELECT citus_rebalance_wait()")
        prove_source(stage, orders.table, "distributed")
        with late.connect() as through_late:
            orders.churn(through_late)
        prove_captured_on_workers(stage, orders.table)
        refresh_all(stage, NAMES)
        horizons = stage.frontier("totals", orders.table)["horizons"]
        assert {"1", str(late.value("SELECT groupid FROM pg_dist_local_group"))} <= set(horizons)
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        require_totals(stage, orders)
