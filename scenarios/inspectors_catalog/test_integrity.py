"""citus_placement_integrity and the shard map: what is missing on a disk, what is left over, what is moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from harness.inspectors import registry
from scenarios.inspectors.fixture_standard import HOSTILE_SCHEMA, HOSTILE_TABLE, LONG_TABLE, Standard
from scenarios.inspectors_catalog.asking import look, worker_of

pytestmark = pytest.mark.citus(">= 14")


def _manual(own: Standard, groupid: int, statement: sql.Composed | sql.SQL) -> None:
    with worker_of(own, groupid).connect() as connection:
        connection.execute("SET citus.enable_manual_changes_to_shards = on")
        connection.execute(statement)


def _found(own: Standard, **values: Any) -> list[tuple[Any, ...]]:
    return [
        (row.problem, row.node, row.schema, row.table, row.shardid, row.relation)
        for row in look(own, "citus_placement_integrity", **values).rows
    ]


@pytest.fixture(autouse=True)
def clean(own: Standard) -> Iterator[None]:
    """Each test begins and ends with a whole cluster."""
    assert _found(own) == []
    yield
    assert _found(own) == []


def test_whole_cluster_has_every_copy_accounted_for(own: Standard) -> None:
    facts = look(own, "citus_placement_integrity", role="plain").facts
    assert facts["placements"] == own.cluster.value("SELECT count(*) FROM pg_dist_placement")
    assert sum(count for problem, count in facts.items() if problem != "placements") == 0


@pytest.mark.parametrize(("schema", "table"), [("app", "items"), (HOSTILE_SCHEMA, HOSTILE_TABLE), ("app", LONG_TABLE)])
def test_relation_that_is_gone_is_a_ghost(own: Standard, schema: str, table: str) -> None:
    shard = look(own, "list_shards", schema=schema, table=table).rows[0]
    name, aside = sql.Identifier(schema, shard.shard_name), "put_aside"
    _manual(own, shard.groupid, sql.SQL("ALTER TABLE {} RENAME TO {}").format(name, sql.Identifier(aside)))
    try:
        assert _found(own) == [("ghost", shard.node, schema, table, shard.shardid, None)]
        envelope = look(own, "citus_placement_integrity")
        assert [each.rule for each in registry.get(envelope.name).severity(envelope)] == ["ghost_placement"]  # type: ignore[misc]
        (row,) = look(own, "table_inspector", schema=schema, table=table).rows
        assert (row.unknown_shards, row.drift) == (1, ())
    finally:
        _manual(
            own,
            shard.groupid,
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(
                sql.Identifier(schema, aside), sql.Identifier(shard.shard_name)
            ),
        )


@pytest.mark.parametrize(("schema", "table"), [("app", "orders"), (HOSTILE_SCHEMA, HOSTILE_TABLE), ("app", LONG_TABLE)])
def test_shard_on_the_wrong_worker_is_an_orphan(own: Standard, schema: str, table: str) -> None:
    """As an aborted move used to leave one (citusdata/citus #6580)."""
    shard = look(own, "list_shards", schema=schema, table=table).rows[0]
    wrong = 3 - shard.groupid
    name = sql.Identifier(schema, shard.shard_name)
    _manual(own, wrong, sql.SQL("CREATE TABLE {} (id bigint)").format(name))
    try:
        other = next(row.node for row in look(own, "list_shards").rows if row.groupid == wrong)
        assert _found(own) == [("orphan", other, schema, table, shard.shardid, shard.shard_name)]
        assert _found(own, problem="ghost") == []
        before = look(own, "citus_table_stats", schema=schema, table=table).rows[0]
        assert before.shards_seen == before.shards_expected, "a stray copy is counted nowhere"
    finally:
        _manual(own, wrong, sql.SQL("DROP TABLE {}").format(name))


def test_leftover_of_a_shard_that_nobody_knows_is_an_orphan(own: Standard) -> None:
    number = 1 + own.cluster.value("SELECT max(shardid) FROM pg_dist_shard")
    name = sql.Identifier("app", f"items_{number}")
    _manual(own, 1, sql.SQL("CREATE TABLE {} (id bigint)").format(name))
    try:
        assert _found(own) == [("orphan", own.node_names[1], "app", "items", number, f"items_{number}")]
    finally:
        _manual(own, 1, sql.SQL("DROP TABLE {}").format(name))


@pytest.mark.parametrize("name", ["items_20260101", "items_2", "nobody_102008", "items_102008_old"])
def test_table_that_only_looks_like_a_shard_is_none(own: Standard, name: str) -> None:
    for groupid in (0, 1):
        _manual(own, groupid, sql.SQL("CREATE TABLE {} (id bigint)").format(sql.Identifier("app", name)))
    try:
        assert _found(own) == []
    finally:
        for groupid in (0, 1):
            _manual(own, groupid, sql.SQL("DROP TABLE {}").format(sql.Identifier("app", name)))


def test_moved_shard_group_moves_in_the_map_and_leaves_queued_copies(own: Standard) -> None:
    def places() -> dict[tuple[int, str], str]:
        return {
            (row.shard_group, row.table): row.node
            for row in look(own, "citus_shard_map", schema="app", table="items").rows
        }

    before = places()
    first = look(own, "citus_shard_map", schema="app", table="items").rows[0]
    hosts = own.cluster.rows("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY groupid")
    source, target = hosts[first.groupid - 1], hosts[2 - first.groupid]
    own.cluster.sql(
        "SELECT citus_move_shard_placement(%s, %s, %s::int, %s, %s::int, 'block_writes')",
        [first.shardid, *source, *target],
    )
    try:
        moved = {key for key, node in places().items() if node != before[key]}
        assert moved == {(first.shard_group, "items"), (first.shard_group, "orders")}
        assert not any(row.split for row in look(own, "citus_shard_map").rows)
        left = own.cluster.rows("SELECT object_name FROM pg_dist_cleanup ORDER BY 1")
        assert len(left) == 2
        queued = _found(own)
        assert {(problem, node) for problem, node, *_ in queued} == {("queued", first.node)}
        assert sorted(f"{schema}.{relation}" for _, _, schema, _, _, relation in queued) == [name for (name,) in left]
        envelope = look(own, "citus_placement_integrity")
        assert not registry.get(envelope.name).severity(envelope), "Citus removes them itself"  # type: ignore[misc]
        figures = {row.name: row.value for row in look(own, "citus_cluster_summary", section="background").rows}
        assert figures["cleanup_records"] == 2
    finally:
        own.cluster.sql("CALL citus_cleanup_orphaned_resources()")


def test_split_shard_group_is_flagged(own: Standard) -> None:
    """Placements that were changed by hand: one table's shard is said to be elsewhere."""
    shard = look(own, "list_shards", schema="app", table="items").rows[0]
    own.cluster.sql("UPDATE pg_dist_placement SET groupid = %s WHERE shardid = %s", [3 - shard.groupid, shard.shardid])
    try:
        rows = look(own, "citus_shard_map", schema="app", table="items", include_sizes=False).rows
        assert {row.shard_group for row in rows if row.split} == {1}
        assert sum(row.split for row in rows) == 2
        groups = {row.colocation_id: row.placement_consistent for row in look(own, "citus_colocation_inspector").rows}
        assert [group for group, is_consistent in groups.items() if is_consistent is False] == [rows[0].colocation_id]
    finally:
        own.cluster.sql("UPDATE pg_dist_placement SET groupid = %s WHERE shardid = %s", [shard.groupid, shard.shardid])
