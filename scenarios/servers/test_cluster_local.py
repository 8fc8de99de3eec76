"""Clusters of local processes on real Citus: what they are, what they survive, what they leave."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from harness.clusters import Cluster, LocalCluster, existing_cluster, local_cluster, prove_topology
from harness.errors import BadInputError, CheckFailedError, NotACoordinatorError, ServerStartError, WaitTimeoutError
from harness.postgres import Installation
from harness.postgres.places import servers_dir
from harness.waiting import wait_until
from scenarios.fixtures.clusters import MakeCluster

pytestmark = pytest.mark.citus(">= 13")


def _distribute(cluster: Cluster, rows: int = 1000) -> None:
    cluster.sql("CREATE TABLE public.items (id int PRIMARY KEY, amount int)")
    cluster.sql("SELECT create_distributed_table('public.items', 'id')")
    cluster.sql("INSERT INTO public.items SELECT n, n FROM generate_series(1, %s) AS n", [rows])


def _shard_ports(cluster: Cluster, table: str) -> set[int]:
    rows = cluster.rows("SELECT nodeport FROM citus_shards WHERE table_name = %s::text::regclass", [table])
    return {int(port) for (port,) in rows}


def test_cluster_from_nothing_spreads_shards_and_replicas(citus_database: Cluster) -> None:
    topology = prove_topology(citus_database, workers=2)
    _distribute(citus_database)
    citus_database.sql("CREATE TABLE public.kinds (id int PRIMARY KEY)")
    citus_database.sql("SELECT create_reference_table('public.kinds')")
    assert _shard_ports(citus_database, "public.items") == {worker.port for worker in topology.workers}
    assert _shard_ports(citus_database, "public.kinds") == {node.port for node in topology.nodes}
    for node in citus_database.nodes:  # a worker answers for all, by a connection of its own to the other one
        assert node.value("SELECT sum(amount) FROM public.items") == 500_500


def test_nodes_of_one_template_have_identities_of_their_own(cluster: LocalCluster) -> None:
    seen = cluster.on_each(lambda node: node.value("SELECT metadata->>'server_id' FROM pg_dist_node_metadata"))
    assert len(set(seen.values())) == 3
    assert None not in seen.values()
    metadata = cluster.value("SELECT metadata FROM pg_dist_node_metadata")
    assert metadata["last_upgrade_version"] == cluster.coordinator.installation.citus_version


def test_cluster_start_says_where_the_time_went(cluster: LocalCluster) -> None:
    assert list(cluster.start_time) == ["template", "copy", "start", "identity", "join"]
    started = cluster.on_each(lambda node: node.value("SELECT pg_postmaster_start_time()"))
    apart = max(started.values()) - min(started.values())
    assert apart.total_seconds() < 0.5, "the nodes are started together, not one after the other"


def test_databases_of_two_tests_do_not_meet(cluster: LocalCluster, citus_database: Cluster) -> None:
    _distribute(citus_database)
    assert cluster.value("SELECT to_regclass('public.items')") is None
    assert all(node.value("SELECT to_regclass('public.items')") is None for node in cluster.workers)


def test_role_that_is_no_superuser_reaches_all_nodes(fresh_cluster: LocalCluster) -> None:
    fresh_cluster.create_role("app")
    fresh_cluster.sql("GRANT ALL ON SCHEMA public TO app")
    with fresh_cluster.coordinator.connect(user="app", deadline_s=20) as connection:
        connection.execute("CREATE TABLE public.own (id int PRIMARY KEY)")
        connection.execute("SELECT create_distributed_table('public.own', 'id')")
        connection.execute("INSERT INTO public.own SELECT generate_series(1, 100)")
        assert connection.execute("SELECT count(*) FROM public.own").fetchone() == (100,)


def test_worker_killed_and_started_again_recovers(fresh_cluster: LocalCluster) -> None:
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


def test_coordinator_stopped_and_started_again_recovers(fresh_cluster: LocalCluster) -> None:
    _distribute(fresh_cluster)
    fresh_cluster.coordinator.stop()
    assert fresh_cluster.workers[1].value("SELECT count(*) FROM public.items") == 1000
    fresh_cluster.coordinator.start()
    prove_topology(fresh_cluster, workers=2)
    fresh_cluster.sql("UPDATE public.items SET amount = amount + 1")
    assert fresh_cluster.value("SELECT sum(amount) FROM public.items") == 501_500


def test_frozen_worker_hangs_a_session_until_the_clients_own_deadline(fresh_cluster: LocalCluster) -> None:
    _distribute(fresh_cluster)
    coordinator, worker = fresh_cluster.coordinator, fresh_cluster.workers[1]
    assert coordinator.value("SELECT count(*) FROM public.items") == 1000  # its session has a connection cached
    with worker.frozen():
        started = time.monotonic()
        with pytest.raises(WaitTimeoutError):
            coordinator.value("SELECT count(*) FROM public.items", deadline_s=1.0)
        assert time.monotonic() - started < 3.0
    assert coordinator.value("SELECT count(*) FROM public.items", deadline_s=20) == 1000
    prove_topology(fresh_cluster, workers=2)


def test_failed_start_of_one_node_leaves_none(citus_installation: Installation) -> None:
    before = set(servers_dir().iterdir())
    with pytest.raises(ServerStartError) as failed:
        local_cluster(workers=2, settings={"max_connections": "lots"}, installation=citus_installation)
    assert 'invalid value for parameter "max_connections"' in failed.value.log_tail
    assert {path for path in servers_dir().iterdir() if path not in before and path.is_dir()} == set()


def test_coordinator_alone_holds_the_shards(make_cluster: MakeCluster) -> None:
    alone = make_cluster(workers=0)
    _distribute(alone)
    assert _shard_ports(alone, "public.items") == {alone.coordinator.port}


def test_number_of_workers_out_of_range_is_refused(citus_installation: Installation) -> None:
    with pytest.raises(BadInputError, match="33 workers"):
        local_cluster(workers=33)


def test_existing_cluster_by_dsn_has_the_same_verbs(citus_database: Cluster) -> None:
    with existing_cluster(citus_database.coordinator.dsn()) as found:
        assert [node.name for node in found.nodes] == ["coordinator", "worker-1", "worker-2"]
        _distribute(found)
        assert all(node.value("SELECT count(*) FROM public.items") == 1000 for node in found.nodes)


def test_existing_worker_is_refused_and_names_its_coordinator(cluster: LocalCluster) -> None:
    with pytest.raises(NotACoordinatorError, match="group 1") as refused:
        existing_cluster(cluster.workers[0].dsn())
    assert str(cluster.coordinator.port) in refused.value.hint


def test_existing_database_without_citus_is_refused(cluster: LocalCluster) -> None:
    with pytest.raises(NotACoordinatorError, match=r"template1 .* no extension citus"):
        existing_cluster(cluster.coordinator.dsn("template1"))


def test_topology_is_not_proven_by_another_number_of_workers(cluster: LocalCluster) -> None:
    with pytest.raises(CheckFailedError, match="2 workers are registered, 3 were expected"):
        prove_topology(cluster, workers=3)


def test_passwords_are_in_no_process_list_and_no_log(cluster: LocalCluster) -> None:
    password = cluster.coordinator.password
    for process in psutil.process_iter():
        try:
            arguments = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert password not in arguments
    for node in cluster.nodes:
        assert password not in node.log.since()
        assert (node.root / ".pgpass").stat().st_mode & 0o777 == 0o600


def test_sigterm_leaves_no_node(tmp_path: Path, citus_installation: Installation) -> None:
    script = tmp_path / "holds.py"
    script.write_text(
        "import time\n"
        "from harness.clusters import local_cluster\n"
        "from harness.postgres.lifetime import install_signal_handlers\n"
        "install_signal_handlers()\n"
        "cluster = local_cluster(workers=1)\n"
        "print(*(node.root for node in cluster.nodes), flush=True)\n"
        "time.sleep(60)\n",
        encoding="utf-8",
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        lines: list[str] = []
        for line in holder.stdout:  # log lines may come first
            lines = line.split()
            if lines and all(Path(each).is_absolute() for each in lines):
                break
        roots = [Path(each) for each in lines]
        assert all(root.is_dir() for root in roots)
        holder.terminate()
        holder.wait(timeout=20)
    wait_until("the directories to go", lambda: not any(root.exists() for root in roots), deadline_s=5)
