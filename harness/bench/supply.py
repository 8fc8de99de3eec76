"""Gives the groups of a run their servers: one cluster and one server for all, a database of its own each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

from harness.bench.places import BenchPlace, open_cluster, open_server
from harness.chain.runner import upgrade
from harness.clusters.providers import Provider
from harness.postgres import Installation


class Supply:
    """Servers that groups share; each group gets a database of its own, at the head of the chain.

    Attributes:
        provider: who makes clusters; None: there is no Citus.
        missing: why there is none; empty if there is.
    """

    def __init__(
        self, provider: Provider | None, missing: str = "", *, installation: Installation | None = None
    ) -> None:
        self.provider = provider
        self.missing = missing
        self._installation = installation
        self._stack = ExitStack()
        self._cluster: BenchPlace | None = None
        self._server: BenchPlace | None = None
        self._numbers = count(1)

    def close(self) -> None:
        """Destroy the servers."""
        self._stack.close()

    @contextmanager
    def cluster(self) -> Iterator[BenchPlace]:
        """A database of its own on the run's 1+2; dropped after the block.

        Raises:
            RuntimeError: there is no Citus; ask `provider` first.
        """
        if self.provider is None:
            raise RuntimeError(f"no cluster: {self.missing}")
        if self._cluster is None:
            self._cluster = self._stack.enter_context(open_cluster(self.provider))
        with self._database(self._cluster) as place:
            yield place

    @contextmanager
    def server(self) -> Iterator[BenchPlace]:
        """A database of its own on the run's plain server; dropped after the block."""
        if self._server is None:
            self._server = self._stack.enter_context(open_server(self._installation))
        with self._database(self._server) as place:
            yield place

    @contextmanager
    def _database(self, place: BenchPlace) -> Iterator[BenchPlace]:
        dbname = f"bench_{next(self._numbers)}"
        place.create_database(dbname)
        try:
            own = place.of_database(dbname)
            upgrade(own.dsn)
            yield own
        finally:
            place.drop_database(dbname)
