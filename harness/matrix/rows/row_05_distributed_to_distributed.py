"""Row 5, distributed source into a distributed table: the full pipeline."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import LARGE, TOTALS, play, require_totals
from harness.matrix.proofs import prove_captured_on_workers, prove_source, prove_storage
from harness.matrix.stage import open_stage
from harness.matrix.tables import public
from harness.matrix.workload import Orders

NAMES = ("totals", "large")


def run(cluster: Cluster) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster) as stage:
        orders = Orders()
        orders.create(stage.connection, "distributed")
        orders.insert(stage.connection)
        for name, query in zip(NAMES, (TOTALS, LARGE), strict=True):
            stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement="distributed")
            prove_storage(stage, public(name), "distributed")
        prove_source(stage, orders.table, "distributed")
        orders.insert(stage.connection)
        prove_captured_on_workers(stage, orders.table)

        with stage.workers[1].connect() as through_worker:
            play(stage, orders, NAMES, [stage.connection, through_worker, stage.connection])
        require_totals(stage, orders)
        frontier = stage.frontier("totals", orders.table)
        horizons = set(frontier.get("horizons", ()))
        stage.require("the frontier has a horizon of every worker", {"1", "2"} <= horizons, sorted(horizons))
        return stage.report()


ROW = Row(
    number=5,
    name="distributed_to_distributed",
    title="Hash-distributed table, distributed stream table",
    claim="The full pipeline: worker triggers, a sequence frontier, INSERT ON CONFLICT.",
    reality="The buffer is distributed as its source is, not by seq_id (F13, F14), and rows are matched by a hash"
    " that is checked again (D7). A delta straight from colocated buffers may be merged shard by shard "
    "(F31, F33).",
    finding=Claim.HOLDS_CHANGED,
    run=run,
)
