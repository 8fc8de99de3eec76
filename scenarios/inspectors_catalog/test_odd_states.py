"""Tables of rare kinds, and nodes that are registered and of no use: disabled, or without metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.inspectors import Reason, Status, inspect, registry
from harness.inspectors.contract import Severity
from harness.waiting import wait_until
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_catalog.asking import by, look, sizes_of

pytestmark = pytest.mark.citus(">= 14")
SIZED = ("citus_shard_map", "shard_heatmap", "shard_skew_report", "table_inspector", "citus_table_stats")
ODD = (
    "CREATE SCHEMA odd",
    # Two copies of each shard, as before streaming replication.
    "CREATE TABLE odd.twice (id bigint, note text)",
    "SET citus.shard_replication_factor = 2",
    "SELECT create_distributed_table('odd.twice', 'id', shard_count := 3, colocate_with := 'none')",
    "RESET citus.shard_replication_factor",
    "INSERT INTO odd.twice SELECT n, repeat('x', 100) FROM generate_series(1, 1000) n",
    # By append: no shard yet. By range, of text: bounds that are no numbers.
    "CREATE TABLE odd.appended (id bigint)",
    "SELECT create_distributed_table('odd.appended', 'id', 'append')",
    "CREATE TABLE odd.ranged (word text)",
    "SELECT create_distributed_table('odd.ranged', 'word', 'range')",
    "SELECT master_create_empty_shard('odd.ranged') FROM generate_series(1, 2)",
    (
        "UPDATE pg_dist_shard s SET shardminvalue = v.low, shardmaxvalue = v.high"
        "  FROM (SELECT shardid, row_number() OVER (ORDER BY shardid) AS n FROM pg_dist_shard"
        "         WHERE logicalrelid = 'odd.ranged'::regclass) o"
        "  JOIN (VALUES (1, 'a''b', 'm'), (2, 'n', 'z')) v(n, low, high) USING (n)"
        " WHERE s.shardid = o.shardid"
    ),
)


@pytest.fixture
def odd(own: Standard) -> Iterator[Standard]:
    for statement in ODD:
        own.cluster.sql(statement)
    try:
        yield own
    finally:
        own.cluster.sql("DROP SCHEMA odd CASCADE")


def test_two_copies_of_a_shard_are_both_counted(odd: Standard) -> None:
    sizes = sizes_of(odd.cluster, "odd", "twice")
    assert len(sizes) == 6
    rows = look(odd, "citus_shard_map", schema="odd", table="twice").rows
    assert {(row.shardid, row.groupid): row.size_bytes for row in rows} == sizes
    assert sorted(row.shard_group for row in rows) == [1, 1, 2, 2, 3, 3]
    (table,) = look(odd, "list_distributed_tables", schema="odd", table="twice", include_sizes=True).rows
    assert (table.shard_count, table.size_bytes) == (3, sum(sizes.values()))
    (seen,) = look(odd, "table_inspector", schema="odd", table="twice").rows
    assert (seen.shard_count, seen.placement_count, seen.unknown_shards) == (3, 6, 0)
    skew = by(look(odd, "shard_skew_report", schema="odd", min_bytes=0), lambda row: (row.scope, row.key))
    assert (skew["table", "odd.twice"].n, skew["table", "odd.twice"].max) == (
        3,
        max(sum(size for (shard, _), size in sizes.items() if shard == each) for each, _ in sizes),
    )
    assert look(odd, "citus_placement_integrity").rows == ()


def test_tables_by_append_and_range_are_there_with_their_bounds(odd: Standard) -> None:
    rows = by(look(odd, "list_distributed_tables", schema="odd"), lambda row: row.table)
    assert {name: (row.type, row.shard_count) for name, row in rows.items()} == {
        "twice": ("distributed", 3),
        "appended": ("distributed", 0),
        "ranged": ("distributed", 2),
    }
    shards = look(odd, "list_shards", schema="odd", table="ranged").rows
    assert [(row.min_hash, row.max_hash) for row in shards] == [("a'b", "m"), ("n", "z")]
    assert [row.shard_group for row in look(odd, "citus_shard_map", schema="odd", table="ranged").rows] == [1, 2]
    (empty,) = look(odd, "table_inspector", schema="odd", table="appended").rows
    assert (empty.shard_count, empty.size_bytes, empty.size_source, empty.nodes) == (0, 0, "exact", ())
    assert look(odd, "list_shards", schema="odd", table="appended").rows == ()


def test_disabled_worker_makes_its_sizes_missing_and_says_so(own: Standard) -> None:
    host, port = own.cluster.workers[1].address
    name = f"{host}:{port}"
    # citus_disable_node does it only where every shard has another copy.
    own.cluster.sql("UPDATE pg_dist_node SET isactive = false WHERE nodeport = %s", [port])
    try:
        row = by(look(own, "list_nodes"), lambda row: f"{row.nodename}:{row.nodeport}")[name]
        assert (row.isactive, row.reachable, row.unreachable_reason) == (False, None, "not asked: it is not active")
        for inspector in SIZED:
            envelope = inspect(own.dsn(), inspector)
            assert (envelope.status, envelope.reason) == (Status.PARTIAL, Reason.NODE_UNREACHABLE), inspector
            assert name in envelope.message
        rows = inspect(own.dsn(), "citus_shard_map", {"schema": "app", "table": "orders"}).rows
        assert {row.size_source for row in rows if row.node == name} == {"none"}
        (unknown,) = inspect(own.dsn(), "citus_placement_integrity").rows
        assert (unknown.problem, unknown.node) == ("unknown", name)
    finally:
        own.cluster.sql("UPDATE pg_dist_node SET isactive = true WHERE nodeport = %s", [port])
    for inspector in SIZED:
        look(own, inspector)


def test_worker_without_metadata_is_not_taken_for_an_empty_one(own: Standard) -> None:
    host, port = own.cluster.workers[1].address
    own.cluster.sql("SELECT stop_metadata_sync_to_node(%s, %s::int)", [host, port])
    try:
        for inspector in SIZED:
            envelope = inspect(own.dsn(), inspector)
            assert (envelope.status, envelope.reason) == (Status.PARTIAL, Reason.NODE_FAILED), envelope
            assert f"{host}:{port}" in envelope.message
        (unknown,) = inspect(own.dsn(), "citus_placement_integrity").rows
        assert (unknown.problem, unknown.node) == ("unknown", f"{host}:{port}")
        (table,) = inspect(own.dsn(), "table_inspector", {"schema": "app", "table": "orders"}).rows
        assert (table.drift_count, table.unknown_shards) == (0, 4)
    finally:
        own.cluster.sql("SELECT start_metadata_sync_to_node(%s, %s::int)", [host, port])
    for inspector in SIZED:
        look(own, inspector)


def test_node_that_is_not_synced_is_a_warning(own: Standard) -> None:
    envelope = look(own, "list_nodes")
    changed = replace(envelope, rows=(envelope.rows[0], replace(envelope.rows[1], metadatasynced=False)))
    (finding,) = registry.get("list_nodes").severity(changed)  # type: ignore[misc]
    assert (finding.rule, finding.severity) == ("node_not_synced", Severity.WARNING)


@pytest.mark.parametrize(
    ("change", "undo", "problem"),
    [
        (
            "UPDATE pg_dist_placement SET groupid = 77 WHERE shardid = %s",
            "UPDATE pg_dist_placement SET groupid = %s WHERE shardid = %s",
            "no_node",
        ),
        (
            "UPDATE pg_dist_placement SET shardstate = 4 WHERE shardid = %s",
            "UPDATE pg_dist_placement SET shardstate = 1, groupid = %s WHERE shardid = %s",
            "inactive",
        ),
        (
            "DELETE FROM pg_dist_placement WHERE shardid = %s",
            (
                "INSERT INTO pg_dist_placement (placementid, shardstate, shardlength, groupid, shardid)"
                " VALUES (nextval('pg_dist_placement_placementid_seq'), 1, 0, %s, %s)"
            ),
            "no_placement",
        ),
    ],
)
def test_catalog_that_contradicts_itself_is_told(own: Standard, change: str, undo: str, problem: str) -> None:
    shard = look(own, "list_shards", schema="app", table="items").rows[0]
    own.cluster.sql(change, [shard.shardid])
    try:
        envelope = look(own, "citus_placement_integrity", problem=problem)
        assert [(row.problem, row.schema, row.table, row.shardid) for row in envelope.rows] == [
            (problem, "app", "items", shard.shardid)
        ]
        assert registry.get(envelope.name).severity(envelope)  # type: ignore[misc]
        for name in ("list_shards", "citus_shard_map", "shard_heatmap", "shard_skew_report", "table_inspector"):
            assert look(own, name).rows, name
        if problem != "inactive":
            split = [
                row.shard_group for row in look(own, "citus_shard_map", schema="app", table="items").rows if row.split
            ]
            assert set(split) == {1}
    finally:
        own.cluster.sql(undo, [shard.groupid, shard.shardid])
    assert look(own, "citus_placement_integrity").rows == ()


def test_tracking_that_one_node_has_is_mixed(own: Standard) -> None:
    worker = own.cluster.workers[0]
    worker.sql("ALTER SYSTEM SET citus.enable_stat_counters = on")
    worker.sql("SELECT pg_reload_conf()")
    try:

        def figure() -> object:
            rows = by(look(own, "citus_cluster_summary", section="features"), lambda row: row.name)
            found = rows["stat_counters"]
            return found if found.value == "mixed" else None

        found = wait_until("the reload", figure, deadline_s=10)
        assert [each.value for each in found.per_node] == ["off", "on", "off"]  # type: ignore[attr-defined]
    finally:
        worker.sql("ALTER SYSTEM RESET citus.enable_stat_counters")
        worker.sql("SELECT pg_reload_conf()")
