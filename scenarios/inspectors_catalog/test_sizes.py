"""The size family: shard map, heat, skew, colocation, sharded schemas; and what a lock does to them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping

import pytest

from harness.errors import BadInputError
from harness.inspectors import Reason, Status, inspect
from scenarios.inspectors.fixture_standard import PARTITIONS, TABLES, Standard
from scenarios.inspectors_catalog.asking import by, look, sizes_of

pytestmark = pytest.mark.citus(">= 14")
WITH_ROWS = tuple(key for key in TABLES if key != ("app", "events"))


@pytest.fixture(scope="module")
def sizes(standard_cluster: Standard) -> Mapping[tuple[str, str], Mapping[tuple[int, int], int]]:
    """Bytes by table and (shard, group), asked one by one."""
    return {key: sizes_of(standard_cluster.cluster, *key) for key in TABLES}


Sizes = Mapping[tuple[str, str], Mapping[tuple[int, int], int]]


def test_map_has_every_copy_with_its_size(standard: Standard, sizes: Sizes) -> None:
    rows = look(standard, "citus_shard_map").rows
    found: dict[tuple[str, str], dict[tuple[int, int], int]] = defaultdict(dict)
    for row in rows:
        found[row.schema, row.table][row.shardid, row.groupid] = row.size_bytes
    assert found == sizes
    assert {row.size_source for row in rows} == {"exact"}
    assert not any(row.split for row in rows)


def test_map_of_a_table_has_its_colocated_tables_in_the_same_places(standard: Standard) -> None:
    rows = look(standard, "citus_shard_map", schema="app", table="orders").rows
    assert {row.table for row in rows} == {"orders", "items"}
    by_group = {group: {(row.min_hash, row.node) for row in rows if row.shard_group == group} for group in range(1, 9)}
    assert all(len(places) == 1 for places in by_group.values())
    bounds = [int(next(iter(by_group[group]))[0] or 0) for group in range(1, 9)]
    assert bounds == sorted(bounds)
    assert bounds[0] == -(2**31)
    group = rows[0].colocation_id
    assert look(standard, "citus_shard_map", colocation_id=group).rows == rows


def test_map_without_sizes_asks_no_node(standard: Standard) -> None:
    envelope = look(standard, "citus_shard_map", include_sizes=False)
    assert envelope.nodes.asked == ()
    assert {(row.size_bytes, row.size_source) for row in envelope.rows} == {(None, "none")}


def test_heat_by_node_is_the_sum_of_its_copies(standard: Standard, sizes: Sizes) -> None:
    nodes = {name: groupid for groupid, name in enumerate(standard.node_names)}
    rows = by(look(standard, "shard_heatmap"), lambda row: row.key)
    theirs = {
        name: sum(size for key in WITH_ROWS for (_, at), size in sizes[key].items() if at == groupid)
        for name, groupid in nodes.items()
    }
    assert {key: row.value for key, row in rows.items()} == theirs
    whole = sum(theirs.values())
    assert {key: row.share_pct for key, row in rows.items()} == {
        key: round(100 * value / whole, 2) for key, value in theirs.items()
    }


@pytest.mark.parametrize("group_by", ["table", "colocation", "shard"])
def test_heat_by_other_things_sums_up_to_the_same(standard: Standard, sizes: Sizes, group_by: str) -> None:
    rows = look(standard, "shard_heatmap", group_by=group_by).rows
    assert sum(row.value for row in rows) == sum(sum(sizes[key].values()) for key in WITH_ROWS)
    assert [row.value for row in rows] == sorted((row.value for row in rows), reverse=True)
    assert (
        rows[0].key
        == {
            "table": "app.orders",
            "colocation": str(
                standard.cluster.value(
                    "SELECT colocation_id FROM citus_tables WHERE table_name = 'app.orders'::regclass"
                )
            ),
            "shard": str(max(sizes["app", "orders"], key=lambda copy: sizes["app", "orders"][copy])[0]),
        }[group_by]
    )


def test_hottest_shard_is_the_hot_tenants(standard: Standard) -> None:
    row = look(standard, "shard_heatmap", group_by="shard", schema="app", table="orders").rows[0]
    assert row.key == str(standard.cluster.value("SELECT get_shard_id_for_distribution_column('app.orders', 1)"))


def test_heat_counts_rows_by_statistics(standard: Standard) -> None:
    (row,) = look(
        standard, "shard_heatmap", metric="rows_estimate", group_by="table", schema="app", table="orders"
    ).rows
    assert row.value == standard.cluster.value("SELECT count(*) FROM app.orders")
    counts = [
        int(result)
        for (result,) in standard.cluster.rows(
            "SELECT result FROM run_command_on_shards('app.orders', 'SELECT count(*) FROM %%s')", []
        )
    ]
    assert row.max_over_avg == round(max(counts) / statistics.mean(counts), 2)


def test_heat_counts_shards(standard: Standard) -> None:
    rows = look(standard, "shard_heatmap", metric="shards", group_by="table").rows
    theirs = dict(
        standard.cluster.rows("""
            SELECT s.logicalrelid::text, count(*) FROM pg_dist_shard s JOIN pg_dist_placement USING (shardid)
             WHERE s.logicalrelid <> 'app.events'::regclass GROUP BY 1""")
    )
    assert {row.key: row.value for row in rows} == theirs
    assert next(row for row in rows if row.key == "app.countries").has_reference


def test_skew_of_a_table_is_the_ratio_of_its_shards(standard: Standard, sizes: Sizes) -> None:
    rows = by(look(standard, "shard_skew_report"), lambda row: (row.scope, row.key))
    row, theirs = rows["table", "app.orders"], sizes["app", "orders"]
    largest = max(theirs, key=lambda copy: theirs[copy])
    assert (row.n, row.max, row.min) == (8, theirs[largest], min(theirs.values()))
    assert row.avg == round(statistics.mean(theirs.values()), 2)
    assert row.max_over_avg == round(theirs[largest] / statistics.mean(theirs.values()), 2)
    assert row.max_over_avg > 5
    assert (row.verdict, row.hottest) == ("critical", str(largest[0]))
    assert rows["table", "app.items"].verdict == "small"
    uniform = by(look(standard, "shard_skew_report", min_bytes=0), lambda row: (row.scope, row.key))
    assert uniform["table", "app.items"].verdict == "ok"


def test_skew_never_compares_shards_of_different_tables(standard: Standard, sizes: Sizes) -> None:
    """Two colocated tables, one large and one small, both even: not skewed. Group sums by range of hashes."""
    ranges = standard.cluster.rows("""
        SELECT o.shardid, i.shardid FROM pg_dist_shard o JOIN pg_dist_shard i USING (shardminvalue)
         WHERE o.logicalrelid = 'app.orders'::regclass AND i.logicalrelid = 'app.items'::regclass""")
    by_shard = {shard: size for key in TABLES for (shard, _), size in sizes[key].items()}
    sums = [by_shard[order] + by_shard[item] for order, item in ranges]
    group = standard.cluster.value("SELECT colocation_id FROM citus_tables WHERE table_name = 'app.orders'::regclass")
    rows = by(look(standard, "shard_skew_report"), lambda row: (row.scope, row.key))
    row = rows["shard_group", str(group)]
    assert (row.n, row.max, row.min, row.max_over_avg) == (
        8,
        max(sums),
        min(sums),
        round(max(sums) / statistics.mean(sums), 2),
    )


def test_skew_of_a_partitioned_table_is_that_of_its_partitions_together(standard: Standard, sizes: Sizes) -> None:
    rows = by(look(standard, "shard_skew_report"), lambda row: (row.scope, row.key))
    assert not {("table", f"app.{name}") for name in PARTITIONS} & set(rows)
    whole = sum(sum(sizes["app", name].values()) for name in PARTITIONS)
    row = rows["table", "app.events"]
    assert row.n == 4
    assert row.avg == round(whole / 4, 2)


def test_skew_of_nodes_counts_data_nodes_and_no_reference_table(standard: Standard, sizes: Sizes) -> None:
    row = look(standard, "shard_skew_report").rows[0]
    kinds = {"distributed", "single_shard", "schema"}
    sums = [
        sum(size for key in WITH_ROWS if TABLES[key][0] in kinds for (_, at), size in sizes[key].items() if at == group)
        for group in (1, 2)
    ]
    assert (row.scope, row.n, row.max, row.min) == ("node", 2, max(sums), min(sums))
    assert row.hottest == standard.node_names[1 + sums.index(max(sums))]


def test_skew_thresholds_decide_the_verdict(standard: Standard) -> None:
    rows = look(standard, "shard_skew_report", schema="app", table="orders", warn_ratio=2, crit_ratio=100).rows
    assert {row.verdict for row in rows if row.scope == "table"} == {"warn"}
    with pytest.raises(BadInputError, match="crit_ratio"):
        inspect(standard.dsn(), "shard_skew_report", {"warn_ratio": 5, "crit_ratio": 2})


def test_colocation_groups_are_those_of_the_catalog(standard: Standard, sizes: Sizes) -> None:
    rows = look(standard, "citus_colocation_inspector", include_sizes=True).rows
    theirs = standard.cluster.rows(
        "SELECT colocationid, shardcount, replicationfactor FROM pg_dist_colocation ORDER BY colocationid"
    )
    assert [(row.colocation_id, row.shard_count, row.replication_factor) for row in rows] == theirs
    members = {tuple((each.schema, each.table) for each in row.tables): row for row in rows}
    orders = members[("app", "items"), ("app", "orders")]
    assert (orders.kind, orders.distribution_type, orders.placement_consistent) == ("hash", "bigint", True)
    assert orders.size_bytes == sum(sizes["app", "orders"].values()) + sum(sizes["app", "items"].values())
    assert orders.next_to_split.min_hash == standard.cluster.value(
        "SELECT shardminvalue FROM pg_dist_shard WHERE shardid = get_shard_id_for_distribution_column('app.orders', 1)"
    )
    assert members[(("app", "countries"),)].kind == "reference"
    assert members[(("app", "single"),)].kind == "single"
    tenant = members[("tenant_a", "notes"), ("tenant_a", "tags")]
    assert (tenant.kind, tenant.tenant_schema) == ("schema", "tenant_a")
    assert not any(("app", "managed") in tables for tables in members)


def test_schemas_have_the_size_that_citus_has_for_a_superuser(standard: Standard) -> None:
    rows = look(standard, "citus_schema_overview", role="reader").rows
    theirs = standard.cluster.rows("""
        SELECT s.schema_name::text, s.colocation_id, s.schema_owner, s.schema_size, count(*),
               min(p.nodename || ':' || p.nodeport)
          FROM citus_schemas s JOIN pg_class c ON c.relnamespace = s.schema_name
          JOIN pg_dist_shard d ON d.logicalrelid = c.oid JOIN pg_dist_shard_placement p USING (shardid)
         GROUP BY 1, 2, 3, 4 ORDER BY 1""")
    assert [
        (
            row.schema,
            row.colocation_id,
            row.owner,
            standard.cluster.value("SELECT pg_size_pretty(%s::bigint)", [row.size_bytes]),
            row.tables,
            row.node,
        )
        for row in rows
    ] == theirs
    assert [row.schema for row in rows] == ["tenant_a", "tenant_b"]


def test_unknown_group_is_not_an_empty_list(standard: Standard) -> None:
    for name in ("citus_shard_map", "citus_colocation_inspector"):
        envelope = inspect(standard.dsn(), name, {"colocation_id": 4242})
        assert (envelope.status, envelope.reason) == (Status.UNAVAILABLE, Reason.NOT_FOUND)
