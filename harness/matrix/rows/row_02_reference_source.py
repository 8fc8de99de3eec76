"""Row 2, reference source: a reference table into a local stream table, captured once."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import LARGE, TOTALS, play, require_totals
from harness.matrix.proofs import captured, prove_source, prove_storage
from harness.matrix.stage import open_stage
from harness.matrix.tables import public
from harness.matrix.workload import Orders


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "reference")
        orders.insert(stage.connection)
        for name, query in (("totals", TOTALS), ("large", LARGE)):
            stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement="local")
            prove_storage(stage, public(name), "local")
        prove_source(stage, orders.table, "reference")

        before = captured(stage, orders.table)
        with stage.workers[0].connect() as through_worker:
            orders.insert(through_worker, 10)
            once = captured(stage, orders.table) - before
            stage.require("a change is captured once, not once a replica", once == 10, f"{once} of 10 rows")
            play(stage, orders, ["totals", "large"], [stage.connection, through_worker])
        require_totals(stage, orders)
        frontier = stage.frontier("totals", orders.table)
        has_lsn = "lsn" in frontier and set(frontier.get("horizons", ())) == {"0"}
        stage.require("the frontier is an LSN and the coordinator's horizon", has_lsn, sorted(frontier))
        return stage.report()


ROW = Row(
    number=2,
    name="reference_source",
    title="Citus reference table, local stream table",
    claim="A trigger on the coordinator and an LSN frontier.",
    reality="A trigger on the table fires on every node that has a replica (F10); made on the coordinator's own "
    "replica it fires once. The LSN is kept; the cut is by the coordinator's transaction horizon (F19, "
    "F20).",
    finding=Claim.HOLDS_CHANGED,
    run=run,
)
