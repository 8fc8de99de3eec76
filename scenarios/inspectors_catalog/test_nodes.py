"""list_nodes and all of this room's inspectors while a node is dead, frozen, or only a replica."""

from __future__ import annotations

import time

import pytest

from harness.inspectors import Limits, Reason, Status, inspect, registry
from harness.inspectors.contract import Cost, Severity
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_catalog.asking import by, look

pytestmark = pytest.mark.citus(">= 14")
CATALOG = (
    "list_nodes",
    "citus_cluster_summary",
    "list_distributed_tables",
    "list_shards",
    "citus_shard_map",
    "shard_heatmap",
    "shard_skew_report",
    "citus_colocation_inspector",
    "citus_schema_overview",
    "table_inspector",
    "citus_table_stats",
    "citus_time_partitions_inspector",
    "citus_placement_integrity",
    "citus_drift_inspector",
    "citus_rebalance_plan",
)
# Read the coordinator's catalog only, unless more is asked for.
ALONE = {"list_distributed_tables", "list_shards", "citus_colocation_inspector", "citus_time_partitions_inspector"}
# A frozen node is waited for as long as a connection may take; nothing is waited for twice.
LIMITS = Limits(statement_timeout_ms=6000)
# A busy machine: who waits without a limit of ours waits for 30 seconds and more.
_BUSY = 3


def test_nodes_are_those_of_the_catalog_and_say_their_versions(own: Standard) -> None:
    rows = look(own, "list_nodes").rows
    assert [
        (
            row.nodeid,
            row.groupid,
            row.nodename,
            row.nodeport,
            row.role,
            row.isactive,
            row.hasmetadata,
            row.metadatasynced,
            row.shouldhaveshards,
            row.isclone,
        )
        for row in rows
    ] == own.cluster.rows("""
        SELECT nodeid, groupid, nodename, nodeport, noderole::text, isactive, hasmetadata, metadatasynced,
               shouldhaveshards, nodeisclone FROM pg_dist_node ORDER BY groupid, nodeid""")
    assert [row.is_coordinator for row in rows] == [True, False, False]
    for row, node in zip(rows, own.cluster.nodes, strict=True):
        assert (row.nodename, row.nodeport) == node.address
        assert (row.reachable, row.in_recovery) == (True, False)
        assert row.pg_version == node.value("SHOW server_version")
        assert row.citus_version == node.value("SHOW citus.version")
        assert row.extension_version == node.value("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
    assert not registry.get("list_nodes").severity(look(own, "list_nodes"))  # type: ignore[misc]


def test_nodes_without_reachability_are_not_asked(own: Standard) -> None:
    envelope = look(own, "list_nodes", include_reachability=False)
    assert envelope.nodes.asked == ()
    assert {(row.reachable, row.unreachable_reason, row.pg_version) for row in envelope.rows} == {
        (None, "not asked", None)
    }


def test_secondary_is_not_asked_and_doubles_no_shard(own: Standard) -> None:
    """citus_shards joins nodes without a role: one secondary doubles what its primary has (inspectors.md)."""
    before = {name: look(own, name).rows for name in ("list_shards", "citus_shard_map", "table_inspector")}
    host, port = own.cluster.workers[0].address
    own.cluster.sql("SELECT citus_add_secondary_node('127.0.0.1', 9, %s, %s::int)", [host, port])
    try:
        rows = by(look(own, "list_nodes"), lambda row: (row.nodename, row.nodeport))
        secondary = rows["127.0.0.1", 9]
        assert (secondary.role, secondary.reachable, secondary.groupid) == ("secondary", None, rows[host, port].groupid)
        assert secondary.unreachable_reason == "not asked: it is a secondary"
        assert own.cluster.value("SELECT count(*) FROM citus_shards") > len(before["list_shards"])
        for name, was in before.items():
            assert look(own, name).rows == was, name
        figures = by(look(own, "citus_cluster_summary", section="nodes"), lambda row: row.name)
        assert (figures["registered"].value, figures["secondaries"].value, figures["workers"].value) == (4, 1, 2)
    finally:
        own.cluster.sql("SELECT citus_remove_node('127.0.0.1', 9)")


def _assert_told(own: Standard, name: str, silent: str) -> None:
    started = time.monotonic()
    envelope = inspect(own.dsn(), name, limits=LIMITS)
    elapsed_s = time.monotonic() - started
    assert elapsed_s < _BUSY * LIMITS.timeout_ms(registry.get(name).cost) / 1000
    if name in ALONE:
        assert (envelope.status, envelope.nodes.asked) == (Status.OK, ())
        assert envelope.rows
        return
    assert envelope.reason is Reason.NODE_UNREACHABLE, envelope
    if name == "citus_rebalance_plan":  # Citus' own function has an error for it, and no part of an answer
        assert envelope.status is Status.UNAVAILABLE
        return
    assert envelope.status is Status.PARTIAL
    assert silent in envelope.message
    assert [each.node for each in envelope.nodes.failed] == [silent]
    assert envelope.nodes.answered == tuple(each for each in own.node_names if each != silent)
    assert envelope.rows or name == "citus_drift_inspector"


def _assert_partial_by_value(own: Standard, silent: str) -> None:
    nodes = by(inspect(own.dsn(), "list_nodes", limits=LIMITS), lambda row: f"{row.nodename}:{row.nodeport}")
    assert {name: row.reachable for name, row in nodes.items()} == {name: name != silent for name in own.node_names}
    assert nodes[silent].isactive, "the catalog knows nothing of it"
    (finding,) = registry.get("list_nodes").severity(inspect(own.dsn(), "list_nodes", limits=LIMITS))  # type: ignore[misc]
    assert (finding.rule, finding.severity, finding.target) == ("node_unreachable", Severity.ERROR, silent)
    shards = inspect(own.dsn(), "citus_shard_map", {"schema": "app", "table": "orders"}, limits=LIMITS)
    assert {(row.node == silent, row.size_bytes is None, row.size_source) for row in shards.rows} == {
        (True, True, "none"),
        (False, False, "exact"),
    }
    (table,) = inspect(own.dsn(), "table_inspector", {"schema": "app", "table": "orders"}, limits=LIMITS).rows
    assert (table.drift_count, table.unknown_shards, table.size_source) == (0, 4, "partial")
    integrity = inspect(own.dsn(), "citus_placement_integrity", limits=LIMITS)
    (row,) = integrity.rows
    copies = own.cluster.value("SELECT count(*) FROM pg_dist_placement WHERE groupid = %s", [nodes[silent].groupid])
    assert (row.problem, row.node, row.copies) == ("unknown", silent, copies)
    skew = by(inspect(own.dsn(), "shard_skew_report", limits=LIMITS), lambda row: (row.scope, row.key))
    assert skew["table", "app.orders"].verdict == "unknown"
    assert skew["node", "cluster"].verdict == "unknown"


def test_dead_worker_is_named_and_nothing_is_made_up(own: Standard) -> None:
    worker = own.cluster.workers[1]
    silent = "{}:{}".format(*worker.address)
    worker.kill()
    try:
        for name in CATALOG:
            _assert_told(own, name, silent)
        _assert_partial_by_value(own, silent)
    finally:
        worker.start()


def test_frozen_worker_is_named_within_the_time_limit(own: Standard) -> None:
    worker = own.cluster.workers[1]
    silent = "{}:{}".format(*worker.address)
    with worker.frozen():
        for name in CATALOG:
            _assert_told(own, name, silent)
    assert look(own, "list_nodes").nodes.failed == ()


def test_this_room_is_whole() -> None:
    """What is tested here is every inspector of metadata and sizes, with the cost that it claims."""
    costs = {name: registry.get(name).cost for name in CATALOG}
    assert {name for name, cost in costs.items() if cost is Cost.CATALOG} <= ALONE
