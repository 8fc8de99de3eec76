"""Row 10, two stream tables on one distributed source: one buffer, two frontiers."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.distributed import NAMES, distributed_orders
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import refresh, refresh_all, require_totals
from harness.matrix.proofs import captured
from harness.matrix.stage import Stage, open_stage
from harness.matrix.workload import Orders


def _truncate(stage: Stage, orders: Orders) -> None:
    stage.run("TRUNCATE orders")
    orders.rows.clear()


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders = distributed_orders(stage, "distributed")

        refresh(stage, "totals")
        waiting = captured(stage, orders.table)
        stage.require("rows that one reader has not seen stay", waiting > 0, f"{waiting} rows")
        orders.churn(stage.connection)
        refresh(stage, "totals")
        stage.require_oracle("totals")
        refresh(stage, "large")
        stage.require_oracle("large")
        refresh_or_nothing(stage)
        left = captured(stage, orders.table)
        stage.require("rows that both have seen are deleted", left == 0, f"{left} rows")

        # TRUNCATE while the two stand at different frontiers: neither takes the other's word for it.
        orders.churn(stage.connection)
        refresh(stage, "totals")
        _truncate(stage, orders)
        orders.insert(stage.connection)
        stage.tables.refresh("totals")
        stage.require_oracle("totals")
        orders.churn(stage.connection)
        stage.tables.refresh("large")
        stage.tables.refresh("totals")
        stage.require_oracle(*NAMES)
        orders.churn(stage.connection)
        refresh_all(stage, NAMES)
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        require_totals(stage, orders)
        return stage.report()


def refresh_or_nothing(stage: Stage) -> None:
    """Both stand at one frontier: nothing is left to do, and that costs nothing but the deletion."""
    for name in NAMES:
        done = stage.tables.refresh(name)
        stage.require_equal(f"what a refresh of {name} without changes did", done.action, "NO_DATA")


ROW = Row(
    number=10,
    name="multi_st_sharing_source",
    title="Two stream tables on one distributed table",
    claim="One buffer for both, and TRUNCATE is safe.",
    reality="Rows go when the slower reader is past them. TRUNCATE fires once, on the coordinator (F11), and "
    "makes each reader rebuild at its own next refresh.",
    finding=Claim.HOLDS,
    run=run,
)
