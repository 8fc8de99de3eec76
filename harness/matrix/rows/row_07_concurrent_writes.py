"""Row 7, concurrent writes: clients write through the coordinator and through both workers while it refreshes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import LARGE, TOTALS, require_totals
from harness.matrix.proofs import prove_captured_on_workers, prove_source, prove_storage
from harness.matrix.stage import ANSWER_DEADLINE_S, Stage, open_stage
from harness.matrix.tables import public
from harness.matrix.workload import Orders
from harness.postgres.node import Node

NAMES = ("totals", "large")
# Each writer takes 8 rounds of a dozen statements: 2 to 4 s on two cores, so that a dozen refreshes fall among them.
ROUNDS = 8
LEAST_REFRESHES = 3


def _write(node: Node, orders: Orders) -> None:
    with node.connect(deadline_s=ANSWER_DEADLINE_S) as connection:
        orders.insert(connection)
        for _ in range(ROUNDS):
            orders.churn(connection)


def _refresh_meanwhile(stage: Stage, writing: list[Future[None]]) -> int:
    refreshes = 0
    while refreshes < LEAST_REFRESHES or not all(future.done() for future in writing):
        for name in NAMES:
            stage.tables.refresh(name)
        refreshes += 1
    return refreshes


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        nodes = (stage.coordinator, stage.coordinator, *stage.workers)
        writers = [Orders(seed=place, first_id=place + 1, step=len(nodes)) for place in range(len(nodes))]
        orders = writers[0]
        orders.create(stage.connection, "distributed")
        for name, query in zip(NAMES, (TOTALS, LARGE), strict=True):
            stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement="distributed")
            prove_storage(stage, public(name), "distributed")
        prove_source(stage, orders.table, "distributed")
        orders.insert(stage.connection)
        prove_captured_on_workers(stage, orders.table)

        with ThreadPoolExecutor(len(nodes), thread_name_prefix="writer") as pool:
            writing = [pool.submit(_write, node, writer) for node, writer in zip(nodes, writers, strict=True)]
            refreshes = _refresh_meanwhile(stage, writing)
        for future in writing:
            future.result()
        stage.topology["writers"] = ", ".join(node.name for node in nodes)
        stage.topology["deadlocks of writers, tried again"] = str(sum(writer.deadlocks for writer in writers))
        stage.topology["refreshes among their writes"] = str(refreshes)

        for name in NAMES:
            stage.tables.refresh(name)
        stage.require_oracle(*NAMES)
        for writer in writers[1:]:
            orders.rows |= writer.rows
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        require_totals(stage, orders)
        return stage.report()


ROW = Row(
    number=7,
    name="concurrent_writes",
    title="Distributed table, distributed stream table, writes while it refreshes",
    claim="Workers write while the coordinator refreshes.",
    reality="Four clients, one through each worker and two through the coordinator, and nothing is lost: what a "
    "horizon does not cover waits for the next refresh. With the plan's sequence frontier it would be "
    "lost (F19).",
    finding=Claim.HOLDS_CHANGED,
    run=run,
)
