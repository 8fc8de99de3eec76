"""The servers that benchmarks run on: of their own, on this machine, removed afterwards; durable, as by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from harness.clusters import RunningCluster, prove_topology
from harness.clusters.providers import Provider
from harness.faults import Site
from harness.postgres import Installation, Server, choose_installation, temporary_server
from harness.postgres.deadlines import DeadlineConnection

DBNAME = "bench"
# Equal for all that is compared, and small enough for a laptop. fsync and synchronous_commit stay on.
SETTINGS: Mapping[str, str] = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
    "jit": "off",
    "work_mem": "64MB",
}


@dataclass(frozen=True)
class BenchPlace:
    """A database on servers of our own.

    Attributes:
        site: the nodes and the database.
        facts: versions and what it is made of.
        makes: what makes and drops databases of it.
    """

    site: Site
    facts: Mapping[str, str]
    makes: RunningCluster | Server

    @property
    def dsn(self) -> str:
        """Of the database, on the coordinator or the one server."""
        return self.site.coordinator.dsn(self.site.dbname)

    @property
    def worker_dsns(self) -> tuple[str, ...]:
        """Of the same database on each worker; none on one server."""
        return tuple(node.dsn(self.site.dbname) for node in self.site.workers)

    def connect(self) -> DeadlineConnection:
        """An autocommit connection to the coordinator or the one server; whoever opens it closes it."""
        return DeadlineConnection.connect(self.dsn, autocommit=True, prepare_threshold=None)

    def create_database(self, dbname: str) -> None:
        """Make another database, with Citus in it where this is a cluster."""
        self.makes.create_database(dbname)

    def drop_database(self, dbname: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.makes.drop_database(dbname)

    def of_database(self, dbname: str) -> BenchPlace:
        """The same servers, another database of theirs."""
        return replace(self, site=replace(self.site, dbname=dbname))


@contextmanager
def open_cluster(
    provider: Provider, *, workers: int = 2, settings: Mapping[str, str] | None = None
) -> Iterator[BenchPlace]:
    """A Citus cluster, with an empty database of its own; destroyed after the block.

    Args:
        provider: who makes it.
        workers: how many.
        settings: beside `SETTINGS`, on every node.

    Raises:
        HarnessError: it could not be started.
    """
    cluster = provider.start(workers=workers, settings={**SETTINGS, **(settings or {})}, name="bench")
    try:
        prove_topology(cluster, workers=workers)
        cluster.create_database(DBNAME)
        facts = {
            "PostgreSQL": provider.postgres_version,
            "Citus": provider.citus_version,
            "cluster": f"1+{workers}, {provider.label}",
        }
        yield BenchPlace(Site.of_cluster(cluster, DBNAME), facts, cluster)
    finally:
        cluster.destroy()


@contextmanager
def open_server(
    installation: Installation | None = None, *, settings: Mapping[str, str] | None = None
) -> Iterator[BenchPlace]:
    """One plain PostgreSQL, with an empty database of its own; destroyed after the block.

    Args:
        installation: which PostgreSQL; default: the one that is chosen where nobody says.
        settings: beside `SETTINGS`.

    Raises:
        BinariesNotFoundError: there is no PostgreSQL.
        HarnessError: it could not be started.
    """
    chosen = installation or choose_installation()
    with temporary_server(chosen, name="bench", settings={**SETTINGS, **(settings or {})}) as server:
        server.create_database(DBNAME)
        facts = {"PostgreSQL": chosen.version, "Citus": "none", "cluster": "none: one server"}
        yield BenchPlace(Site.of_server(server, DBNAME), facts, server)
