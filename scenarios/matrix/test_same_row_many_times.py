"""One row that changes many times between two refreshes: only where it began and where it ended counts (F21)."""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.play import LARGE, TOTALS, refresh_all, require_totals
from harness.matrix.proofs import captured
from harness.matrix.stage import Stage, open_stage
from harness.matrix.workload import Orders
from harness.postgres import Node

NAMES = ("totals", "large")
PLACEMENTS = ["local", "reference", "distributed"]


def begin(stage: Stage, placement: str) -> Orders:
    orders = Orders()
    orders.create(stage.connection, placement)
    orders.insert(stage.connection)
    target = "distributed" if placement == "distributed" else "local"
    for name, query in zip(NAMES, (TOTALS, LARGE), strict=True):
        stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement=target)
    return orders


def check(stage: Stage) -> None:
    """The cases, one after the other; each ends with the oracle."""
    orders = begin(stage, PLACEMENTS[2] if stage.is_citus else PLACEMENTS[0])
    one = orders.some(1)
    for number in range(10):
        orders.reprice(stage.connection, one, ("north", "south", None)[number % 3])
    assert captured(stage, orders.table) == 20  # each UPDATE is the row that went and the row that came
    refresh_all(stage, NAMES)

    with stage.connection.transaction():
        for number in range(10):
            orders.reprice(stage.connection, one, ("east", "west")[number % 2])
    refresh_all(stage, NAMES)

    kept = orders.rows[one[0]]
    for _ in range(10):  # goes and comes back under its key
        orders.delete(stage.connection, one)
        orders.rows[one[0]] = kept
        orders.upsert(stage.connection, one, fresh=0)
    refresh_all(stage, NAMES)
    stage.require_count(orders.table.identifier, len(orders.rows), "orders")
    require_totals(stage, orders)


def test_row_changed_ten_times_between_two_refreshes_on_one_server(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        check(stage)


@pytest.mark.citus(">= 13")
def test_row_changed_ten_times_between_two_refreshes_on_a_cluster(citus_database: Cluster) -> None:
    with open_stage(citus_database) as stage:
        check(stage)


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_row_changed_there_and_back_changes_nothing(citus_database: Cluster, placement: str) -> None:
    with open_stage(citus_database) as stage:
        orders = begin(stage, placement)
        one = orders.some(1)[0]
        for region in (*(f"r{number}" for number in range(9)), orders.rows[one].region):
            stage.run("UPDATE orders SET region = %s WHERE id = %s", [region, one])
        before = stage.rows("SELECT * FROM totals ORDER BY region")
        for name in NAMES:
            stage.tables.refresh(name)
        stage.require_oracle(*NAMES)
        assert stage.rows("SELECT * FROM totals ORDER BY region") == before
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
