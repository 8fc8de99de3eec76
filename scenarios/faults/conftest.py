"""A cluster and a server to break, for all tests here: every fault is undone, so the next test finds them whole.

One that a failed test may have left dirty is thrown away, and the next test gets another.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from harness.clusters import Provider, RunningCluster, prove_topology
from harness.faults import Site
from harness.postgres import Installation, Server
from scenarios.faults.stages import DBNAME, PLACEMENTS, Stage, prepare
from scenarios.faults.stepping import Stepping, stepping
from scenarios.fixtures.clusters import watched
from scenarios.fixtures.skips import skip_not_applicable

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether a test failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


class Grounds:
    """Keeps the cluster and the server that the tests here break."""

    def __init__(self) -> None:
        self._cluster: tuple[RunningCluster, Stage] | None = None
        self._server: tuple[Server, Stage] | None = None

    def cluster(self, provider: Provider) -> tuple[RunningCluster, Stage]:
        """A 1+2 with stream tables of each placement, and two over one source."""
        if self._cluster is None:
            cluster = provider.start(workers=2)
            try:
                cluster.create_database(DBNAME)
                stage = prepare(Site.of_cluster(cluster, DBNAME), (*PLACEMENTS, "shared"))
            except BaseException:
                cluster.destroy()
                raise
            self._cluster = (cluster, stage)
        return self._cluster

    def server(self, installation: Installation) -> Stage:
        """One plain server with stream tables."""
        if self._server is None:
            server = Server.create(installation, name="broken", settings={"max_prepared_transactions": "10"})
            try:
                server.start()
                server.create_database(DBNAME)
                stage = prepare(Site.of_server(server, DBNAME), ("local", "shared"))
            except BaseException:
                server.destroy()
                raise
            self._server = (server, stage)
        return self._server[1]

    def throw_cluster_away(self) -> None:
        """Destroy it, if there is one."""
        made, self._cluster = self._cluster, None
        if made is not None:
            made[1].hang_up()
            made[0].destroy()

    def throw_server_away(self) -> None:
        """Destroy it, if there is one."""
        made, self._server = self._server, None
        if made is not None:
            made[1].hang_up()
            made[0].destroy()


@pytest.fixture(scope="session")
def grounds() -> Iterator[Grounds]:
    """What keeps them; tests use `stage` or `plain_stage`."""
    made = Grounds()
    yield made
    made.throw_cluster_away()
    made.throw_server_away()


@pytest.fixture
def stage(grounds: Grounds, cluster_provider: Provider, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A cluster to break, proven before and after, its logs read."""
    if not cluster_provider.can_start:
        skip_not_applicable("an existing cluster is neither started nor broken")
    if cluster_provider.kind != "local":
        skip_not_applicable(
            "proxies between nodes, and single processes, need nodes that are processes of this machine"
        )
    cluster, made = grounds.cluster(cluster_provider)
    try:
        prove_topology(cluster, workers=2, dbname=DBNAME)
        with watched(cluster, request):
            yield made
        prove_topology(cluster, workers=2, dbname=DBNAME)
    except BaseException:
        grounds.throw_cluster_away()
        raise
    if request.node.stash.get(_FAILED, False):
        grounds.throw_cluster_away()


@pytest.fixture
def plain_stage(grounds: Grounds, installation: Installation, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """One server to break."""
    yield grounds.server(installation)
    if request.node.stash.get(_FAILED, False):
        grounds.throw_server_away()


@pytest.fixture(scope="session")
def steps_process() -> Iterator[Stepping]:
    """A process that refreshes and stops where it is told to."""
    with stepping() as made:
        yield made


@pytest.fixture
def steps(steps_process: Stepping, request: pytest.FixtureRequest) -> Iterator[Stepping]:
    """That process, standing nowhere."""
    yield steps_process
    if request.node.stash.get(_FAILED, False):
        steps_process.begin_anew()
