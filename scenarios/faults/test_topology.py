"""Shards move and workers come and go while stream tables are refreshed."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from harness.clusters import Provider, RunningCluster, prove_topology
from harness.faults import (
    FAULTS,
    Site,
    fetch_placements,
    foreign_gid,
    move_shard,
    prepared,
    rebalance,
    shard_moved,
    worker_added,
    worker_drained,
    worker_removed,
)
from harness.trickle.oracle import assert_equal
from scenarios.faults.stages import DBNAME, Stage, prepare
from scenarios.fixtures.skips import skip_not_applicable

pytestmark = [
    pytest.mark.citus(">= 13"),
    pytest.mark.allow_log("logical replication|subscription|could not|terminating", "shards were moved by it"),
]
Record = Callable[[str, object], None]
NAMES = ("distributed", "local")


@pytest.fixture(scope="module")
def small_stage(cluster_provider: Provider) -> Iterator[tuple[Stage, RunningCluster]]:
    """Few shards: each that moves by logical replication takes a second."""
    if not cluster_provider.can_start:
        skip_not_applicable("an existing cluster is neither started nor broken")
    if cluster_provider.kind != "local":
        skip_not_applicable("a worker is added as a process of this machine")
    with cluster_provider.start(workers=2, settings={"citus.shard_count": "2"}) as cluster:
        cluster.create_database(DBNAME)
        made = prepare(Site.of_cluster(cluster, DBNAME), NAMES, shard_count=2)
        yield made, cluster
        made.hang_up()


@pytest.fixture
def moving(small_stage: tuple[Stage, RunningCluster]) -> Iterator[Stage]:
    stage, cluster = small_stage
    prove_topology(cluster, workers=2, dbname=DBNAME)
    yield stage
    prove_topology(cluster, workers=2, dbname=DBNAME)


@contextlib.contextmanager
def _refreshing(stage: Stage, name: str) -> Iterator[list[str]]:
    """Changes and refreshes, one after the other, as long as a block takes; their actions."""
    done: list[str] = []
    failures: list[BaseException] = []
    is_over = threading.Event()

    def run() -> None:
        try:
            while not is_over.is_set():
                stage.change(name)
                done.append(stage.refresh(name).action)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join(60)
    assert not thread.is_alive()
    assert failures == []


def _worked(stage: Stage, name: str, actions: list[str]) -> None:
    assert actions
    assert set(actions) <= {"DIFFERENTIAL", "NO_DATA", "REINITIALIZE"}, actions
    stage.require(name)


def test_shard_moves_under_refreshes_and_back(moving: Stage, record_property: Record) -> None:
    before = fetch_placements(moving.site)
    with _refreshing(moving, "distributed") as actions, shard_moved(moving.site, random.Random(1)) as moved:  # noqa: S311
        now = next(one for one in fetch_placements(moving.site) if one.shard_id == moved.shard_id)
        assert now.node != moved.node
    assert fetch_placements(moving.site) == before
    _worked(moving, "distributed", actions)
    with moving.fault("shard_moved", shard_moved(moving.site, random.Random(2)), record_property):  # noqa: S311
        for name in NAMES:
            assert moving.refresh(name).action in {"DIFFERENTIAL", "REINITIALIZE"}
            moving.require(name)
            moving.change(name)


MOVES = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%citus_move_shard_placement(%%' AND state = 'active'"


@contextlib.contextmanager
def _held_up(site: Site, name: str) -> Iterator[None]:
    """Shards cannot leave a worker: the slot of a move waits until what is prepared there has ended."""
    (worker,) = (each for each in site.workers if each.name == name)
    with prepared(worker, DBNAME, foreign_gid()):
        yield


def test_move_that_cannot_go_on_is_ended_on_the_server_and_the_next_one_is_done(moving: Stage) -> None:
    before = fetch_placements(moving.site)
    shard = before[0]
    other = next(worker.name for worker in moving.site.workers if worker.name != shard.node)
    with _held_up(moving.site, shard.node):
        with pytest.raises(psycopg.errors.QueryCanceled):
            move_shard(moving.site, shard.shard_id, shard.node, other, deadline_s=2)
        assert moving.site.coordinator.value(MOVES + " AND pid <> pg_backend_pid()") == 0
        assert fetch_placements(moving.site) == before
    move_shard(moving.site, shard.shard_id, shard.node, other)
    move_shard(moving.site, shard.shard_id, other, shard.node)
    assert fetch_placements(moving.site) == before
    for name in NAMES:
        moving.change(name)
        moving.refresh(name)
        moving.require(name)


def test_putting_back_that_hangs_is_tried_again(moving: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.faults.topology._PUT_BACK_TRY_S", 2.0)
    before = fetch_placements(moving.site)
    tried: list[float] = []

    def count_and_let_go(site: Site, *arguments: object, **options: float) -> None:
        tried.append(options["deadline_s"])
        if len(tried) == 2:
            hold.close()
            options["deadline_s"] = 60.0  # a busy machine takes longer than what is tried here
        move_shard(site, *arguments, **options)  # type: ignore[arg-type]

    with contextlib.ExitStack() as hold, shard_moved(moving.site, random.Random(3)) as moved:  # noqa: S311
        now = next(one for one in fetch_placements(moving.site) if one.shard_id == moved.shard_id)
        hold.enter_context(_held_up(moving.site, now.node))
        monkeypatch.setattr("harness.faults.topology.move_shard", count_and_let_go)
    assert tried == [2.0, 2.0]
    assert fetch_placements(moving.site) == before


def test_rebalance_after_all_went_to_one_worker(moving: Stage, record_property: Record) -> None:
    one, other = (worker.name for worker in moving.site.workers)
    for placement in fetch_placements(moving.site):
        if placement.node == one:
            move_shard(moving.site, placement.shard_id, one, other, "block_writes")
    assert {each.node for each in fetch_placements(moving.site)} == {other}
    for name in NAMES:
        moving.change(name)
    with moving.fault("rebalanced", contextlib.nullcontext(), record_property), _refreshing(moving, "local") as actions:
        rebalance(moving.site, "block_writes")
    assert {each.node for each in fetch_placements(moving.site)} == {one, other}
    _worked(moving, "local", actions)


def test_worker_is_drained_and_gets_shards_again(moving: Stage, record_property: Record) -> None:
    worker = moving.site.workers[0]
    with moving.fault("worker_drained", worker_drained(moving.site, worker, "block_writes"), record_property):
        assert worker.name not in {each.node for each in fetch_placements(moving.site)}
        for name in NAMES:
            moving.refresh(name)
            moving.require(name)
            moving.change(name)
    assert worker.name in {each.node for each in fetch_placements(moving.site)}


def test_worker_is_removed_and_comes_back_under_another_number(moving: Stage, record_property: Record) -> None:
    worker = moving.site.workers[1]
    group = worker.value("SELECT groupid FROM pg_dist_local_group", dbname=DBNAME)
    with moving.fault("worker_removed", worker_removed(moving.site, worker, "block_writes"), record_property):
        assert worker.address not in {row[:2] for row in moving.shape()[moving.site.coordinator.name]}
        for name in NAMES:
            moving.refresh(name)
            moving.require(name)
            moving.change(name)
    assert worker.value("SELECT groupid FROM pg_dist_local_group", dbname=DBNAME) > group


def test_replica_whose_key_is_not_there_yet_is_no_fault_of_the_table(moving: Stage) -> None:
    """As on a worker that is being added: Citus makes a reference table's key after its rows (42P10)."""
    worker = moving.site.workers[0]
    with moving.site.coordinator.connect(DBNAME) as connection:
        connection.execute("CREATE TABLE keyed (id bigint PRIMARY KEY, g integer NOT NULL)")
        connection.execute("SELECT create_distributed_table('keyed', 'id', 'hash', 'none', 2)")
        moving.tables.create(
            "keyed_groups", "SELECT g, count(*) AS n FROM keyed GROUP BY g", None, "DIFFERENTIAL", "reference"
        )
        try:
            connection.execute("INSERT INTO keyed SELECT i, i % 3 FROM generate_series(1, 30) i")
            ((shard, key, columns),) = connection.execute(
                "SELECT pg_catalog.shard_name(s.logicalrelid, s.shardid), c.conname || '_' || s.shardid,"
                " pg_get_constraintdef(c.oid) FROM pg_dist_shard s JOIN pg_constraint c ON c.conrelid = s.logicalrelid"
                " WHERE s.logicalrelid = 'keyed_groups'::regclass AND c.contype = 'p'"
            ).fetchall()
            with worker.connect(DBNAME) as there:
                # One that names Citus' own application may alter a shard.
                there.execute("SET citus.enable_manual_changes_to_shards = on")
                shard_table, constraint = sql.SQL(shard), sql.Identifier(key)
                there.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(shard_table, constraint))
                try:
                    with pytest.raises(psycopg.errors.InvalidColumnReference):
                        moving.refresh("keyed_groups")
                finally:
                    there.execute(
                        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(shard_table, constraint, sql.SQL(columns))
                    )
            (status,) = moving.tables.status("keyed_groups")
            assert status.stream_table.consecutive_errors == 0
            assert status.stream_table.status == "ACTIVE"
            assert moving.refresh("keyed_groups").action in {"DIFFERENTIAL", "FULL", "REINITIALIZE"}
            assert_equal(connection, "keyed_groups")
        finally:
            moving.tables.drop("keyed_groups")
            connection.execute("DROP TABLE keyed")


def test_worker_is_added_and_gone_again(moving: Stage, record_property: Record) -> None:
    with moving.fault("worker_added", worker_added(moving.site, "block_writes"), record_property):
        rows = moving.site.rows("SELECT count(*) FROM pg_dist_node WHERE groupid > 0")
        assert rows == [(3,)]
        for name in NAMES:
            moving.refresh(name)
            moving.require(name)
            moving.change(name)


def test_every_fault_of_the_registry_applies_to_a_cluster_and_says_where_else(moving: Stage) -> None:
    plain = {name for name, fault in FAULTS.items() if not (fault.needs_workers or fault.needs_citus)}
    assert {"coordinator_killed", "backend_terminated", "disk_full", "connections_used_up"} <= plain
    assert all(fault.applies(moving.site) for fault in FAULTS.values())
    alone = Site((moving.site.coordinator,), DBNAME, has_citus=False)
    assert {name for name, fault in FAULTS.items() if fault.applies(alone)} == plain
