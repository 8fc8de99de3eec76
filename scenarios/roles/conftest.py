"""The entry point where the servers' user can run it, and nodes that are gone after the test."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from harness.postgres import Installation
from harness.postgres.binaries import readable_by
from harness.postgres.identity import server_user
from harness.postgres.lifetime import OwnedDirectory
from harness.postgres.passwords import make_password
from scenarios.roles.role_nodes import RoleNode

DOCKER = Path(__file__).parents[2] / "docker"


class MakeNode(Protocol):
    """What the fixture `make_node` gives."""

    def __call__(self, name: str, *, volume: str = "plain", **variables: str) -> RoleNode:
        """Make a node that is not started; Citus is on unless ``CITUS_ENABLE`` says otherwise.

        Its volume is a copy of one that a plain node made, which saves initdb's half a second; with ``empty``
        it has none.
        """


@dataclass(frozen=True)
class RoleCluster:
    """A coordinator and the workers that registered themselves with it."""

    coordinator: RoleNode
    workers: list[RoleNode] = field(default_factory=list)

    @property
    def nodes(self) -> list[RoleNode]:
        return [self.coordinator, *self.workers]


def worker_of(coordinator: RoleNode) -> dict[str, str]:
    """The variables that make a node a worker of this coordinator."""
    return {
        "CITUS_ROLE": "worker",
        "CITUS_COORDINATOR_HOST": "127.0.0.1",
        "CITUS_COORDINATOR_PORT": str(coordinator.port),
    }


@pytest.fixture(scope="session")
def node_binaries(citus_installation: Installation) -> Installation:
    """A local PostgreSQL with Citus: the entry point runs on it."""
    return readable_by(citus_installation, server_user())


@pytest.fixture(scope="session")
def node_program() -> Iterator[Path]:
    """A copy of the entry point: the servers' user may have no way into the checkout."""
    owned = OwnedDirectory.make(f"role-program-{secrets.token_hex(3)}", "temporary")
    program = owned.path / "citus-node"
    for name in ("lib", "sql"):
        shutil.copytree(DOCKER / name, owned.path / name)
    shutil.copy(DOCKER / "citus-node", program)
    for path in (owned.path, *owned.path.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path == program else 0o644)
    yield program
    owned.remove()


@pytest.fixture(scope="session")
def cluster_password() -> str:
    """The password of all nodes."""
    return make_password()


@pytest.fixture(scope="session")
def plain_volume(node_program: Path, node_binaries: Installation, cluster_password: str) -> Iterator[Path]:
    """The data of a node that never had Citus."""
    node = RoleNode("template", node_program, node_binaries, server_user(), cluster_password)
    try:
        node.start()
        assert node.stop() == 0
        yield node.data_dir
    finally:
        node.destroy()


def _making(program: Path, installation: Installation, password: str, plain: Path) -> Iterator[MakeNode]:
    made: list[RoleNode] = []

    def make(name: str, *, volume: str = "plain", **variables: str) -> RoleNode:
        node = RoleNode(name, program, installation, server_user(), password)
        made.append(node)
        if volume == "plain":
            node.copy_volume(plain)
        node.environment |= {"CITUS_ENABLE": "true", **variables}
        return node

    yield make
    failures: list[Exception] = []
    for node in reversed(made):
        try:
            node.destroy()
        except Exception as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("nodes of this test could not be removed", failures)


@pytest.fixture
def make_node(
    node_program: Path, node_binaries: Installation, cluster_password: str, plain_volume: Path
) -> Iterator[MakeNode]:
    """Makes nodes for one test."""
    yield from _making(node_program, node_binaries, cluster_password, plain_volume)


@pytest.fixture(scope="module")
def make_module_node(
    node_program: Path, node_binaries: Installation, cluster_password: str, plain_volume: Path
) -> Iterator[MakeNode]:
    """Makes nodes that the tests of one file share."""
    yield from _making(node_program, node_binaries, cluster_password, plain_volume)


def start_cluster(make: MakeNode, *, workers: int = 2) -> RoleCluster:
    """A coordinator and its workers, all started at once."""
    coordinator = make("coordinator")
    cluster = RoleCluster(coordinator, [make(f"worker-{n + 1}", **worker_of(coordinator)) for n in range(workers)])
    for node in cluster.nodes:
        node.begin()
    for node in cluster.nodes:
        node.wait_ready()
    return cluster
