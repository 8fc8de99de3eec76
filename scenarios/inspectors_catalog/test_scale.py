"""A hundred shards, and a thousand: the same answers by value, one connection a node, and time that hardly grows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from harness.clusters import Provider, RunningCluster, prove_topology
from harness.inspectors import Inspection
from scenarios.fixtures.clusters import watched
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.inspectors import fixture_standard
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_catalog.asking import look, sizes_of
from scenarios.inspectors_catalog.test_nodes import CATALOG

pytestmark = pytest.mark.citus(">= 14")
WITH_SIZES = {"list_distributed_tables": {"include_sizes": True}, "citus_colocation_inspector": {"include_sizes": True}}
# Citus asks for the size of one shard group after another: 0.5 to 1 s for 900, and no part of that is ours.
THEIRS = {"citus_rebalance_plan"}
# The goal is 200 ms at 1,000 shards on an idle machine, where an empty question to all nodes takes 25 ms: 8 times. A
# busy machine slows both, and sizing is a system call for every file of every relation.
MOST_TIMES_A_PING = 16


def _grow(cluster: RunningCluster, name: str, shards: int) -> None:
    """A table of so many shards, one after another: at once they would take a connection each."""
    with cluster.coordinator.connect() as connection, connection.transaction():
        connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
        connection.execute(sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY)").format(sql.Identifier("app", name)))
        connection.execute(
            "SELECT create_distributed_table(%s, 'id', shard_count := %s::int, colocate_with := 'none')",
            [f"app.{name}", shards],
        )


@pytest.fixture(scope="module")
def thousand_shards(cluster_provider: Provider) -> Iterator[Standard]:
    """Who keeps a standard cluster with more than 1,000 shards; tests use `thousand`."""
    if not cluster_provider.can_start:
        skip_not_applicable("an existing cluster is not filled")
    with cluster_provider.start(workers=2, settings=fixture_standard.SETTINGS) as cluster:
        prove_topology(cluster, workers=2)
        standard = fixture_standard.build(cluster)
        for number in range(3):
            _grow(cluster, f"wide_{number}", 330)
        cluster.sql("INSERT INTO app.wide_0 SELECT generate_series(1, 1000)")
        yield standard


@pytest.fixture
def thousand(thousand_shards: Standard, request: pytest.FixtureRequest) -> Iterator[Standard]:
    """That cluster, its logs read after the test."""
    with watched(thousand_shards.cluster, request):
        yield thousand_shards


def _medians_s(inspection: Inspection, *names: str) -> list[float]:
    """How long a look takes, of each; taken by turns, so that what else the machine does slows all of them."""
    found: list[list[float]] = [[] for _ in names]
    for _ in range(5):
        for name, times in zip(names, found, strict=True):
            started = time.monotonic()
            envelope = inspection.inspect(name, WITH_SIZES.get(name, {}))
            times.append(time.monotonic() - started)
            assert envelope.status == "ok", envelope.message
    return [statistics.median(times) for times in found]


def test_thousand_shards_are_all_sized(thousand: Standard) -> None:
    cluster = thousand.cluster
    assert cluster.value("SELECT count(*) FROM pg_dist_shard") > 1000
    shards = look(thousand, "list_shards", schema="app", table="wide_0")
    assert shards.facts == {"shards": 330, "placements": 330}
    rows = look(thousand, "citus_shard_map", schema="app", table="wide_0").rows
    assert {(row.shardid, row.groupid): row.size_bytes for row in rows} == sizes_of(cluster, "app", "wide_0")
    (table,) = look(thousand, "table_inspector", schema="app", table="wide_1").rows
    assert (table.shard_count, table.drift_count, table.unknown_shards) == (330, 0, 0)
    integrity = look(thousand, "citus_placement_integrity")
    assert (integrity.rows, integrity.facts["placements"]) == (
        (),
        cluster.value("SELECT count(*) FROM pg_dist_placement"),
    )


def test_answer_about_a_thousand_shards_is_cut_and_says_so(thousand: Standard) -> None:
    with Inspection(thousand.dsn()) as inspection:
        seen: list[Any] = []
        pages, cursor = 0, None
        while cursor is not None or not pages:
            envelope = inspection.inspect("list_shards", {"limit": 1000, "cursor": cursor})
            assert envelope.truncated is (envelope.next_cursor is not None)
            seen += envelope.rows
            pages, cursor = pages + 1, envelope.next_cursor
    assert pages > 1
    theirs = thousand.cluster.rows("SELECT placementid FROM pg_dist_placement")
    assert sorted(row.placementid for row in seen) == sorted(each for (each,) in theirs)


@pytest.mark.parametrize("name", [name for name in CATALOG if name not in THEIRS])
def test_thousand_shards_take_little_more_than_an_empty_question(thousand: Standard, name: str) -> None:
    with Inspection(thousand.dsn()) as inspection:
        ping_s, median_s = _medians_s(inspection, "list_nodes", name)
    assert median_s < MOST_TIMES_A_PING * ping_s


def test_rebalance_plan_of_a_thousand_shards_ends_within_its_time(thousand: Standard) -> None:
    envelope = look(thousand, "citus_rebalance_plan")
    assert envelope.facts["strategy"] == "by_disk_size"
