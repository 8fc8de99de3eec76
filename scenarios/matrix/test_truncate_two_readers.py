"""TRUNCATE with two readers at different frontiers: each rebuilds at its own refresh, whatever the other did."""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.play import LARGE, TOTALS, refresh, refresh_all, require_totals
from harness.matrix.stage import Stage, open_stage
from harness.matrix.workload import Orders
from harness.postgres import Node

NAMES = ("totals", "large")


def check(stage: Stage, source: str) -> None:
    """One reader ahead of the other, TRUNCATE in between, in every order that two refreshes have."""
    orders = Orders()
    orders.create(stage.connection, source)
    orders.insert(stage.connection)
    target = "distributed" if source == "distributed" else "local"
    for name, query in zip(NAMES, (TOTALS, LARGE), strict=True):
        stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement=target)
    for ahead, behind in (NAMES, NAMES[::-1]):
        orders.churn(stage.connection)
        refresh(stage, ahead)  # the other one stays behind
        orders.churn(stage.connection)
        stage.run("TRUNCATE orders")
        orders.rows.clear()
        orders.insert(stage.connection)
        stage.tables.refresh(ahead)
        stage.require_oracle(ahead)
        orders.churn(stage.connection)
        refresh(stage, ahead)
        stage.tables.refresh(behind)
        stage.require_oracle(*NAMES)
    with stage.connection.transaction(force_rollback=True):
        stage.run("TRUNCATE orders")
    orders.churn(stage.connection)
    refresh_all(stage, NAMES)  # a TRUNCATE that was rolled back is none
    stage.run("TRUNCATE orders")
    orders.rows.clear()
    for name in NAMES:
        stage.tables.refresh(name)
    stage.require_oracle(*NAMES)
    stage.require_count(orders.table.identifier, 0, "orders")
    require_totals(stage, orders)


def test_truncate_with_two_readers_on_one_server(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        check(stage, "local")


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("source", ["local", "reference", "distributed"])
def test_truncate_with_two_readers_on_a_cluster(citus_database: Cluster, source: str) -> None:
    with open_stage(citus_database) as stage:
        check(stage, source)
