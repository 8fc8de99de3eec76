"""Where a fault happens: the servers of one cluster, or one plain server, and the database that is being looked at."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from harness.clusters.running import RunningCluster
from harness.errors import BadInputError
from harness.postgres.node import Params, Query
from harness.postgres.server import Server
from harness.postgres.server_node import ServerNode

if TYPE_CHECKING:
    from harness.faults.links import Link


@dataclass(frozen=True)
class Site:
    """Servers of our own, and one database of theirs. Nobody else's server is ever broken.

    Attributes:
        nodes: the servers, the coordinator first; one alone is a plain PostgreSQL, or a Citus without workers.
        dbname: the database; it is there on every node.
        has_citus: whether the nodes are a Citus cluster.
        links: proxies that are already between the coordinator and a worker, by the worker's name; see `linked`. A
            fault of a link takes one that is there, and puts one there for its own time otherwise.
    """

    nodes: tuple[ServerNode, ...]
    dbname: str
    has_citus: bool
    links: Mapping[str, Link] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of_cluster(cls, cluster: RunningCluster[Any], dbname: str = "postgres") -> Self:
        """The nodes of a cluster that was started by us."""
        return cls(tuple(cluster.nodes), dbname, has_citus=True)

    @classmethod
    def of_server(cls, server: ServerNode, dbname: str = "postgres") -> Self:
        """One plain PostgreSQL that was started by us."""
        return cls((server,), dbname, has_citus=False)

    @property
    def coordinator(self) -> ServerNode:
        """The node that clients talk to."""
        return self.nodes[0]

    @property
    def workers(self) -> tuple[ServerNode, ...]:
        """The other nodes, by group; none on one server."""
        return self.nodes[1:]

    @property
    def is_local(self) -> bool:
        """Whether every node is a process of this machine, whose children can be signalled."""
        return all(isinstance(node, Server) for node in self.nodes)

    def local(self, node: ServerNode) -> Server:
        """A node as a process of this machine.

        Raises:
            BadInputError: it runs elsewhere, where its processes are not ours to signal.
        """
        if not isinstance(node, Server):
            raise BadInputError(
                f"{node.name} is no process of this machine", hint="this fault needs a cluster of local processes"
            )
        return node

    def worker(self, rng: random.Random) -> ServerNode:
        """One of the workers.

        Raises:
            BadInputError: there is none.
        """
        if not self.workers:
            raise BadInputError("there is no worker", hint="this fault needs a cluster with workers")
        return rng.choice(self.workers)

    def rows(self, query: Query, params: Params = None, *, deadline_s: float | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query on the coordinator, in the database."""
        return self.coordinator.rows(query, params, dbname=self.dbname, deadline_s=deadline_s)

    def sql(self, query: Query, params: Params = None, *, deadline_s: float | None = None) -> None:
        """Run a statement on the coordinator, in the database."""
        self.coordinator.sql(query, params, dbname=self.dbname, deadline_s=deadline_s)
