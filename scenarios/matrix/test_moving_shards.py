"""Shards move between workers, and are rebalanced, while clients write: what captures them moves along (F12)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from psycopg import sql

from harness.clusters import Cluster
from harness.matrix.play import LARGE, TOTALS, require_totals
from harness.matrix.proofs import groups_of, prove_captured_on_workers, prove_source, shards_by_group
from harness.matrix.stage import ANSWER_DEADLINE_S, Stage, open_stage
from harness.matrix.workload import Orders
from harness.postgres import Node

pytestmark = pytest.mark.citus(">= 13")
NAMES = ("totals", "large")


@contextmanager
def writing(nodes: list[Node], writers: list[Orders]) -> Iterator[None]:
    """Each writer writes through its node, one kind of statement after the other, until the block ends."""
    enough = threading.Event()

    def write(node: Node, orders: Orders) -> None:
        with node.connect(deadline_s=ANSWER_DEADLINE_S) as connection:
            while not enough.is_set():
                orders.churn(connection)

    with ThreadPoolExecutor(len(nodes)) as pool:
        futures = [pool.submit(write, node, orders) for node, orders in zip(nodes, writers, strict=True)]
        try:
            yield
        finally:
            enough.set()
        for future in futures:
            future.result()


def begin(stage: Stage, writers: list[Orders], placement: str = "distributed") -> None:
    orders = writers[0]
    orders.create(stage.connection, "distributed")
    for name, query in zip(NAMES, (TOTALS, LARGE), strict=True):
        stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement=placement)
    for writer in writers:
        writer.insert(stage.connection)
    prove_source(stage, orders.table, "distributed")
    prove_captured_on_workers(stage, orders.table)


def end(stage: Stage, writers: list[Orders]) -> None:
    """Refresh, compare, count; then once more with writes since."""
    orders = writers[0]
    for _ in range(2):
        for name in NAMES:
            stage.tables.refresh(name)
        stage.require_oracle(*NAMES)
        rows = {number: row for writer in writers for number, row in writer.rows.items()}
        stage.require_count(orders.table.identifier, len(rows), "orders")
        counted = Orders()
        counted.rows = rows
        require_totals(stage, counted)
        writers[-1].churn(stage.connection)


def _places(stage: Stage) -> dict[int, tuple[str, int]]:
    """Host and port of each worker, by group."""
    rows = stage.rows("SELECT groupid, nodename, nodeport FROM pg_dist_node WHERE groupid > 0")
    return {group: (host, port) for group, host, port in rows}


def move_all(stage: Stage, orders: Orders, source: Node, target: Node) -> int:
    """Move every shard of one worker to the other, refreshing after each; answers how many."""
    groups = {node.name: group for group, node in groups_of(stage).items()}
    places = _places(stage)
    shards = stage.rows(
        "SELECT shardid FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)"
        " WHERE logicalrelid = %s::regclass AND groupid = %s ORDER BY 1",
        [orders.table.qualified, groups[source.name]],
    )
    with stage.coordinator.connect(deadline_s=ANSWER_DEADLINE_S) as mover:
        for (shard,) in shards:
            mover.execute(
                "SELECT citus_move_shard_placement(%s, %s, %s, %s, %s)",
                [shard, *places[groups[source.name]], *places[groups[target.name]]],
            )
            for name in NAMES:
                stage.tables.refresh(name)
    return len(shards)


def test_moving_every_shard_under_writes_and_rebalancing_loses_nothing(citus_database: Cluster) -> None:
    with open_stage(citus_database) as stage:
        writers = [Orders(seed=place, first_id=place + 1, step=2) for place in range(2)]
        orders = writers[0]
        begin(stage, writers)
        first, second = stage.workers
        with writing([stage.coordinator, second], writers):
            assert move_all(stage, orders, first, second) == 2
            groups = {node.name: group for group, node in groups_of(stage).items()}
            assert set(shards_by_group(stage, orders.table)) == {groups[second.name]}
            with stage.coordinator.connect(deadline_s=ANSWER_DEADLINE_S) as rebalancer:
                rebalancer.execute("SELECT rebalance_table_shards(%s::regclass)", [orders.table.qualified])
            for name in NAMES:
                stage.tables.refresh(name)
        stage.topology.clear()
        prove_source(stage, orders.table, "distributed")
        end(stage, writers)


def test_rows_captured_before_a_move_are_applied_after_it(citus_database: Cluster) -> None:
    with open_stage(citus_database) as stage:
        orders = Orders()
        begin(stage, [orders], "local")
        orders.churn(stage.connection)
        first, second = stage.workers
        groups = {node.name: group for group, node in groups_of(stage).items()}
        shard = stage.rows(
            "SELECT shardid FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)"
            " WHERE logicalrelid = %s::regclass AND groupid = %s ORDER BY 1 LIMIT 1",
            [orders.table.qualified, groups[first.name]],
        )[0][0]
        places = _places(stage)
        stage.run(
            "SELECT citus_move_shard_placement(%s, %s, %s, %s, %s)",
            [shard, *places[groups[first.name]], *places[groups[second.name]]],
        )
        # Its buffer rows were written by the first worker and lie on the second now; the second adds its own.
        orders.churn(stage.connection)
        written_by = sql.SQL("SELECT count(DISTINCT seq_id >> 48) FROM {}").format(orders.table.buffer.identifier)
        assert stage.value(written_by) == 2
        end(stage, [orders])
