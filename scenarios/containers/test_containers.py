"""Clusters in containers: what they show to the machine, what they leave, and how two runs share a host."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from harness.chain.runner import upgrade
from harness.clusters import existing_cluster, prove_topology
from harness.clusters.container_image import fetch_container_template
from harness.clusters.container_runtime import LABEL, Runtime, open_runtime, own_labels, sweep_containers
from harness.clusters.containers import ContainerCluster, container_cluster
from harness.errors import (
    BadInputError,
    CitusMissingError,
    EnvironmentMissingError,
    HarnessError,
    ServerStartError,
    WaitTimeoutError,
)
from harness.settings import load_settings
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.fixtures.clusters import watched
from scenarios.fixtures.skips import skip_docker

# Starts a cluster, says which run it is, and waits to be ended.
HOLDER = """
import time
from harness.clusters.containers import container_cluster
from harness.postgres.lifetime import install_signal_handlers
install_signal_handlers()
cluster = container_cluster(workers=1)
print("run", cluster.coordinator.hostname.removesuffix("-coordinator"), flush=True)
time.sleep(120)
"""


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    try:
        opened = open_runtime()
        fetch_container_template(opened)
    except (EnvironmentMissingError, HarnessError) as error:
        skip_docker(error.message)
    return opened


@pytest.fixture(scope="module")
def shared(runtime: Runtime) -> Iterator[ContainerCluster]:
    with container_cluster(workers=2) as made:
        yield made


@pytest.fixture
def containers(shared: ContainerCluster, request: pytest.FixtureRequest) -> Iterator[ContainerCluster]:
    with watched(shared, request):
        yield shared


def _things_of(runtime: Runtime, run: str) -> list[str]:
    """Names of containers, networks and volumes that a run has."""
    return _things(runtime, f"{LABEL}={run}")


def _things(runtime: Runtime, wanted: str) -> list[str]:
    label: dict[str, str | list[str] | bool] = {"label": wanted}
    client = runtime.client
    return [
        *(found.name or "" for found in client.containers.list(all=True, filters=label, ignore_removed=True)),
        *(found.name or "" for found in client.networks.list(filters=label)),
        *(found.name or "" for found in client.volumes.list(filters=label)),
    ]


def _inspect(cluster: ContainerCluster) -> list[dict[str, Any]]:
    return [node._there().attrs for node in cluster.nodes]


@contextmanager
def _holder(program: str = HOLDER) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another run, and its name."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            run = next(line.split()[1] for line in other.stdout if line.startswith("run "))
            yield other, run
        finally:
            other.kill()


def test_start_says_where_the_time_went(containers: ContainerCluster) -> None:
    assert list(containers.start_time) == ["template", "network", "copy", "start", "identity", "join"]
    prove_topology(containers, workers=2)


def test_ports_are_published_on_loopback_only(containers: ContainerCluster) -> None:
    for found in _inspect(containers):
        ports = found["NetworkSettings"]["Ports"]
        assert {binding["HostIp"] for binding in ports["5432/tcp"]} == {"127.0.0.1"}
        assert list(ports) == ["5432/tcp"]


def test_password_is_in_nothing_that_docker_shows(containers: ContainerCluster) -> None:
    password = containers.coordinator.password
    for node, found in zip(containers.nodes, _inspect(containers), strict=True):
        assert password not in json.dumps(found)
        assert password not in node.log.since()
        assert password not in json.dumps(node.facts())


def test_everybody_is_asked_for_a_password(containers: ContainerCluster) -> None:
    for node in containers.nodes:
        dsn = psycopg.conninfo.make_conninfo(node.dsn(), password="wrong", passfile="/dev/null")  # noqa: S106
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dsn)
    asked = containers.on_each(lambda node: node.rows("SELECT DISTINCT auth_method FROM pg_hba_file_rules"))
    assert set(map(str, asked.values())) == {"[('scram-sha-256',)]"}


def test_nodes_run_as_no_superuser_of_their_container(containers: ContainerCluster) -> None:
    for node in containers.nodes:
        assert node._there().exec_run(["id", "-un"]).output == b"postgres\n"


def test_worker_asks_the_other_worker(containers: ContainerCluster) -> None:
    containers.sql("CREATE TABLE far (id int)")
    containers.sql("SELECT create_distributed_table('far', 'id')")
    containers.workers[0].sql("INSERT INTO far SELECT generate_series(1, 50)")
    assert [node.value("SELECT count(*) FROM far") for node in containers.nodes] == [50, 50, 50]


def test_engine_reaches_the_workers_themselves(containers: ContainerCluster) -> None:
    containers.create_database("engine")
    upgrade(containers.coordinator.dsn("engine"))
    with containers.view("engine") as view, view.coordinator.connect() as connection:
        connection.execute("CREATE TABLE sales (id int PRIMARY KEY, shop int, amount int)")
        connection.execute("SELECT create_distributed_table('sales', 'id')")
        with StreamTables(connection) as tables:
            tables.create("totals", "SELECT shop, sum(amount) AS total FROM sales GROUP BY shop", schedule=None)
            connection.execute("INSERT INTO sales SELECT n, n % 5, n FROM generate_series(1, 200) AS n")
            tables.refresh("totals")
            assert_equal(connection, "totals")
            assert tables._workers is not None
            assert len(tables._workers._open) == 2, "by their published ports, not through the coordinator"


def test_cluster_is_found_by_its_dsn(containers: ContainerCluster) -> None:
    """Within this process the workers' names lead to their ports; another one needs HARNESS_NODE_ADDRESSES."""
    with existing_cluster(containers.coordinator.dsn()) as found:
        prove_topology(found, workers=2)
    addresses = ",".join(f"{node.hostname}:5432=127.0.0.1:{node.port}" for node in containers.nodes)
    program = (
        "import sys; from harness.clusters import existing_cluster, prove_topology\n"
        "with existing_cluster(sys.stdin.read()) as found: prove_topology(found, workers=2); print('proven')"
    )
    environment = {**os.environ, "HARNESS_NODE_ADDRESSES": addresses}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=containers.coordinator.dsn(),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )
    assert done.stdout.strip() == "proven", done.stderr


def test_two_runs_share_a_host_and_one_that_lives_is_not_swept(runtime: Runtime, containers: ContainerCluster) -> None:
    with _holder() as (other, run):
        sweep_containers(runtime.client)
        assert len(_things_of(runtime, run)) >= 4, "two nodes, a network, volumes"
        prove_topology(containers, workers=2)
        other.send_signal(signal.SIGTERM)
        assert other.wait(timeout=20) == 128 + signal.SIGTERM
    assert _things_of(runtime, run) == [], "a run that is ended cleans up by itself"


def test_killed_run_is_swept_by_the_next(runtime: Runtime) -> None:
    with _holder() as (other, run):
        other.kill()
        other.wait(timeout=30)
        assert _things_of(runtime, run), "nobody cleaned up"
        # Another run of this machine may be faster.
        sweep_containers(runtime.client)
        wait_until("the sweep to end", lambda: not _things_of(runtime, run), deadline_s=10)


def test_failed_start_leaves_nothing_and_says_why(runtime: Runtime) -> None:
    before = _names(runtime)
    with pytest.raises(ServerStartError) as failed:
        container_cluster(workers=1, settings={"max_connections": "lots"})
    assert 'invalid value for parameter "max_connections"' in failed.value.hint
    assert 'invalid value for parameter "max_connections"' in failed.value.log_tail
    assert _names(runtime) == before


def test_volumes_on_disk_go_with_the_cluster_too(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _names(runtime)
    monkeypatch.setattr(load_settings(), "docker_data", "volume")
    with container_cluster(workers=0) as alone:
        alone.sql("CREATE TABLE kept (id int)")
        alone.coordinator.kill()
        alone.coordinator.start()
        assert alone.value("SELECT count(*) FROM kept") == 0
    assert _names(runtime) == before


def _names(runtime: Runtime) -> set[str]:
    """All containers, networks and volumes that this process has on the daemon; others may use it meanwhile."""
    process = next(value for key, value in runtime.labels.items() if key.endswith(".process"))
    return set(_things(runtime, f"org.pgtrickle.harness.process={process}"))


@pytest.mark.parametrize("may_pull", [False, True])
def test_image_that_is_not_here_is_said_at_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, may_pull: bool
) -> None:
    # A registry at an address where nobody listens: what cannot be pulled is said as soon as the daemon says it.
    monkeypatch.setattr(load_settings(), "citus_image", "127.0.0.1:1/no/such:1")
    monkeypatch.setattr(load_settings(), "docker_pull", may_pull)
    started = time.monotonic()
    with pytest.raises(CitusMissingError, match="no/such:1 is not here") as missing:
        container_cluster()
    assert time.monotonic() - started < 15
    assert ("cannot be pulled" in missing.value.message) is may_pull
    assert "\n" not in missing.value.message


def test_frozen_node_is_given_up_at_the_clients_own_deadline(runtime: Runtime) -> None:
    with container_cluster(workers=1) as made:
        node = made.workers[0]
        assert node.value("SELECT 1") == 1
        with node.frozen():
            started = time.monotonic()
            with pytest.raises(WaitTimeoutError) as late:
                node.value("SELECT 1", deadline_s=1.0)
            assert late.value.node == "worker-1"
            assert time.monotonic() - started < 15
        assert node.value("SELECT 1") == 1


def test_port_changes_with_a_restart_and_the_name_does_not(runtime: Runtime) -> None:
    with container_cluster(workers=1) as made:
        worker = made.workers[0]
        address = worker.address
        worker.restart()
        assert worker.address == address
        assert worker.value("SELECT 1") == 1
        wait_until("the cluster to be whole", lambda: prove_topology(made, workers=1), deadline_s=10)
        worker._there().restart(timeout=5)  # from outside: nobody told us
        worker.wait_ready()
        published = worker._there().attrs["NetworkSettings"]["Ports"]["5432/tcp"][0]["HostPort"]
        assert f"port={published}" in worker.dsn()
        assert worker.value("SELECT 1") == 1


@pytest.mark.parametrize("delay_s", [0.1, 0.5, 0.9, 1.3])
def test_ctrl_c_in_a_start_leaves_nothing_and_ends_at_once(runtime: Runtime, delay_s: float) -> None:
    program = HOLDER.replace("cluster = ", "print('run begins', flush=True)\ncluster = ")
    with _holder(program) as (other, _begins):
        time.sleep(delay_s)  # a moment of the start, whichever it is
        process = next(value for key, value in own_labels("", other.pid).items() if key.endswith(".process"))
        other.send_signal(signal.SIGINT)
        assert other.wait(timeout=20) in (-signal.SIGINT, 128 + signal.SIGINT)
    assert _things(runtime, f"org.pgtrickle.harness.process={process}") == []


def test_node_that_is_cut_off_can_be_killed_and_started(runtime: Runtime) -> None:
    with container_cluster(workers=1) as made:
        worker = made.workers[0]
        worker.cut_off()
        worker.kill()
        worker.start()
        assert worker.is_running
        worker.rejoin()
        assert worker.value("SELECT 1") == 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("citus.task_tracker_delay", "1", "does not exist"), ("citus.shard_count", "many", "does not take the value")],
)
def test_setting_of_citus_that_is_none_is_refused(runtime: Runtime, name: str, value: str, words: str) -> None:
    with pytest.raises(BadInputError, match=f"setting {re.escape(name)} {words}"):
        container_cluster(workers=0, settings={name: value})
