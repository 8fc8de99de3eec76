"""The standard cluster is what its description says."""

from __future__ import annotations

import pytest

from scenarios.inspectors.fixture_standard import HOT_ROWS, ROWS, TABLES, Standard

pytestmark = pytest.mark.citus(">= 14")


def test_standard_cluster_has_the_tables_that_it_promises(standard: Standard) -> None:
    found = standard.cluster.rows("""
        SELECT n.nspname, c.relname, count(s.shardid)
          FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_dist_shard s USING (logicalrelid)
         GROUP BY 1, 2""")
    assert {(schema, name): count for schema, name, count in found} == {
        table: shards for table, (_kind, shards) in TABLES.items()
    }


def test_standard_cluster_has_one_hot_tenant(standard: Standard) -> None:
    assert standard.cluster.row("SELECT count(*), count(*) FILTER (WHERE tenant_id = 1) FROM app.orders") == (
        ROWS,
        HOT_ROWS,
    )


@pytest.mark.parametrize(
    ("role", "sees_orders"), [("mon", False), ("plain", False), ("reader", True), ("inspector", False)]
)
def test_standard_roles_are_on_every_node_with_their_rights(
    standard: Standard, role: str, *, sees_orders: bool
) -> None:
    for node in standard.cluster.nodes:
        found = node.row(
            "SELECT has_table_privilege(%s, 'app.orders', 'SELECT'), pg_has_role(%s, 'pg_monitor', 'USAGE')",
            [role, role],
        )
        assert found == (sees_orders, role in {"mon", "inspector"})
