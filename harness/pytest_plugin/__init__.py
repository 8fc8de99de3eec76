"""Fixtures for the tests of other projects: servers, Citus clusters, databases at the chain's end, stream tables.

pytest loads it by the entry point ``trickle``. Unused it costs nothing: only the standard library and pytest are
imported here, everything else by the first fixture that a test asks for. See ``docs/pytest-plugin.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin.options import OPTIONS, TrickleOptions, add_options, read_options

if TYPE_CHECKING:
    from harness.clusters import Cluster
    from harness.clusters.databases import DatabaseCluster
    from harness.postgres import Node, Server
    from harness.pytest_plugin.supply import MakeCitusCluster
    from harness.trickle import StreamTables


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--trickle-...`` and the ini settings of the same names."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Options are checked before anything runs.

    Raises:
        pytest.UsageError: a value cannot be used; names it.
    """
    config.stash[OPTIONS] = read_options(config)


def _supply() -> ModuleType:
    """What makes servers and clusters; imported by the first fixture that is used."""
    from harness.pytest_plugin.logs import configure_logs  # noqa: PLC0415

    configure_logs()
    from harness.pytest_plugin import supply  # noqa: PLC0415

    return supply


@pytest.fixture(scope="session")
def trickle_options(pytestconfig: pytest.Config) -> TrickleOptions:
    """What the options and ini settings of this run say."""
    return pytestconfig.stash[OPTIONS]


@pytest.fixture(scope="session")
def postgres_server(trickle_options: TrickleOptions, pytestconfig: pytest.Config) -> Iterator[Server]:
    """A PostgreSQL server of this run (with xdist: of this worker), that all tests share; removed at its end.

    Tests must not stop it or change its settings. For a database of a test's own: `postgres_database`.
    """
    with _supply().server(trickle_options, pytestconfig) as made:
        yield made


@pytest.fixture
def postgres_database(postgres_server: Server) -> Iterator[Node]:
    """A new, empty database on `postgres_server`; dropped after the test."""
    with postgres_server.temporary_database() as made:
        yield made


@pytest.fixture(scope="session")
def citus_cluster(trickle_options: TrickleOptions, pytestconfig: pytest.Config) -> Iterator[DatabaseCluster]:
    """A Citus cluster of this run (with xdist: of this worker), that all tests share: a coordinator and two workers.

    It has proven its topology: every node knows all others. Tests must not break it; `citus_cluster_factory` makes
    clusters for that. For a database of a test's own: `cluster_database`. Where no cluster can be had, the test is
    skipped with the reason, or fails with it if ``trickle_require`` is set.
    """
    with _supply().cluster(trickle_options, pytestconfig) as made:
        yield made


@pytest.fixture
def cluster_database(citus_cluster: DatabaseCluster) -> Iterator[Cluster]:
    """A new database on all nodes of `citus_cluster`, Citus in it, all nodes registered; dropped after the test."""
    with _supply().database_of_cluster(citus_cluster) as made:
        yield made


@pytest.fixture
def citus_cluster_factory(trickle_options: TrickleOptions, pytestconfig: pytest.Config) -> Iterator[MakeCitusCluster]:
    """Starts clusters that a test may break: stop, kill, freeze, cut off; all are removed after the test."""
    with _supply().cluster_factory(trickle_options, pytestconfig) as make:
        yield make


@pytest.fixture
def migrated(trickle_options: TrickleOptions, request: pytest.FixtureRequest) -> Cluster:
    """A new database at the end of the migration chain, where stream tables can be made; dropped after the test.

    It is on `citus_cluster`; with ``trickle_cluster = none`` on `postgres_server`, as a cluster without workers.
    """
    # Asked for by name: whoever wants no cluster must not start one.
    name = "postgres_database" if trickle_options.cluster == "none" else "cluster_database"
    made: Cluster = _supply().migrate(request.getfixturevalue(name))
    return made


@pytest.fixture
def stream_tables(migrated: Cluster) -> Iterator[StreamTables]:
    """The stream tables of `migrated`: `harness.trickle.StreamTables`, on a connection of its own."""
    with _supply().stream_tables_of(migrated) as made:
        yield made
