"""list_distributed_tables, list_shards, citus_cluster_summary: what is there, against Citus' own views."""

from __future__ import annotations

from typing import Any

import pytest

from harness.inspectors import Reason, Status, inspect
from scenarios.inspectors.fixture_standard import (
    HOSTILE_SCHEMA,
    HOSTILE_TABLE,
    LONG_TABLE,
    PARTITIONS,
    ROLES,
    TABLES,
    Standard,
)
from scenarios.inspectors_catalog.asking import by, look, shards_on, sizes_of

pytestmark = pytest.mark.citus(">= 14")


def test_tables_are_all_there_with_kind_and_shards(standard: Standard) -> None:
    rows = by(look(standard, "list_distributed_tables", include_partitions=True), lambda row: (row.schema, row.table))
    assert {key: (row.type, row.shard_count) for key, row in rows.items()} == dict(TABLES)
    theirs = {
        (schema, name): values
        for schema, name, *values in standard.cluster.rows("""
            SELECT n.nspname, c.relname, nullif(t.distribution_column, '<none>'), nullif(t.colocation_id, 0),
                   t.table_owner, t.access_method, c.relispartition
              FROM citus_tables t JOIN pg_class c ON c.oid = t.table_name JOIN pg_namespace n ON n.oid = c.relnamespace
        """)
    }
    assert {
        key: [row.distribution_column, row.colocation_id, row.owner, row.access_method, row.is_partition]
        for key, row in rows.items()
    } == {
        key: [value.strip('"') if isinstance(value, str) else value for value in found] for key, found in theirs.items()
    }
    assert {row.parent for row in rows.values() if row.is_partition} == {"app.events"}


def test_partitions_are_left_out_unless_asked_for(standard: Standard) -> None:
    names = {row.table for row in look(standard, "list_distributed_tables").rows}
    assert names == {table for _, table in TABLES} - set(PARTITIONS)


def test_kinds_are_counted_and_chosen(standard: Standard) -> None:
    envelope = look(standard, "list_distributed_tables", type="schema")
    assert [(row.schema, row.table) for row in envelope.rows] == [
        ("tenant_a", "notes"),
        ("tenant_a", "tags"),
        ("tenant_b", "notes"),
    ]
    assert envelope.facts["tables_by_type"] == {
        "distributed": 8,
        "reference": 1,
        "local": 1,
        "single_shard": 1,
        "schema": 3,
    }


def test_sizes_are_those_of_all_copies_and_of_partitions_for_their_parent(standard: Standard) -> None:
    envelope = look(standard, "list_distributed_tables", include_sizes=True, include_partitions=True)
    rows = by(envelope, lambda row: (row.schema, row.table))
    theirs = {key: sum(sizes_of(standard.cluster, *key).values()) for key in TABLES}
    parent = theirs["app", "events"] + sum(theirs["app", name] for name in PARTITIONS)
    assert parent > 0
    assert theirs["app", "countries"] > 0
    assert {key: row.size_bytes for key, row in rows.items()} == {**theirs, ("app", "events"): parent}
    assert {row.size_source for row in rows.values()} == {"exact"}


@pytest.mark.parametrize("role", ROLES)
def test_sizes_need_no_right(standard: Standard, role: str) -> None:
    """citus_tables has 2 of these 14 rows for such a role, and says nothing (inspectors.md, finding 4)."""
    seen = look(standard, "list_distributed_tables", role=role, include_sizes=True, include_partitions=True)
    assert seen.rows == look(standard, "list_distributed_tables", include_sizes=True, include_partitions=True).rows
    assert len(seen.rows) == len(TABLES)


def test_hostile_name_is_a_name_and_nothing_else(standard: Standard) -> None:
    envelope = look(standard, "list_distributed_tables", schema=HOSTILE_SCHEMA, table=HOSTILE_TABLE, include_sizes=True)
    (row,) = envelope.rows
    assert (row.schema, row.table, row.distribution_column) == (HOSTILE_SCHEMA, HOSTILE_TABLE, "Key")
    assert row.size_bytes == sum(sizes_of(standard.cluster, HOSTILE_SCHEMA, HOSTILE_TABLE).values()) > 0
    assert standard.cluster.value("SELECT count(*) FROM app.orders") > 0


@pytest.mark.parametrize("table", ["nothing", "plain", "app.orders", '"orders"', "orders'; SELECT 1; --"])
def test_table_that_citus_does_not_know_is_not_an_empty_list(standard: Standard, table: str) -> None:
    for name in ("list_distributed_tables", "list_shards", "table_inspector", "citus_shard_map", "shard_heatmap"):
        envelope = inspect(standard.dsn(), name, {"schema": "app", "table": table})
        assert (envelope.status, envelope.reason) == (Status.UNAVAILABLE, Reason.NOT_FOUND), name
        assert envelope.rows == ()


def test_shards_are_those_of_the_catalog_with_the_names_that_are_on_the_nodes(standard: Standard) -> None:
    rows = look(standard, "list_shards").rows
    theirs = standard.cluster.rows("""
        SELECT n.nspname, c.relname, s.shardid, s.shardminvalue, s.shardmaxvalue, p.placementid, p.groupid,
               p.nodename || ':' || p.nodeport, p.shardstate
          FROM pg_dist_shard s JOIN pg_class c ON c.oid = s.logicalrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN (SELECT d.*, x.groupid FROM pg_dist_shard_placement d JOIN pg_dist_placement x USING (placementid)) p
               USING (shardid)
         ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", s.shardid, p.groupid, p.placementid
    """)
    assert [
        (
            row.schema,
            row.table,
            row.shardid,
            row.min_hash,
            row.max_hash,
            row.placementid,
            row.groupid,
            row.node,
            row.shardstate,
        )
        for row in rows
    ] == theirs
    for node in standard.cluster.nodes:
        address = "{}:{}".format(*node.address)
        assert {(row.schema, row.shard_name) for row in rows if row.node == address} == shards_on(node), node.name


def test_shortened_shard_name_is_the_relations(standard: Standard) -> None:
    rows = look(standard, "list_shards", table=LONG_TABLE).rows
    assert len(rows) == 4
    assert all(len(row.shard_name.encode()) <= 63 and not row.shard_name.startswith(LONG_TABLE) for row in rows)


def test_pages_of_shards_are_the_whole_in_order(standard: Standard) -> None:
    whole = look(standard, "list_shards").rows
    pages: list[Any] = []
    cursor = None
    while True:
        page = inspect(standard.dsn(), "list_shards", {"limit": 7, "cursor": cursor})
        pages += page.rows
        if not page.truncated:
            break
        assert len(page.rows) == 7
        cursor = page.next_cursor
    assert tuple(pages) == whole


def test_summary_has_the_counts_of_the_standard_cluster(standard: Standard) -> None:
    figures = by(look(standard, "citus_cluster_summary"), lambda row: f"{row.section}.{row.name}")
    values = {name: row.value for name, row in figures.items()}
    counts = standard.cluster.row("""
        SELECT (SELECT count(*) FROM pg_dist_shard), (SELECT count(*) FROM pg_dist_placement),
               (SELECT count(*) FROM pg_dist_colocation)""")
    assert counts == (values["groups.shards"], values["groups.placements"], values["groups.colocation_groups"])
    assert values["versions.postgres"] == standard.cluster.value("SHOW server_version")
    assert values["versions.citus"] == standard.cluster.value("SHOW citus.version")
    assert {name: value for name, value in values.items() if name.startswith(("nodes.", "tables.", "background."))} == {
        "nodes.registered": 3,
        "nodes.primaries": 3,
        "nodes.workers": 2,
        "nodes.data_nodes": 2,
        "nodes.secondaries": 0,
        "nodes.inactive": 0,
        "nodes.not_synced": 0,
        "nodes.answered": 3,
        "nodes.failed": 0,
        "tables.distributed": 8,
        "tables.reference": 1,
        "tables.local": 1,
        "tables.single_shard": 1,
        "tables.schema": 3,
        "background.jobs_running": 0,
        "background.jobs_scheduled": 0,
        "background.cleanup_records": 0,
        "background.cleanup_records_without_node": 0,
        "background.prepared_transactions": 0,
    }
    assert (values["versions.is_mixed"], values["groups.tenant_schemas"]) == (False, 2)
    assert {name: value for name, value in values.items() if name.startswith("features.")} == {
        "features.stat_counters": "off",
        "features.stat_statements": "none",
        "features.stat_tenants": "none",
        "features.pg_stat_statements": True,
    }


def test_summary_of_one_section_is_that_part(standard: Standard) -> None:
    whole = look(standard, "citus_cluster_summary").rows
    assert look(standard, "citus_cluster_summary", section="tables").rows == tuple(
        row for row in whole if row.section == "tables"
    )
