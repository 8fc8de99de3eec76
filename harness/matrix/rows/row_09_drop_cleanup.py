"""Row 9, DROP STREAM TABLE: nothing of it is left on any node, and the source goes on."""

from __future__ import annotations

from typing import LiteralString

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.distributed import NAMES, distributed_orders
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import TOTALS, refresh_all, require_totals
from harness.matrix.proofs import (
    CAPTURE_HERE,
    prove_on_every_node,
    prove_on_no_node,
    prove_source,
)
from harness.matrix.stage import open_stage

STORAGE_HERE: LiteralString = (
    "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relnamespace = 'public'::regnamespace"
    " AND c.relname ~ '^(totals|large)(_[0-9]+)?$'"
)
CATALOG_LEFT = (
    "SELECT (SELECT count(*) FROM pgtrickle.pgt_stream_tables) + (SELECT count(*) FROM pgtrickle.pgt_dependencies)"
    " + (SELECT count(*) FROM pgtrickle.pgt_change_tracking)"
)


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders = distributed_orders(stage, "distributed")
        refresh_all(stage, NAMES)

        prove_on_every_node(stage, "capture", CAPTURE_HERE)
        prove_on_every_node(stage, "storage", STORAGE_HERE)

        # One reader goes: the other one's capture stays whole.
        stage.tables.drop("large")
        prove_source(stage, orders.table, "distributed")
        orders.churn(stage.connection)
        refresh_all(stage, ["totals"])

        orders.churn(stage.connection)  # rows that nobody will apply
        stage.tables.drop("totals")
        prove_on_no_node(stage, "capture", CAPTURE_HERE)
        prove_on_no_node(stage, "storage", STORAGE_HERE)
        stage.require("the catalog is empty", stage.value(CATALOG_LEFT) == 0, "no row")
        with stage.workers[0].connect() as through_worker:
            orders.churn(through_worker)
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")

        stage.tables.create("totals", TOTALS, schedule=None, mode="DIFFERENTIAL", placement="distributed")
        orders.churn(stage.connection)
        refresh_all(stage, ["totals"])
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        require_totals(stage, orders)
        return stage.report()


ROW = Row(
    number=9,
    name="drop_cleanup",
    title="DROP STREAM TABLE on a distributed source",
    claim="Triggers on all workers and the distributed buffer are removed.",
    reality="With the last reader go triggers, functions, buffer and storage, on every node, in one transaction; "
    "while there is another reader its capture stays.",
    finding=Claim.HOLDS,
    run=run,
)
