"""`harness.citus.fetch_row_estimate`: right after ANALYZE, labelled when it is a guess, never a silent zero."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from harness import citus
from harness.clusters import Cluster, RunningCluster
from harness.errors import BadInputError
from harness.postgres import Node
from scenarios.servers.addresses import label


@pytest.fixture
def plain(database: Node) -> Iterator[citus.Connection]:
    """A connection to a plain database of this test's own."""
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def coordinator(citus_database: Cluster) -> Iterator[citus.Connection]:
    """A connection to the coordinator of a database of this test's own."""
    with psycopg.connect(citus_database.coordinator.dsn(), autocommit=True) as connection:
        yield connection


def assert_near(estimate: citus.RowEstimate, rows: int) -> None:
    """A guess from bytes is within a factor of three."""
    assert rows / 3 < estimate.rows < rows * 3, estimate


def make_filled(connection: citus.Connection, rows: int) -> None:
    """The table t with integers and text; autovacuum must not analyse it behind the test's back."""
    connection.execute("CREATE TABLE t (a int, b text) WITH (autovacuum_enabled = off)")
    connection.execute("INSERT INTO t SELECT g, 'some text of ' || g FROM generate_series(1, %s) g", [rows])


def test_estimate_on_a_plain_server_follows_statistics_or_says_that_it_guesses(plain: citus.Connection) -> None:
    plain.execute("CREATE TABLE empty (a int)")
    assert citus.fetch_row_estimate(plain, ("public", "empty")) == citus.RowEstimate(0, "empty", 1, 0)
    make_filled(plain, 5_000)
    guess = citus.fetch_row_estimate(plain, ("public", "t"))
    assert (guess.basis, guess.unanalysed_count) == ("size", 1)
    assert "run ANALYZE" in str(guess)
    assert_near(guess, 5_000)
    plain.execute("ANALYZE t")
    assert citus.fetch_row_estimate(plain, ("public", "t")) == citus.RowEstimate(5_000, "statistics", 1, 0)
    plain.execute("INSERT INTO t SELECT g, 'some text of ' || g FROM generate_series(1, 5000) g")
    grown = citus.fetch_row_estimate(plain, ("public", "t"))
    assert 9_500 < grown.rows < 10_500
    assert grown.basis == "statistics"


def test_estimate_of_a_partitioned_table_sums_its_partitions(plain: citus.Connection) -> None:
    plain.execute("CREATE TABLE p (a int) PARTITION BY RANGE (a)")
    assert citus.fetch_row_estimate(plain, ("public", "p")).rows == 0
    plain.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000)")
    plain.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (a)")
    plain.execute("CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (1000) TO (2000)")
    plain.execute("INSERT INTO p SELECT generate_series(0, 1499)")
    plain.execute("ANALYZE p1")
    plain.execute("ANALYZE p21")
    assert citus.fetch_row_estimate(plain, ("public", "p")) == citus.RowEstimate(1_500, "statistics", 2, 0)


def test_estimate_of_a_view_is_refused(plain: citus.Connection) -> None:
    plain.execute("CREATE VIEW v AS SELECT 1 AS a")
    with pytest.raises(BadInputError, match="is a view"):
        citus.fetch_row_estimate(plain, ("public", "v"))


def test_estimate_of_a_materialised_view_is_its_own(plain: citus.Connection) -> None:
    plain.execute("CREATE MATERIALIZED VIEW m AS SELECT generate_series(1, 30) AS a")
    plain.execute("ANALYZE m")
    assert citus.fetch_row_estimate(plain, ("public", "m")).rows == 30


PLACE: dict[str, tuple[bytes, int]] = {
    "distributed": (b"SELECT create_distributed_table('t', 'a', shard_count := 4)", 4),
    "single shard": (b"SELECT create_distributed_table('t', NULL)", 1),
    "reference": (b"SELECT create_reference_table('t')", 1),
    "managed local": (b"SELECT citus_add_local_table_to_metadata('t')", 1),
    "local": (b"SELECT 1", 1),
}


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("how", PLACE)
def test_estimate_counts_the_rows_of_shards_once(coordinator: citus.Connection, how: str) -> None:
    make_filled(coordinator, 4_000)
    place, parts = PLACE[how]
    coordinator.execute(place)
    guess = citus.fetch_row_estimate(coordinator, ("public", "t"))
    assert (guess.basis, guess.part_count) == ("size", parts)
    assert_near(guess, 4_000)
    coordinator.execute("ANALYZE t")
    found = citus.fetch_row_estimate(coordinator, ("public", "t"))
    assert found == citus.RowEstimate(4_000, "statistics", parts, 0)


@pytest.mark.citus(">= 13")
def test_estimate_of_the_plan_finds_no_rows_where_this_one_does(coordinator: citus.Connection) -> None:
    """The plan's P5.7 joins pg_dist_shard.shardid with pg_class.oid: it finds nothing (F6)."""
    make_filled(coordinator, 1_000)
    coordinator.execute("SELECT create_distributed_table('t', 'a', shard_count := 4)")
    coordinator.execute("ANALYZE t")
    planned = coordinator.execute(
        "SELECT sum(reltuples)::bigint FROM pg_dist_shard s JOIN pg_class c ON c.oid = s.shardid"
        " WHERE s.logicalrelid = 't'::regclass"
    ).fetchone()
    assert planned == (None,)
    assert citus.fetch_row_estimate(coordinator, ("public", "t")).rows == 1_000


@pytest.mark.citus(">= 13")
def test_estimate_with_some_shards_analysed_is_mixed(citus_database: Cluster, coordinator: citus.Connection) -> None:
    make_filled(coordinator, 4_000)
    coordinator.execute("SELECT create_distributed_table('t', 'a', shard_count := 4)")
    first = citus.fetch_shards(coordinator, ("public", "t"))[0]
    worker = citus_database.workers[first.placements[0].group_id - 1]
    worker.sql(sql.SQL("ANALYZE {}").format(sql.Identifier("public", f"t_{first.shard_id}")))
    found = citus.fetch_row_estimate(coordinator, ("public", "t"))
    assert (found.basis, found.part_count, found.unanalysed_count) == ("mixed", 4, 3)
    assert_near(found, 4_000)


@pytest.mark.citus(">= 13")
def test_estimate_of_a_distributed_partitioned_table_sums_shards_of_partitions(coordinator: citus.Connection) -> None:
    coordinator.execute("CREATE TABLE p (a int, d int) PARTITION BY RANGE (d)")
    coordinator.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1)")
    coordinator.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1) TO (2)")
    coordinator.execute("SELECT create_distributed_table('p', 'a', shard_count := 4)")
    coordinator.execute("INSERT INTO p SELECT g, g % 2 FROM generate_series(1, 600) g")
    coordinator.execute("ANALYZE p1")
    coordinator.execute("ANALYZE p2")
    assert citus.fetch_row_estimate(coordinator, ("public", "p")) == citus.RowEstimate(600, "statistics", 8, 0)


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log(r".*", "a worker is stopped under the coordinator's feet")
def test_estimate_with_a_worker_down_names_it_rather_than_guessing(fresh_cluster: RunningCluster) -> None:
    with psycopg.connect(fresh_cluster.coordinator.dsn(), autocommit=True) as connection:
        make_filled(connection, 1_000)
        connection.execute("SELECT create_distributed_table('t', 'a', shard_count := 4)")
        fresh_cluster.workers[1].stop()
        with pytest.raises(citus.NodesFailedError) as failed:
            citus.fetch_row_estimate(connection, ("public", "t"))
        assert [failure.label for failure in failed.value.failures] == [
            f"worker {label(fresh_cluster.workers[1])} (group 2)"
        ]
        assert len(citus.fetch_shards(connection, ("public", "t"), with_sizes=False)) == 4
