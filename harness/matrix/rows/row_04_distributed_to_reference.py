"""Row 4, distributed source into a reference table: readers on every node see the same rows."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.distributed import NAMES, distributed_orders
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import play, require_totals
from harness.matrix.stage import open_stage


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders = distributed_orders(stage, "reference")

        with stage.workers[1].connect() as through_worker:
            play(stage, orders, NAMES, [stage.connection, through_worker, stage.connection])
        require_totals(stage, orders)
        content = "SELECT region, orders, priced, amount, mean, least, most FROM totals ORDER BY 1"
        seen = {node.name: node.rows(content) for node in cluster.nodes}
        same = all(rows == seen[stage.coordinator.name] for rows in seen.values())
        text = ", ".join(f"{name}: {len(rows)} rows" for name, rows in seen.items())
        stage.require("every node reads the same stream table", same, text)
        return stage.report()


ROW = Row(
    number=4,
    name="distributed_to_reference",
    title="Hash-distributed table, reference stream table",
    claim="Triggers on the workers, a sequence frontier, MERGE into the reference table.",
    reality="Citus refuses a reference table as the target of MERGE (F22): the delta is applied by DELETE and "
    "INSERT .. ON CONFLICT, in one transaction over all replicas.",
    finding=Claim.HOLDS_CHANGED,
    run=run,
)
