"""citus_rebalance_plan: what Citus' own function says, without a move; and why it cannot, where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import pytest
from psycopg import sql

from harness.errors import BadInputError
from harness.inspectors import Reason, Status, inspect
from scenarios.inspectors.fixture_standard import TABLES, Standard
from scenarios.inspectors_catalog.asking import look, sizes_of

pytestmark = pytest.mark.citus(">= 14")
NAME = "citus_rebalance_plan"


@pytest.fixture
def draining(own: Standard) -> Iterator[Standard]:
    """The second worker is to have no shards."""
    host, port = own.cluster.workers[1].address
    _set_should_have_shards(own, host, port, has=False)
    try:
        yield own
    finally:
        _set_should_have_shards(own, host, port, has=True)


def _set_should_have_shards(own: Standard, host: str, port: int, *, has: bool) -> None:
    own.cluster.sql("SELECT citus_set_node_property(%s, %s::int, 'shouldhaveshards', %s)", [host, port, has])


def _theirs(own: Standard, arguments: LiteralString = "") -> list[tuple[Any, ...]]:
    query = sql.SQL("""
        SELECT n.nspname, c.relname, p.shardid, sourcename || ':' || sourceport, targetname || ':' || targetport
          FROM get_rebalance_table_shards_plan({}) p
          JOIN pg_class c ON c.oid = p.table_name JOIN pg_namespace n ON n.oid = c.relnamespace
    """).format(sql.SQL(arguments))
    return own.cluster.rows(query)


def _ours(own: Standard, **values: Any) -> list[tuple[Any, ...]]:
    return [(row.schema, row.table, row.shardid, row.source, row.target) for row in look(own, NAME, **values).rows]


def test_even_cluster_has_nothing_to_move(own: Standard) -> None:
    envelope = look(own, NAME, strategy="by_shard_count")
    assert (envelope.rows, envelope.facts["strategy"], envelope.facts["shards_to_move"]) == ((), "by_shard_count", 0)


def test_plan_is_citus_own_and_moves_nothing(draining: Standard) -> None:
    before = draining.cluster.rows("SELECT shardid, groupid FROM pg_dist_placement ORDER BY placementid")
    theirs = _theirs(draining)
    ours = _ours(draining)
    assert ours == theirs
    placements = draining.cluster.value("""
        SELECT count(*) FROM pg_dist_placement JOIN pg_dist_shard s USING (shardid)
          JOIN pg_dist_partition p USING (logicalrelid)
         WHERE groupid = 2 AND p.repmodel <> 't'""")
    assert len(ours) == placements > 0
    drained = "{}:{}".format(*draining.cluster.workers[1].address)
    assert {(source, target) for *_, source, target in ours} == {(drained, draining.node_names[1])}
    envelope = look(draining, NAME)
    assert [row.step for row in envelope.rows] == list(range(1, len(theirs) + 1))
    sizes = {key: size for table in TABLES for key, size in sizes_of(draining.cluster, *table).items()}
    assert [row.size_bytes for row in envelope.rows] == [sizes[row.shardid, 2] for row in envelope.rows]
    assert envelope.facts["bytes_to_move"] == sum(sizes[row.shardid, 2] for row in envelope.rows) > 0
    assert envelope.facts["strategy"] == draining.cluster.value(
        "SELECT name FROM pg_dist_rebalance_strategy WHERE default_strategy"
    )
    assert _ours(draining, drain_only=True) == _theirs(draining, "drain_only => true")
    assert draining.cluster.rows("SELECT shardid, groupid FROM pg_dist_placement ORDER BY placementid") == before


def test_plan_of_one_table_is_that_of_its_group(draining: Standard) -> None:
    ours = _ours(draining, schema="app", table="items")
    assert ours == _theirs(draining, "relation => 'app.items'")
    assert {table for _, table, *_ in ours} == {"items", "orders"}


def test_plan_after_uneven_moves_is_as_long_as_it_may_be(own: Standard) -> None:
    hosts = own.cluster.rows("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY groupid")
    moved = [row.shardid for row in look(own, "list_shards", schema="app", table="items").rows if row.groupid == 1][:2]
    for source, target in ((0, 1), (1, 0)):
        for shardid in moved:
            own.cluster.sql(
                "SELECT citus_move_shard_placement(%s, %s, %s::int, %s, %s::int, 'block_writes')",
                [shardid, *hosts[source], *hosts[target]],
            )
        own.cluster.sql("CALL citus_cleanup_orphaned_resources()")
        values = {"schema": "app", "table": "items", "strategy": "by_shard_count"}
        if target == 1:
            arguments: LiteralString = "relation => 'app.items', rebalance_strategy => 'by_shard_count'"
            assert _ours(own, **values) == _theirs(own, arguments)
            assert len(_ours(own, **values)) == 4
            assert len(_ours(own, **values, max_moves=1)) == 2
    assert _ours(own, **values) == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"strategy": "no such"}, "no such"),
        ({"strategy": "by_disk_size'; --"}, "by_disk_size"),
        ({"schema": "app"}, "app"),
        ({"table": "notes"}, "notes"),
    ],
)
def test_what_cannot_be_planned_is_bad_input(own: Standard, values: dict[str, Any], names: str) -> None:
    with pytest.raises(BadInputError, match=names):
        inspect(own.dsn(), NAME, values)


@pytest.mark.parametrize("role", ["mon", "plain", "reader", "inspector"])
def test_missing_usage_is_told_with_the_schemas(own: Standard, role: str) -> None:
    """Citus says "cannot get the size because of a connection error" for it."""
    envelope = inspect(own.dsn(role), NAME)
    assert (envelope.status, envelope.reason) == (Status.UNAVAILABLE, Reason.INSUFFICIENT_PRIVILEGE)
    assert "tenant_b" in envelope.message
    assert ("app" in envelope.message) is (role != "reader")
    assert _ours(own, role=role, strategy="by_shard_count") == []


def test_locked_table_ends_with_a_reason_within_the_time(draining: Standard) -> None:
    with draining.cluster.coordinator.connect() as connection:
        connection.autocommit = False
        connection.execute("TRUNCATE app.orders")
        envelope = inspect(draining.dsn(), NAME)
        connection.rollback()
    assert envelope.status is Status.UNAVAILABLE
    assert envelope.reason in {Reason.LOCK_TIMEOUT, Reason.STATEMENT_TIMEOUT, Reason.NODE_UNREACHABLE}, envelope
