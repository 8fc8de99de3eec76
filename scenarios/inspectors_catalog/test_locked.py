"""Sizes while somebody has a table or one of its shards locked: estimates at once, never a wait."""

from __future__ import annotations

import contextlib
import time

import pytest
from psycopg import sql

from harness.inspectors import Reason, Status, inspect
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_catalog.asking import look, sizes_of, worker_of

pytestmark = pytest.mark.citus(">= 14")
SIZES = (
    "list_distributed_tables",
    "citus_shard_map",
    "shard_heatmap",
    "shard_skew_report",
    "citus_colocation_inspector",
    "table_inspector",
)


def _ask(own: Standard, name: str) -> object:
    values = {"include_sizes": True} if name in ("list_distributed_tables", "citus_colocation_inspector") else {}
    # Who waited for the lock would have no answer of that node, after the time for locks was up.
    envelope = inspect(own.dsn("plain"), name, values)
    assert (envelope.status, envelope.reason) == (Status.PARTIAL, Reason.LOCK_TIMEOUT), envelope
    assert "locked" in envelope.message
    assert envelope.nodes.failed == ()
    return envelope


def test_open_truncate_makes_estimates_of_its_table_only(own: Standard) -> None:
    before = sizes_of(own.cluster, "app", "orders")
    with own.cluster.coordinator.connect() as connection:
        connection.autocommit = False
        connection.execute("TRUNCATE app.orders")
        for name in SIZES:
            _ask(own, name)
        rows = inspect(own.dsn(), "citus_shard_map", {"schema": "app", "table": "orders"}).rows
        assert {(row.table, row.size_source) for row in rows} == {("orders", "estimate"), ("items", "exact")}
        found = {(row.shardid, row.groupid): row.size_bytes for row in rows if row.table == "orders"}
        connection.rollback()
    # The tables were vacuumed: relpages are what there is, but for the maps of free space and visibility.
    assert found.keys() == before.keys()
    assert all(0.75 * before[copy] <= size <= before[copy] for copy, size in found.items())
    assert sizes_of(own.cluster, "app", "orders") == before
    after = look(own, "citus_shard_map", schema="app", table="orders").rows
    assert {(row.shardid, row.groupid): row.size_bytes for row in after if row.table == "orders"} == before


def test_lock_of_one_shard_on_its_worker_makes_one_estimate(own: Standard) -> None:
    shard = look(own, "list_shards", schema="app", table="items").rows[0]
    worker = worker_of(own, shard.groupid)
    with worker.connect() as connection:
        connection.autocommit = False
        connection.execute("SET citus.enable_manual_changes_to_shards = on")
        connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier("app", shard.shard_name))
        )
        for name in SIZES:
            _ask(own, name)
        rows = inspect(own.dsn(), "citus_shard_map", {"schema": "app", "table": "items"}).rows
        assert {row.shardid for row in rows if row.size_source == "estimate"} == {shard.shardid}
        connection.rollback()


def test_lock_of_an_index_alone_is_seen(own: Standard) -> None:
    """REINDEX has only the index: pg_total_relation_size would wait for it all the same."""
    shard = look(own, "list_shards", schema="app", table="orders").rows[0]
    worker = worker_of(own, shard.groupid)
    with worker.connect() as connection:
        connection.autocommit = False
        connection.execute("SET citus.enable_manual_changes_to_shards = on")
        connection.execute(sql.SQL("REINDEX INDEX {}").format(sql.Identifier("app", f"orders_amount_{shard.shardid}")))
        _ask(own, "citus_shard_map")
        connection.rollback()
    assert look(own, "citus_shard_map").rows


def test_who_waits_for_a_lock_is_not_queued_behind(own: Standard) -> None:
    """A reader holds the shard, an ALTER waits for it, and we would wait for the ALTER."""
    shard = look(own, "list_shards", schema="app", table="items").rows[0]
    worker = worker_of(own, shard.groupid)
    name = sql.Identifier("app", shard.shard_name)
    with worker.connect() as reader, contextlib.closing(worker.connect()) as waiter:
        reader.autocommit = False
        reader.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(name))
        waiter.autocommit = False
        waiter.execute("SET citus.enable_manual_changes_to_shards = on")
        waiter.pgconn.send_query(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name).as_bytes(waiter))
        deadline = time.monotonic() + 10
        while not worker.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"):
            assert time.monotonic() < deadline, "the lock is not waited for"
        _ask(own, "citus_shard_map")
        reader.rollback()
