"""Clusters on real Citus, of whatever kind: what they are, what they survive."""

from __future__ import annotations

import time

import psutil
import psycopg
import pytest

from harness.clusters import Cluster, Provider, RunningCluster, existing_cluster, prove_topology
from harness.errors import (
    BadInputError,
    CheckFailedError,
    EnvironmentMissingError,
    NotACoordinatorError,
    RefusedError,
    ServerGoneError,
    WaitTimeoutError,
)
from scenarios.fixtures.clusters import MakeCluster
from scenarios.fixtures.skips import skip_not_applicable

pytestmark = pytest.mark.citus(">= 13")


def _distribute(cluster: Cluster, rows: int = 1000) -> None:
    cluster.sql("CREATE TABLE public.items (id int PRIMARY KEY, amount int)")
    cluster.sql("SELECT create_distributed_table('public.items', 'id')")
    cluster.sql("INSERT INTO public.items SELECT n, n FROM generate_series(1, %s) AS n", [rows])


def _shard_places(cluster: Cluster, table: str) -> set[tuple[str, int]]:
    rows = cluster.rows("SELECT nodename, nodeport FROM citus_shards WHERE table_name = %s::text::regclass", [table])
    return {(host, port) for host, port in rows}


def test_cluster_from_nothing_spreads_shards_and_replicas(citus_database: Cluster) -> None:
    topology = prove_topology(citus_database, workers=2)
    _distribute(citus_database)
    citus_database.sql("CREATE TABLE public.kinds (id int PRIMARY KEY)")
    citus_database.sql("SELECT create_reference_table('public.kinds')")
    assert _shard_places(citus_database, "public.items") == {(node.host, node.port) for node in topology.workers}
    assert _shard_places(citus_database, "public.kinds") == {(node.host, node.port) for node in topology.nodes}
    for node in citus_database.nodes:  # a worker answers for all, by a connection of its own to the other one
        assert node.value("SELECT sum(amount) FROM public.items") == 500_500


def test_nodes_of_one_template_have_identities_of_their_own(
    cluster: RunningCluster, cluster_provider: Provider
) -> None:
    seen = cluster.on_each(lambda node: node.value("SELECT metadata->>'server_id' FROM pg_dist_node_metadata"))
    assert len(set(seen.values())) == 3
    assert None not in seen.values()
    metadata = cluster.value("SELECT metadata FROM pg_dist_node_metadata")
    assert metadata["last_upgrade_version"] == cluster_provider.citus_version


def test_databases_of_two_tests_do_not_meet(cluster: RunningCluster, citus_database: Cluster) -> None:
    _distribute(citus_database)
    assert cluster.value("SELECT to_regclass('public.items')") is None
    assert all(node.value("SELECT to_regclass('public.items')") is None for node in cluster.workers)


def test_role_that_is_no_superuser_reaches_all_nodes(fresh_cluster: RunningCluster) -> None:
    fresh_cluster.create_role("app")
    fresh_cluster.sql("GRANT ALL ON SCHEMA public TO app")
    with fresh_cluster.coordinator.connect(user="app", deadline_s=20) as connection:
        connection.execute("CREATE TABLE public.own (id int PRIMARY KEY)")
        connection.execute("SELECT create_distributed_table('public.own', 'id')")
        connection.execute("INSERT INTO public.own SELECT generate_series(1, 100)")
        assert connection.execute("SELECT count(*) FROM public.own").fetchone() == (100,)


def test_worker_killed_and_started_again_recovers(fresh_cluster: RunningCluster) -> None:
    _distribute(fresh_cluster)
    worker = fresh_cluster.workers[0]
    worker.kill()
    with pytest.raises(psycopg.OperationalError) as refused:
        fresh_cluster.value("SELECT count(*) FROM public.items", deadline_s=20)
    assert refused.value.sqlstate == "08006"
    worker.start()
    prove_topology(fresh_cluster, workers=2)
    assert fresh_cluster.value("SELECT count(*) FROM public.items") == 1000
    assert worker.value("SELECT sum(amount) FROM public.items") == 500_500


def test_coordinator_stopped_and_started_again_recovers(fresh_cluster: RunningCluster) -> None:
    _distribute(fresh_cluster)
    fresh_cluster.coordinator.stop()
    assert fresh_cluster.workers[1].value("SELECT count(*) FROM public.items") == 1000
    fresh_cluster.coordinator.start()
    prove_topology(fresh_cluster, workers=2)
    fresh_cluster.sql("UPDATE public.items SET amount = amount + 1")
    assert fresh_cluster.value("SELECT sum(amount) FROM public.items") == 501_500


def test_frozen_worker_hangs_a_session_until_the_clients_own_deadline(fresh_cluster: RunningCluster) -> None:
    _distribute(fresh_cluster)
    coordinator, worker = fresh_cluster.coordinator, fresh_cluster.workers[1]
    assert coordinator.value("SELECT count(*) FROM public.items") == 1000  # its session has a connection cached
    with worker.frozen():
        started = time.monotonic()
        with pytest.raises(WaitTimeoutError):
            coordinator.value("SELECT count(*) FROM public.items", deadline_s=1.0)
        assert time.monotonic() - started < 15.0
    assert coordinator.value("SELECT count(*) FROM public.items", deadline_s=20) == 1000
    prove_topology(fresh_cluster, workers=2)


def test_coordinator_alone_holds_the_shards(make_cluster: MakeCluster) -> None:
    alone = make_cluster(workers=0)
    _distribute(alone)
    assert _shard_places(alone, "public.items") == {alone.coordinator.address}


def test_existing_cluster_by_dsn_has_the_same_verbs(citus_database: Cluster) -> None:
    with existing_cluster(citus_database.coordinator.dsn()) as found:
        assert [node.name for node in found.nodes] == ["coordinator", "worker-1", "worker-2"]
        _distribute(found)
        assert all(node.value("SELECT count(*) FROM public.items") == 1000 for node in found.nodes)


def test_existing_worker_is_refused_and_names_its_coordinator(cluster: RunningCluster) -> None:
    with pytest.raises(NotACoordinatorError, match="group 1") as refused:
        existing_cluster(cluster.workers[0].dsn())
    host, port = cluster.coordinator.address
    assert f"{host}:{port}" in refused.value.hint


def test_existing_database_without_citus_is_refused(cluster: RunningCluster) -> None:
    with pytest.raises(NotACoordinatorError, match=r"template1 .* no extension citus"):
        existing_cluster(cluster.coordinator.dsn("template1"))


def test_topology_is_not_proven_by_another_number_of_workers(cluster: RunningCluster) -> None:
    with pytest.raises(CheckFailedError, match="2 workers are registered, 3 were expected"):
        prove_topology(cluster, workers=3)


def test_start_of_all_nodes_is_one(cluster: RunningCluster) -> None:
    phases = list(cluster.start_time)
    assert phases[0] == "template"
    assert phases[-4:] == ["copy", "start", "identity", "join"]
    started = cluster.on_each(lambda node: node.value("SELECT pg_postmaster_start_time()"))
    apart = max(started.values()) - min(started.values())
    assert apart.total_seconds() < 2, "the nodes are started together, not one after the other"


def test_number_of_workers_out_of_range_is_refused(cluster_provider: Provider) -> None:
    with pytest.raises((BadInputError, RefusedError)):
        cluster_provider.start(workers=33)


def test_passwords_are_in_no_process_list_and_no_log(cluster: RunningCluster) -> None:
    password = cluster.coordinator.password
    for process in psutil.process_iter():
        try:
            seen = " ".join([*process.cmdline(), *process.environ().values()])
        except psutil.Error:
            continue
        assert password not in seen
    for node in cluster.nodes:
        assert password not in node.log.since()


def test_node_killed_while_frozen_recovers(fresh_cluster: RunningCluster) -> None:
    _distribute(fresh_cluster)
    worker = fresh_cluster.workers[0]
    worker.freeze()
    worker.kill()
    assert not worker.is_running
    worker.start()
    assert fresh_cluster.value("SELECT count(*) FROM public.items", deadline_s=20) == 1000


def test_two_workers_started_in_the_other_order_keep_their_places(fresh_cluster: RunningCluster) -> None:
    """In containers they may swap their network addresses (containers.md): names must not."""
    _distribute(fresh_cluster)
    before = _rows_of_shards(fresh_cluster)
    for worker in fresh_cluster.workers:
        worker.kill()
    for worker in reversed(fresh_cluster.workers):
        worker.start()
    prove_topology(fresh_cluster, workers=2)
    assert _rows_of_shards(fresh_cluster) == before


def _rows_of_shards(cluster: RunningCluster) -> dict[str, list[tuple[int, str]]]:
    return {
        worker.name: sorted(
            cluster.rows(
                "SELECT shardid, nodename || ':' || nodeport FROM citus_shards WHERE (nodename, nodeport) = (%s, %s)",
                worker.address,
            )
        )
        for worker in cluster.workers
    }


def test_log_since_a_mark_has_what_came_after(cluster: RunningCluster) -> None:
    node = cluster.workers[0]
    mark = node.log.mark()
    node.sql("DO $$ BEGIN RAISE LOG 'one line of a test'; END $$")
    assert node.log.wait_for("one line of a test", mark)
    after = node.log.mark()
    assert not node.log.search("one line of a test", after)


def test_setting_and_role_survive_a_restart(fresh_cluster: RunningCluster) -> None:
    fresh_cluster.create_role("app")
    for node in fresh_cluster.nodes:
        node.set("work_mem", "7MB")
        node.restart()
    assert {node.show("work_mem") for node in fresh_cluster.nodes} == {"7MB"}
    with fresh_cluster.coordinator.connect(user="app", deadline_s=20) as connection:
        assert connection.execute("SELECT count(*) FROM pg_dist_node").fetchone() == (3,)


def test_node_that_is_cut_off_is_not_reached_until_it_rejoins(fresh_cluster: RunningCluster) -> None:
    _distribute(fresh_cluster)
    worker = fresh_cluster.workers[0]
    try:
        worker.cut_off()
    except EnvironmentMissingError as error:
        skip_not_applicable(error.message)
    assert worker.is_running
    fresh_cluster.close()  # a session with a cached connection would hang (containers.md)
    with pytest.raises(ServerGoneError, match="cut off"):
        worker.value("SELECT 1")
    with pytest.raises(psycopg.OperationalError) as refused:
        fresh_cluster.value("SELECT count(*) FROM public.items", deadline_s=20)
    assert refused.value.sqlstate == "08006"
    worker.rejoin()
    assert worker.value("SELECT 1") == 1
    assert fresh_cluster.value("SELECT count(*) FROM public.items", deadline_s=20) == 1000
    with worker.alone():
        assert fresh_cluster.workers[1].value("SELECT 1") == 1
    prove_topology(fresh_cluster, workers=2)
