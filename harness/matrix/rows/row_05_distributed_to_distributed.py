"""Row 5, distributed source into a distributed table: the full pipeline."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.distributed import NAMES, distributed_orders, require_horizons
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import play, require_totals
from harness.matrix.stage import open_stage


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders = distributed_orders(stage, "distributed")

        with stage.workers[1].connect() as through_worker:
            play(stage, orders, NAMES, [stage.connection, through_worker, stage.connection])
        require_totals(stage, orders)
        require_horizons(stage, orders)
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
