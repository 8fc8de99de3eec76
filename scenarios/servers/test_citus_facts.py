"""`harness.citus` on a plain server and on a real cluster: presence, placements, nodes, shards, hostile names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness import citus
from harness.clusters import Cluster, RunningCluster
from harness.errors import BadInputError, CitusMissingError
from harness.postgres import Node
from scenarios.fixtures.clusters import MakeCluster

HOSTILE = ('pub%s "quoted" o\'brien', 'or{d}ers; DROP "x" \\ \N{PILE OF POO} ' + "n" * 20, 'Col\'umn %I "x"')


def connect(node: Node) -> citus.Connection:
    return psycopg.connect(node.dsn(), autocommit=True)


@pytest.fixture
def plain(database: Node) -> Iterator[citus.Connection]:
    """A connection to a plain database of this test's own."""
    with connect(database) as connection:
        yield connection


@pytest.fixture
def coordinator(citus_database: Cluster) -> Iterator[citus.Connection]:
    """A connection to the coordinator of a database of this test's own."""
    with connect(citus_database.coordinator) as connection:
        yield connection


def distribute(connection: citus.Connection, schema: str, name: str, column: str | None, **options: Any) -> None:
    target = sql.Identifier(schema, name).as_string(connection)
    more = sql.SQL("").join(
        sql.SQL(", {} := {}").format(sql.Identifier(key), sql.Literal(value)) for key, value in options.items()
    )
    connection.execute(
        sql.SQL("SELECT create_distributed_table({}::regclass, {}{})").format(
            sql.Literal(target), sql.Literal(column), more
        )
    )


def test_plain_server_has_no_citus_and_everything_is_local(plain: citus.Connection) -> None:
    presence = citus.fetch_presence(plain)
    assert not presence.is_available
    assert not presence.is_coordinator
    assert str(presence) == "no Citus"
    assert citus.fetch_nodes(plain) == ()
    assert citus.fetch_workers(plain) == ()
    plain.execute("CREATE TABLE t (a int)")
    placement = citus.fetch_placement(plain, ("public", "t"))
    assert (placement.kind, placement.word, placement.access_method) == (citus.Kind.LOCAL, "local", "heap")
    assert (placement.shard_count, placement.colocation_id, placement.distribution_column) == (0, None, None)
    assert not placement.has_shards
    assert citus.fetch_placement(plain, placement.relid) == placement
    assert citus.fetch_shards(plain, placement.relid) == ()


@pytest.mark.parametrize(
    ("statement", "relkind"),
    [
        ("CREATE TABLE t (a int) PARTITION BY RANGE (a)", "p"),
        ("CREATE VIEW t AS SELECT 1 AS a", "v"),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1 AS a", "m"),
    ],
)
def test_placement_on_a_plain_server_says_what_the_relation_is(
    plain: citus.Connection, statement: Any, relkind: str
) -> None:
    plain.execute(statement)
    placement = citus.fetch_placement(plain, ("public", "t"))
    assert (placement.relkind, placement.word) == (relkind, "local")
    assert placement.is_partitioned is (relkind == "p")


def test_placement_of_what_is_not_there_is_refused(plain: citus.Connection) -> None:
    with pytest.raises(BadInputError, match="no table 'T' in schema 'public'"):
        citus.fetch_placement(plain, ("public", "T"))
    with pytest.raises(BadInputError, match="OID 4000000000"):
        citus.fetch_placement(plain, 4_000_000_000)


def test_placement_of_a_hostile_name_on_a_plain_server_is_found(plain: citus.Connection) -> None:
    schema, name, column = HOSTILE
    plain.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    plain.execute(sql.SQL("CREATE TABLE {} ({} int)").format(sql.Identifier(schema, name), sql.Identifier(column)))
    found = citus.fetch_placement(plain, (schema, name))
    assert (found.schema, found.name) == (schema, name)
    assert citus.fetch_row_estimate(plain, (schema, name)) == citus.RowEstimate(0, "empty", 1, 0)


@pytest.mark.citus(">= 13")
def test_cluster_says_its_version_and_its_nodes(citus_database: Cluster, coordinator: citus.Connection) -> None:
    presence = citus.fetch_presence(coordinator)
    assert presence.is_coordinator
    assert presence.extension_version is not None
    assert str(presence) == f"Citus {presence.library_version}"
    nodes = citus.fetch_nodes(coordinator)
    assert [(node.group_id, node.role, node.is_active, node.should_have_shards) for node in nodes] == [
        (0, "primary", True, False),
        (1, "primary", True, True),
        (2, "primary", True, True),
    ]
    assert {node.port for node in nodes} == {int(node.value("SHOW port")) for node in citus_database.nodes}
    assert citus.fetch_workers(coordinator) == nodes[1:]
    with connect(citus_database.workers[0]) as worker:
        on_worker = citus.fetch_presence(worker)
        assert (on_worker.is_available, on_worker.is_coordinator, on_worker.group_id) == (True, False, 1)


# How a table is made, and what must be said of it: kind, word, column, method, shards, whether it is colocated.
PLACEMENTS: dict[str, tuple[tuple[str, ...], tuple[object, ...]]] = {
    "local": (("CREATE TABLE t (a int)",), (citus.Kind.LOCAL, "local", None, None, 0, False)),
    "managed local": (
        ("CREATE TABLE t (a int)", "SELECT citus_add_local_table_to_metadata('t')"),
        (citus.Kind.MANAGED_LOCAL, "local", None, None, 1, False),
    ),
    "reference": (
        ("CREATE TABLE t (a int)", "SELECT create_reference_table('t')"),
        (citus.Kind.REFERENCE, "reference", None, None, 1, True),
    ),
    "hash": (
        ("CREATE TABLE t (z int, a int)", "SELECT create_distributed_table('t', 'a', shard_count := 6)"),
        (citus.Kind.DISTRIBUTED, "distributed", "a", "hash", 6, True),
    ),
    "after a dropped column": (
        (
            "CREATE TABLE t (z int, a int)",
            "ALTER TABLE t DROP COLUMN z",
            "SELECT create_distributed_table('t', 'a', shard_count := 4)",
        ),
        (citus.Kind.DISTRIBUTED, "distributed", "a", "hash", 4, True),
    ),
    "append": (
        ("CREATE TABLE t (a int)", "SELECT create_distributed_table('t', 'a', 'append')"),
        (citus.Kind.DISTRIBUTED, "distributed", "a", "append", 0, False),
    ),
    "range": (
        ("CREATE TABLE t (a int)", "SELECT create_distributed_table('t', 'a', 'range')"),
        (citus.Kind.DISTRIBUTED, "distributed", "a", "range", 0, False),
    ),
    "single shard": (
        ("CREATE TABLE t (a int)", "SELECT create_distributed_table('t', NULL)"),
        (citus.Kind.SINGLE_SHARD, "distributed", None, None, 1, True),
    ),
}


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("how", PLACEMENTS)
def test_placement_of_a_table_is_told_apart(coordinator: citus.Connection, how: str) -> None:
    statements, expected = PLACEMENTS[how]
    for statement in statements:
        coordinator.execute(statement.encode())
    found = citus.fetch_placement(coordinator, ("public", "t"))
    assert (
        found.kind,
        found.word,
        found.distribution_column,
        found.distribution_method,
        found.shard_count,
        found.colocation_id is not None,
    ) == expected
    assert found.is_reference is (how == "reference")
    assert found.is_distributed is (expected[1] == "distributed")
    assert not found.is_columnar
    assert not found.is_partitioned
    assert not found.is_partition
    assert len(citus.fetch_shards(coordinator, found.relid)) == found.shard_count


@pytest.mark.citus(">= 13")
def test_placement_in_a_sharded_schema_is_no_single_shard(coordinator: citus.Connection) -> None:
    coordinator.execute("SET citus.enable_schema_based_sharding = on")
    coordinator.execute("CREATE SCHEMA tenant")
    coordinator.execute("CREATE TABLE tenant.t (a int)")
    coordinator.execute("CREATE TABLE tenant.u (a int)")
    found = citus.fetch_placement(coordinator, ("tenant", "t"))
    assert (found.kind, found.word, found.shard_count) == (citus.Kind.SCHEMA_SHARDED, "distributed", 1)
    assert found.colocation_id == citus.fetch_placement(coordinator, ("tenant", "u")).colocation_id


@pytest.mark.citus(">= 13")
def test_placement_says_partitioned_and_columnar(coordinator: citus.Connection) -> None:
    coordinator.execute("CREATE EXTENSION IF NOT EXISTS citus_columnar")
    coordinator.execute("CREATE TABLE c (a int) USING columnar")
    coordinator.execute("CREATE TABLE p (a int, d date) PARTITION BY RANGE (d)")
    coordinator.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
    distribute(coordinator, "public", "p", "a", shard_count=4)
    columnar = citus.fetch_placement(coordinator, ("public", "c"))
    assert (columnar.is_columnar, columnar.access_method, columnar.kind) == (True, "columnar", citus.Kind.LOCAL)
    parent = citus.fetch_placement(coordinator, ("public", "p"))
    assert (parent.is_partitioned, parent.access_method, parent.is_columnar) == (True, None, False)
    child = citus.fetch_placement(coordinator, ("public", "p1"))
    assert (child.is_partition, child.is_partitioned, child.kind) == (True, False, citus.Kind.DISTRIBUTED)
    assert child.colocation_id == parent.colocation_id
    coordinator.execute(
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2027-01-01') TO ('2028-01-01') USING columnar"
    )
    assert citus.fetch_placement(coordinator, ("public", "p")).is_columnar


@pytest.mark.citus(">= 13")
def test_hostile_names_on_a_cluster_have_placement_shards_and_rows(coordinator: citus.Connection) -> None:
    schema, name, column = HOSTILE
    coordinator.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    table = sql.Identifier(schema, name)
    coordinator.execute(sql.SQL("CREATE TABLE {} ({} int)").format(table, sql.Identifier(column)))
    distribute(coordinator, schema, name, column, shard_count=4)
    coordinator.execute(sql.SQL("INSERT INTO {} SELECT generate_series(1, 500)").format(table))
    coordinator.execute(sql.SQL("ANALYZE {}").format(table))
    found = citus.fetch_placement(coordinator, (schema, name))
    assert (found.distribution_column, found.shard_count) == (column, 4)
    shards = citus.fetch_shards(coordinator, (schema, name))
    assert all((shard.size_bytes or 0) > 0 for shard in shards)
    assert citus.fetch_row_estimate(coordinator, found.relid) == citus.RowEstimate(500, "statistics", 4, 0)


@pytest.mark.citus(">= 13")
def test_shards_name_their_nodes_ranges_and_copies(coordinator: citus.Connection) -> None:
    coordinator.execute("CREATE TABLE d (a int)")
    coordinator.execute("CREATE TABLE r (a int)")
    distribute(coordinator, "public", "d", "a", shard_count=4)
    coordinator.execute("SELECT create_reference_table('r')")
    shards = citus.fetch_shards(coordinator, ("public", "d"))
    assert [shard.min_value for shard in shards] == ["-2147483648", "-1073741824", "0", "1073741824"]
    assert {shard.placements[0].group_id for shard in shards} == {1, 2}
    assert [shard.size_bytes for shard in shards] == [0, 0, 0, 0]
    (only,) = citus.fetch_shards(coordinator, ("public", "r"))
    assert [copy.group_id for copy in only.placements] == [0, 1, 2]
    unasked = citus.fetch_shards(coordinator, ("public", "r"), with_sizes=False)
    assert unasked[0].size_bytes is None
    assert unasked[0].shard_id == only.shard_id


@pytest.mark.citus(">= 13")
def test_placement_in_a_database_without_the_extension_is_local(cluster: RunningCluster) -> None:
    with psycopg.connect(cluster.coordinator.dsn("template1"), autocommit=True) as connection:
        assert not citus.fetch_presence(connection).is_available
        assert citus.fetch_placement(connection, ("pg_catalog", "pg_class")).kind is citus.Kind.LOCAL
        (answer,) = citus.run_on_nodes(connection, "SELECT 1")
        assert answer.succeeded


@pytest.mark.citus(">= 13")
def test_extension_without_its_library_is_refused_rather_than_called_local(make_cluster: MakeCluster) -> None:
    made = make_cluster(workers=0)
    made.sql("CREATE TABLE t (a int)")
    made.sql("SELECT create_distributed_table('t', 'a')")
    made.coordinator.set("shared_preload_libraries", "plpgsql")  # any other library
    made.coordinator.restart()
    with connect(made.coordinator) as connection:
        presence = citus.fetch_presence(connection)
        assert str(presence) == f"Citus {presence.extension_version}, its library not loaded"
        for ask in (citus.fetch_nodes, lambda each: citus.fetch_placement(each, ("public", "t"))):
            with pytest.raises(CitusMissingError, match="its library not loaded"):
                ask(connection)
