"""Row 1, local regression: local tables into local stream tables, every operator, on one server and on a cluster."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import BY_TIER, LARGE, TOTALS, play, refresh_all, require_totals
from harness.matrix.proofs import prove_source, prove_storage
from harness.matrix.stage import open_stage
from harness.matrix.tables import public
from harness.matrix.workload import Customers, Orders

# One query an operator (D6), beside the three that other rows have too.
QUERIES = {
    "totals": TOTALS,
    "large": LARGE,
    "by_tier": BY_TIER,
    "joined": "SELECT o.id, c.tier, o.amount FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.amount > 9",
    "equal_rows": "SELECT customer_id % 3 AS bucket, region FROM orders",
    "regions": "SELECT DISTINCT region, customer_id % 4 AS bucket FROM orders",
    "united": "SELECT customer_id AS id, region AS word FROM orders UNION ALL SELECT id, tier FROM customers",
    "busy": (
        "WITH counted AS (SELECT customer_id, count(*) AS orders FROM orders GROUP BY customer_id)"
        " SELECT c.tier, x.orders FROM counted x JOIN customers c ON c.id = x.customer_id"
    ),
    "keen": (
        "SELECT customer_id, count(*) FILTER (WHERE amount > 500) AS dear, sum(amount) AS amount FROM orders"
        " GROUP BY customer_id HAVING count(*) > 6"
    ),
    "everything": "SELECT count(*) AS orders, sum(amount) AS amount FROM orders",
}
# No incremental form: recomputed, and said so.
RECURSIVE = (
    "WITH RECURSIVE steps AS (SELECT id, 1 AS step FROM customers"
    " UNION ALL SELECT id, step + 1 FROM steps WHERE step < 3) SELECT id, step FROM steps"
)


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator or a plain server; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders, customers = Orders(), Customers()
        orders.create(stage.connection, "local")
        customers.create(stage.connection, "local")
        orders.insert(stage.connection)
        for name, query in QUERIES.items():
            stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement="local")
        stage.tables.create("steps", RECURSIVE, schedule=None, mode="AUTO", placement="local")
        stage.require_equal("the mode of a recursive CTE", stage.tables.explain("steps").mode, "FULL")
        for source in (orders.table, customers.table):
            prove_source(stage, source, "local")
        for name in QUERIES:
            prove_storage(stage, public(name), "local")
        stage.require_oracle(*QUERIES, "steps")

        customers.churn(stage.connection)
        play(stage, orders, list(QUERIES), [stage.connection])
        for _ in range(2):
            orders.churn(stage.connection)
            customers.churn(stage.connection)
            refresh_all(stage, list(QUERIES))
        require_totals(stage, orders)

        stage.connection.execute("TRUNCATE orders")
        orders.rows.clear()
        orders.insert(stage.connection)
        for name in (*QUERIES, "steps"):
            stage.tables.refresh(name)
        stage.require_oracle(*QUERIES, "steps")
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        stage.require_count(customers.table.identifier, len(customers.tiers), "customers")
        require_totals(stage, orders)
        return stage.report()


ROW = Row(
    number=1,
    name="local_regression",
    title="Local tables, local stream table",
    claim="All existing behaviour stays as it is where no table is distributed.",
    reality="The same engine on one server and on a coordinator: ten queries stay equal to themselves through "
    "every kind of statement, and what has no incremental form is recomputed and says so.",
    finding=Claim.HOLDS,
    run=run,
    needs_citus=False,
)
