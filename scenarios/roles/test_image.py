"""The image and ``compose.yaml``: built on the local Citus image, up, asked, stopped, changed, down without a trace."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from harness.clusters.docker import look_at_docker
from harness.postgres.ports import lease_port
from harness.settings import load_settings
from harness.waiting import wait_until
from scenarios.fixtures.skips import skip_docker

DOCKER = Path(__file__).parents[2] / "docker"
# A step of the build takes half a second, and 8 s where the engine has to copy layers on a busy machine.
BUILD_DEADLINE_S = 180
HEALTHY_DEADLINE_S = 60.0
NODES = ("coordinator", "worker-1", "worker-2")

pytestmark = pytest.mark.slow


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607 - whichever docker there is
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def compose_command() -> list[str]:
    """``docker compose``, else ``docker-compose``; without either the test is skipped."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:  # noqa: S607
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        skip_docker("neither docker compose nor docker-compose is here")
    return ["docker-compose"]


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image, built without pulling anything, and gone afterwards."""
    look = look_at_docker()
    if look.client is None or look.problem:
        skip_docker(look.problem or "the program docker is not here")
    base = load_settings().citus_image
    if base not in look.citus_images:
        skip_docker(f"the image {base} is not on this machine (nothing is pulled)")
    name = f"citus-node-test-{secrets.token_hex(4)}"
    docker("build", "--quiet", "--build-arg", f"CITUS_IMAGE={base}", "--tag", name, str(DOCKER))
    try:
        yield name
    finally:
        docker("image", "rm", "--force", name, check=False)


@dataclass(frozen=True)
class Project:
    """The services of ``compose.yaml`` under a name of this run's own."""

    name: str
    password: str
    port: int
    environment: dict[str, str]
    command: list[str]

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, "-p", self.name, "-f", str(DOCKER / "compose.yaml"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=BUILD_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def container(self, service: str) -> str:
        wanted = ["label=com.docker.compose.project=" + self.name, "label=com.docker.compose.service=" + service]
        return docker("ps", "--all", "--quiet", *(part for each in wanted for part in ("--filter", each)))

    def inspect(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(docker("inspect", self.container(service)))
        return dict(found)

    def wait_healthy(self) -> None:
        def states() -> dict[str, str]:
            return {service: self.inspect(service)["State"]["Health"]["Status"] for service in NODES}

        wait_until(
            "all nodes to be healthy", lambda: set(states().values()) == {"healthy"}, deadline_s=HEALTHY_DEADLINE_S
        )

    def ask(self, query: str, service: str = "coordinator") -> str:
        return docker("exec", self.container(service), "citus-node", "psql", "-At", "-c", query)


@pytest.fixture(scope="module")
def project(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """1+2 that are healthy; whatever happens, nothing of them stays."""
    command = compose_command()
    lease = lease_port()
    password = secrets.token_urlsafe(18)
    secret = tmp_path_factory.mktemp("secret") / "password"
    secret.write_text(password + "\n")
    environment = os.environ | {
        "CITUS_NODE_IMAGE": image,
        "CITUS_PORT": str(lease.port),
        "POSTGRES_PASSWORD_FILE": str(secret),
    }
    made = Project(f"roles-{secrets.token_hex(4)}", password, lease.port, environment, command)
    try:
        made.compose("up", "-d", "--no-build", *NODES)
        made.wait_healthy()
        yield made
    finally:
        mounts = [mount for service in NODES if made.container(service) for mount in made.inspect(service)["Mounts"]]
        volumes = {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
        try:
            made.compose("down", "--volumes", "--timeout", "5")
        finally:
            left = remove_by_label(f"com.docker.compose.project={made.name}")
            lease.release()
        assert left == []
        assert not volumes & set(docker("volume", "ls", "--quiet").split())


def remove_by_label(label: str) -> list[str]:
    """What is there with this label, removed; nothing, where ``down`` did its work."""
    found = []
    for kind, remove in (("container", ["rm", "--force", "--volumes"]), ("network", ["rm"]), ("volume", ["rm"])):
        listing = ["ls", "--quiet", "--filter", f"label={label}", *(["--all"] if kind == "container" else [])]
        for each in docker(kind, *listing).split():
            found.append(each)
            docker(kind, *remove, each, check=False)
    return found


def test_compose_is_a_cluster_behind_one_loopback_port(project: Project) -> None:
    dsn = make_conninfo(host="127.0.0.1", port=project.port, user="postgres", password=project.password)
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("CREATE TABLE items (id int PRIMARY KEY)")
        client.execute("SELECT create_distributed_table('items', 'id')")
        client.execute("INSERT INTO items SELECT generate_series(1, 100)")
        assert client.execute("SELECT count(*) FROM items").fetchone() == (100,)
        names = client.execute("SELECT DISTINCT nodename FROM citus_shards ORDER BY 1").fetchall()
        assert names == [("worker-1",), ("worker-2",)]
        pairs = client.execute("SELECT count(*), bool_and(result) FROM citus_check_cluster_node_health()").fetchone()
        assert pairs == (9, True)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(make_conninfo(dsn, password="wrong"))  # noqa: S106
    for service in NODES:
        ports = project.inspect(service)["NetworkSettings"]["Ports"]
        published = [binding["HostIp"] for bindings in ports.values() for binding in bindings or ()]
        assert published == (["127.0.0.1"] if service == "coordinator" else [])


def test_the_password_is_in_no_description_log_or_process(project: Project) -> None:
    for service in NODES:
        assert project.password not in json.dumps(project.inspect(service))
        assert project.password not in docker("logs", project.container(service))
        seen = docker(
            "exec",
            project.container(service),
            "sh",
            "-c",
            "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '",
        )
        assert "postgres -D" in seen
        assert project.password not in seen


def test_the_first_process_is_no_root_and_leaves_no_zombies(project: Project) -> None:
    container = project.container("worker-1")
    assert docker("exec", container, "sed", "-n", r"s/^Uid:\s*\([0-9]*\).*/\1/p", "/proc/1/status") != "0"
    # Orphans become children of the first process, which has to ask how they ended.
    docker("exec", container, "sh", "-c", "for n in 1 2 3; do (sleep 0.1 &); done; sleep 0.3")

    def zombies() -> str:
        return docker("exec", container, "sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep ') Z ' || true")

    wait_until("the orphans to be gone", lambda: not zombies(), deadline_s=5)


def test_containers_that_are_stopped_and_made_anew_keep_their_place_and_data(project: Project) -> None:
    before = project.ask("SELECT nodeid, groupid, nodename, nodeport FROM pg_dist_node ORDER BY nodeid")
    project.compose("stop", *NODES)
    assert [project.inspect(service)["State"]["ExitCode"] for service in NODES] == [0, 0, 0]
    old = {service: project.container(service) for service in NODES}
    project.compose("up", "-d", "--no-build", "--force-recreate", *reversed(NODES))
    assert not {project.container(service) for service in NODES} & set(old.values())
    project.wait_healthy()
    assert project.ask("SELECT nodeid, groupid, nodename, nodeport FROM pg_dist_node ORDER BY nodeid") == before
    assert project.ask("SELECT count(*) FROM items") == "100"
    assert project.ask("SELECT count(*) FROM items", "worker-2") == "100"


def test_bad_input_ends_the_container_with_its_exit_code(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--env", "POSTGRES_PASSWORD=x", "--env", "CITUS_ROLE=wroker", image],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "citus-node: CITUS_ROLE='wroker' is no role: say coordinator or worker\n",
    )
