"""table_inspector: facts of a table, and indexes that shards lack, each made the way that users make them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from harness.inspectors import inspect, registry
from harness.inspectors.contract import Severity
from scenarios.inspectors.fixture_standard import HOSTILE_SCHEMA, HOSTILE_TABLE, LONG_TABLE, ROWS, TABLES, Standard
from scenarios.inspectors_catalog.asking import by, counters_of, look, sizes_of, worker_of

pytestmark = pytest.mark.citus(">= 14")


@pytest.fixture
def drifting(own: Standard) -> Iterator[str]:
    """A table for one test; gone afterwards, with all that happened to its shards."""
    own.cluster.sql("CREATE TABLE app.drifting (id bigint, value int)")
    own.cluster.sql("SELECT create_distributed_table('app.drifting', 'id', shard_count := 4, colocate_with := 'none')")
    try:
        yield "drifting"
    finally:
        own.cluster.sql("DROP TABLE app.drifting")


def _findings(own: Standard) -> dict[str, Severity]:
    envelope = look(own, "table_inspector", schema="app", table="drifting")
    found = registry.get("table_inspector").severity(envelope)  # type: ignore[misc]
    return {each.rule: each.severity for each in found}


def test_facts_of_every_table_come_in_one_question(own: Standard) -> None:
    rows = by(look(own, "table_inspector"), lambda row: (row.schema, row.table))
    assert set(rows) == set(TABLES)
    orders = rows["app", "orders"]
    assert [(each.name, each.is_primary, each.first_column) for each in orders.indexes] == [
        ("orders_amount", False, "amount"),
        ("orders_pkey", True, "tenant_id"),
    ]
    assert (orders.replica_identity, orders.has_pk, orders.has_replica_identity) == ("default", True, True)
    assert orders.distribution_column_indexed
    sizes = sizes_of(own.cluster, "app", "orders")
    assert {each.nodeid: each.size_bytes for each in orders.nodes} == {
        own.cluster.value("SELECT nodeid FROM pg_dist_node WHERE groupid = %s", [group]): sum(
            size for (_, at), size in sizes.items() if at == group
        )
        for group in (1, 2)
    }
    assert [orders.live, orders.dead] == counters_of(own, "orders", "n_live_tup", "n_dead_tup")
    assert orders.live >= ROWS
    assert rows["app", "events"].distribution_column_indexed is False
    assert rows["app", "countries"].distribution_column_indexed is None
    assert [rows["app", "countries"].live] == counters_of(own, "countries", "n_live_tup")
    assert {row.drift_count for row in rows.values()} == {0}
    assert [each.name for each in rows[HOSTILE_SCHEMA, HOSTILE_TABLE].indexes] == ["In dex"]
    assert rows["app", LONG_TABLE].indexes[0].is_primary


def test_shards_of_a_table_are_shown_on_request(own: Standard) -> None:
    (row,) = look(own, "table_inspector", schema="app", table="orders", include_shards=True).rows
    assert {(each.shardid, each.groupid): each.size_bytes for each in row.shards} == sizes_of(
        own.cluster, "app", "orders"
    )
    (bare,) = look(
        own, "table_inspector", schema="app", table="orders", include_indexes=False, include_stats=False
    ).rows
    assert (bare.indexes, bare.live, bare.dead, bare.shards) == ((), None, None, ())


def test_failed_concurrent_unique_index_is_found_where_it_is(own: Standard, drifting: str) -> None:
    """Duplicates make it fail: the coordinator keeps an invalid index, a shard one too, the others have it or not."""
    own.cluster.sql("INSERT INTO app.drifting SELECT 1, 1 FROM generate_series(1, 2)")
    with pytest.raises(psycopg.Error, match=r"(?i)unique|duplicate"):
        own.cluster.sql("CREATE UNIQUE INDEX CONCURRENTLY drifting_once ON app.drifting (id)")
    (row,) = look(own, "table_inspector", schema="app", table=drifting).rows
    theirs: set[tuple[str, int | None, str]] = set()
    if not own.cluster.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.drifting_once'::regclass"):
        theirs.add(("drifting_once", None, "coordinator_invalid"))
    for shard in look(own, "list_shards", schema="app", table=drifting).rows:
        found = worker_of(own, shard.groupid).rows(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [f"app.drifting_once_{shard.shardid}"]
        )
        if not found:
            theirs.add(("drifting_once", shard.shardid, "missing"))
        elif not found[0][0]:
            theirs.add(("drifting_once", shard.shardid, "invalid"))
    assert {(each.index, each.shardid, each.problem) for each in row.drift} == theirs
    assert row.drift_count == len(theirs)
    assert {"coordinator_invalid", "invalid"} <= {problem for _, _, problem in theirs}
    assert _findings(own)["index_drift"] is Severity.ERROR


def test_index_dropped_and_added_on_shards_is_found(own: Standard, drifting: str) -> None:
    own.cluster.sql("CREATE INDEX drifting_value ON app.drifting (value)")
    first, second, *_ = look(own, "list_shards", schema="app", table=drifting).rows
    for shard, statement in (
        (first, f"DROP INDEX app.drifting_value_{first.shardid}"),
        (second, f'CREATE INDEX "extra one" ON app.drifting_{second.shardid} (id)'),
    ):
        with worker_of(own, shard.groupid).connect() as connection:
            connection.execute("SET citus.enable_manual_changes_to_shards = on")
            connection.execute(statement.encode())
    (row,) = look(own, "table_inspector", schema="app", table=drifting, role="plain").rows
    assert [(each.index, each.shardid, each.node, each.problem) for each in row.drift] == [
        ("drifting_value", first.shardid, first.node, "missing"),
        ("extra one", second.shardid, second.node, "extra"),
    ]
    assert _findings(own)["index_drift"] is Severity.ERROR
    # Citus cannot drop an index that a shard lacks, either: it is made again first.
    with worker_of(own, first.groupid).connect() as connection:
        connection.execute("SET citus.enable_manual_changes_to_shards = on")
        connection.execute(
            f"CREATE INDEX drifting_value_{first.shardid} ON app.drifting_{first.shardid} (value)".encode()
        )
    (left,) = look(own, "table_inspector", schema="app", table=drifting).rows
    assert [each.problem for each in left.drift] == ["extra"]
    assert _findings(own)["index_drift"] is Severity.WARNING


def test_concurrent_index_that_was_there_is_invalid_on_the_coordinator_only(own: Standard, drifting: str) -> None:
    """citusdata/citus #8338: still so in 14.0.1."""
    own.cluster.sql("CREATE INDEX drifting_value ON app.drifting (value)")
    own.cluster.sql("CREATE INDEX CONCURRENTLY IF NOT EXISTS drifting_value ON app.drifting (value)")
    (row,) = look(own, "table_inspector", schema="app", table=drifting).rows
    is_valid = own.cluster.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.drifting_value'::regclass")
    expected = [] if is_valid else [("drifting_value", None, "coordinator_invalid")]
    assert [(each.index, each.shardid, each.problem) for each in row.drift] == expected


def test_replica_identity_decides_whether_shards_can_move_without_blocking(own: Standard, drifting: str) -> None:
    for identity, name, has_one in (
        ("NOTHING", "nothing", False),
        ("DEFAULT", "default", False),
        ("FULL", "full", True),
    ):
        own.cluster.sql(f"ALTER TABLE app.drifting REPLICA IDENTITY {identity}")
        (row,) = look(own, "table_inspector", schema="app", table=drifting).rows
        assert (row.replica_identity, row.has_pk, row.has_replica_identity) == (name, False, has_one)
        assert ("no_replica_identity" in _findings(own)) is not has_one
    assert "missing_index_on_distribution_column" in _findings(own)
    own.cluster.sql("CREATE INDEX ON app.drifting (id) WHERE value > 0")
    assert "missing_index_on_distribution_column" in _findings(own), "a partial index leads to no tenant"
    own.cluster.sql("CREATE INDEX ON app.drifting (id, value)")
    assert "missing_index_on_distribution_column" not in _findings(own)


def test_silent_node_has_no_missing_index(own: Standard, drifting: str) -> None:
    own.cluster.sql("CREATE INDEX drifting_value ON app.drifting (value)")
    worker = own.cluster.workers[0]
    worker.kill()
    try:
        envelope = inspect(own.dsn(), "table_inspector", {"schema": "app", "table": drifting})
    finally:
        worker.start()
        own.cluster.close()  # what was open to the worker is gone
    (row,) = envelope.rows
    assert (row.drift, row.unknown_shards) == ((), 2)
    assert {each.size_bytes is None for each in row.nodes if each.node == "{}:{}".format(*worker.address)} == {True}
