"""Row 3, distributed source: a distributed table into a local stream table."""

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
        orders = distributed_orders(stage, "local")

        with stage.workers[1].connect() as through_worker:
            play(stage, orders, NAMES, [stage.connection, through_worker, stage.connection])
        require_totals(stage, orders)
        require_horizons(stage, orders)
        return stage.report()


ROW = Row(
    number=3,
    name="distributed_to_local",
    title="Hash-distributed table, local stream table",
    claim="Triggers on the workers, a sequence frontier, MERGE on the coordinator.",
    reality="The triggers are made on the coordinator and live on the shards (F7, F8). A frontier that is a "
    "sequence value loses changes; one that is a transaction horizon per node loses none (F19, F20). "
    "MERGE takes a delta that was materialised first (F22).",
    finding=Claim.HOLDS_CHANGED,
    run=run,
)
