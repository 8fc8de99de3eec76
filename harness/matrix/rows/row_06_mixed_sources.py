"""Row 6, mixed sources: a distributed and a reference table into a local stream table."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import BY_TIER, play, refresh_all
from harness.matrix.proofs import prove_captured_on_workers, prove_source, prove_storage
from harness.matrix.stage import open_stage
from harness.matrix.tables import public
from harness.matrix.workload import Customers, Orders

QUERIES = {
    "by_tier": BY_TIER,
    "joined": "SELECT o.id, o.amount, c.tier FROM orders o JOIN customers c ON c.id = o.customer_id",
}


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders, customers = Orders(), Customers()
        orders.create(stage.connection, "distributed")
        customers.create(stage.connection, "reference")
        orders.insert(stage.connection)
        for name, query in QUERIES.items():
            stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement="local")
            prove_storage(stage, public(name), "local")
        prove_source(stage, orders.table, "distributed")
        prove_source(stage, customers.table, "reference")
        orders.insert(stage.connection)
        prove_captured_on_workers(stage, orders.table)

        with stage.workers[0].connect() as through_worker:
            play(stage, orders, list(QUERIES), [stage.connection, through_worker])
            customers.churn(through_worker)
            refresh_all(stage, list(QUERIES))
            with stage.connection.transaction():  # both sides of the join in one transaction
                orders.insert(stage.connection)
                customers.churn(stage.connection)
            refresh_all(stage, list(QUERIES))
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        stage.require_count(customers.table.identifier, len(customers.tiers), "customers")
        known = sum(row.customer_id in customers.tiers for row in orders.rows.values())
        stage.require_count(public("joined").identifier, known, "joined")

        frontiers = {each.name: stage.frontier("by_tier", each) for each in (orders.table, customers.table)}
        markers = {name: sorted(frontier) for name, frontier in frontiers.items()}
        of_orders, of_customers = frontiers["orders"], frontiers["customers"]
        both = (
            "seq_id" in of_orders
            and {"1", "2"} <= set(of_orders["horizons"])
            and "seq_id" not in of_customers
            and "lsn" in of_customers
            and set(of_customers["horizons"]) == {"0"}
        )
        stage.require("the frontier keeps both markers", both, markers)
        return stage.report()


ROW = Row(
    number=6,
    name="mixed_sources",
    title="Distributed and reference tables, local stream table",
    claim="A frontier of several modes, mixed capture.",
    reality="Each source keeps its own marker, LSN or workers' horizons, and both are read before the delta: one "
    "transaction that writes to both sources is seen whole or not at all.",
    finding=Claim.HOLDS,
    run=run,
)
