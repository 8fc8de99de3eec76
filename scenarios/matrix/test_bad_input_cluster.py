"""A cluster that is not whole: a worker that is down, a transaction that nobody resolved (D9)."""

from __future__ import annotations

import pytest
from psycopg import sql

from harness.clusters import RunningCluster
from harness.errors import HarnessError, UnresolvedTransactionError
from harness.matrix.play import LARGE, TOTALS, refresh_all, require_totals
from harness.matrix.proofs import prove_captured_on_workers, prove_source
from harness.matrix.stage import Stage, open_stage
from harness.matrix.workload import Orders
from harness.postgres import Node
from harness.waiting import wait_until

pytestmark = pytest.mark.citus(">= 13")

# What a shard's clients are told when the node is not there.
CATALOG = (
    "SELECT (SELECT count(*) FROM pgtrickle.pgt_stream_tables), (SELECT count(*) FROM pgtrickle.pgt_change_tracking)"
)


def begin(stage: Stage) -> Orders:
    orders = Orders()
    orders.create(stage.connection, "distributed")
    orders.insert(stage.connection)
    return orders


def address_of(node: Node) -> str:
    return str(node.value("SELECT inet_server_port()"))


def test_worker_that_is_down_refuses_a_creation_and_leaves_nothing(fresh_cluster: RunningCluster) -> None:
    with open_stage(fresh_cluster) as stage:
        orders = begin(stage)
        worker = fresh_cluster.workers[1]
        port = address_of(worker)
        worker.stop()
        with pytest.raises(HarnessError) as refused:
            stage.tables.create("totals", TOTALS, mode="DIFFERENTIAL", placement="distributed")
        assert port in f"{refused.value.message} {refused.value.node}"
        assert stage.rows(CATALOG) == [(0, 0)]
        first = fresh_cluster.workers[0]
        assert first.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^pg_trickle_cdc'") == 0

        worker.start()
        stage.tables.create("totals", TOTALS, schedule=None, mode="DIFFERENTIAL", placement="distributed")
        prove_source(stage, orders.table, "distributed")
        orders.insert(stage.connection)
        prove_captured_on_workers(stage, orders.table)
        refresh_all(stage, ["totals"])
        require_totals(stage, orders)


def test_worker_that_is_down_refuses_a_refresh_and_loses_nothing(fresh_cluster: RunningCluster) -> None:
    with open_stage(fresh_cluster) as stage:
        orders = begin(stage)
        for name, query in (("totals", TOTALS), ("large", LARGE)):
            stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement="local")
        orders.churn(stage.connection)
        prove_source(stage, orders.table, "distributed")
        prove_captured_on_workers(stage, orders.table)
        before = stage.rows("SELECT * FROM totals ORDER BY region")
        worker = fresh_cluster.workers[0]
        port = address_of(worker)
        worker.stop()
        with pytest.raises(HarnessError) as refused:
            stage.tables.refresh("totals")
        assert port in f"{refused.value.message} {refused.value.node}"
        assert stage.rows("SELECT * FROM totals ORDER BY region") == before

        worker.start()
        refresh_all(stage, ["totals", "large"])
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        require_totals(stage, orders)


def test_unresolved_prepared_transaction_stops_a_refresh_until_it_is_resolved(fresh_cluster: RunningCluster) -> None:
    with open_stage(fresh_cluster) as stage:
        orders = begin(stage)
        stage.tables.create("totals", TOTALS, schedule=None, mode="DIFFERENTIAL", placement="local")
        orders.insert(stage.connection)
        prove_source(stage, orders.table, "distributed")
        prove_captured_on_workers(stage, orders.table)
        worker = fresh_cluster.workers[0]
        _prepare_an_update(worker)
        stage.tables.refresh("totals")  # every commit over several nodes is prepared for a moment: its rows wait
        assert stage.value("SELECT count(*) FROM totals WHERE region = 'prepared'") == 0
        before = stage.rows("SELECT * FROM totals ORDER BY region")

        def refused() -> UnresolvedTransactionError | None:
            orders.insert(stage.connection, 5)
            try:
                stage.tables.refresh("totals")
            except UnresolvedTransactionError as error:
                return error
            return None

        error = wait_until("a refresh to be refused", refused, deadline_s=30, poll_max_s=1)
        assert error is not None
        group = worker.value("SELECT groupid FROM pg_dist_local_group")
        assert "nobody_resolved_this" in error.message
        assert f"group {group}" in error.message
        assert "recover_prepared_transactions" in error.hint
        left = stage.rows("SELECT * FROM totals ORDER BY region")
        assert len(left) == len(before)

        worker.sql("COMMIT PREPARED 'nobody_resolved_this'")
        refresh_all(stage, ["totals"])
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        assert stage.value("SELECT count(*) FROM totals WHERE region = 'prepared'") == 1


def _prepare_an_update(worker: Node) -> None:
    """On one of its shards, as a coordinator that died between the two phases leaves it."""
    shard = worker.value(
        "SELECT pg_catalog.shard_name(s.logicalrelid, s.shardid) FROM pg_dist_shard s"
        " JOIN pg_dist_placement p USING (shardid) WHERE s.logicalrelid = 'orders'::regclass"
        " AND p.groupid = (SELECT groupid FROM pg_dist_local_group) ORDER BY 1 LIMIT 1"
    )
    with worker.connect() as connection:
        connection.execute("BEGIN")
        connection.execute(sql.SQL("UPDATE {} SET region = 'prepared'").format(sql.Identifier(shard)))
        connection.execute("PREPARE TRANSACTION 'nobody_resolved_this'")
