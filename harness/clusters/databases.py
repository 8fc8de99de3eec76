"""Databases on all nodes of a cluster at once, with Citus in them and all nodes registered."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Generic

from psycopg import sql
from typing_extensions import TypeVar

from harness.clusters.cluster import Cluster, in_parallel
from harness.postgres.administered import AdministeredNode, NodeDatabase

AdministeredT_co = TypeVar("AdministeredT_co", bound=AdministeredNode, default=AdministeredNode, covariant=True)


class DatabaseCluster(Cluster[AdministeredT_co], Generic[AdministeredT_co]):
    """A cluster on which we may make databases."""

    # The database that others are copied from, once there is one: its name is no one else's.
    _database_template: str | None = None

    def create_database(self, dbname: str, *, template: str | None = None) -> None:
        """Make a database on all nodes, with Citus in it and all nodes registered, at once.

        The first call makes a template of it (0.5 s); each database after that is a copy on every node (0.03 s).

        Args:
            dbname: its name, on every node.
            template: one that `close_as_template` was called for, to copy instead.

        Raises:
            psycopg.Error: a node said no, such as when it is there already.
            ExceptionGroup: several nodes said no.
        """
        if template is None and self._database_template is None:
            # Known before it is whole: what fails half way is dropped with the rest.
            self._database_template = f"harness_citus_template_{secrets.token_hex(4)}"
            self._make_database_template(self._database_template)
        source, nodes = template or self._database_template, _as_administered(self.nodes)
        in_parallel(lambda node: node.create_database(dbname, template=source), nodes)

    def _make_database_template(self, name: str) -> None:
        nodes = _as_administered(self.nodes)
        in_parallel(lambda node: node.create_database(name), nodes)
        in_parallel(lambda node: node.sql("CREATE EXTENSION citus", dbname=name), nodes)
        join_nodes(self.coordinator, self.workers, dbname=name)
        self.close_as_template(name)

    def close_as_template(self, name: str) -> None:
        """Close a database on all nodes, so that `create_database` can copy it; nobody gets in again."""
        self.close()

        def shut(node: AdministeredNode) -> None:
            # A template must be left by all, Citus' own daemon included.
            node.sql(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false IS_TEMPLATE true").format(sql.Identifier(name)))
            node.sql(
                "SELECT pg_catalog.pg_terminate_backend(pid::int, 10000::bigint) FROM pg_catalog.pg_stat_activity"
                " WHERE datname = %s",
                [name],
            )

        in_parallel(shut, self.nodes)

    def view(self, dbname: str) -> Cluster[AdministeredNode]:
        """One database of all nodes, as a cluster of its own: its verbs ask that database. Close it when done."""
        coordinator, *workers = (NodeDatabase(node, dbname) for node in self.nodes)
        return Cluster(dbname, coordinator, workers)

    @contextlib.contextmanager
    def temporary_database(
        self, prefix: str = "test", *, template: str | None = None
    ) -> Iterator[Cluster[AdministeredNode]]:
        """A new database on all nodes for a block, as `view` gives it; dropped after it, also if it was half made.

        Args:
            prefix: how its name begins.
            template: as for `create_database`.
        """
        dbname = f"{prefix}_{secrets.token_hex(6)}"
        try:
            self.create_database(dbname, template=template)
            with self.view(dbname) as view:
                yield view
        finally:
            self.drop_database(dbname)

    def drop_database(self, dbname: str) -> None:
        """Drop a database on all nodes at once, ending the sessions in it, Citus' own included."""

        def drop(node: AdministeredNode) -> None:
            node.close()
            node.drop_database(dbname)

        in_parallel(drop, self.nodes)

    def drop_database_template(self) -> None:
        """Drop what `create_database` copies from, where the cluster outlives this object."""
        name, self._database_template = self._database_template, None
        if name is not None:
            self.drop_template(name)

    def drop_template(self, name: str) -> None:
        """Drop a database for which `close_as_template` was called."""

        def drop(node: AdministeredNode) -> None:
            if node.rows("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name]):
                node.sql(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name)))
                node.drop_database(name)

        in_parallel(drop, self.nodes)


def _as_administered(nodes: Sequence[AdministeredNode]) -> Sequence[AdministeredNode]:
    # mypy lets no type variable of a result into a lambda.
    return nodes


def join_nodes(
    coordinator: AdministeredNode, workers: Sequence[AdministeredNode], *, dbname: str | None = None
) -> None:
    """Register all nodes, on the coordinator, in two round trips; each worker gets the metadata."""
    host, port = coordinator.address
    coordinator.sql("SELECT pg_catalog.citus_set_coordinator_host(%s, %s::int)", [host, port], dbname=dbname)
    if workers:
        addresses = [worker.address for worker in workers]
        coordinator.sql(
            "SELECT pg_catalog.citus_add_node(host, port) FROM unnest(%s::text[], %s::int[]) AS n(host, port)",
            [[each[0] for each in addresses], [each[1] for each in addresses]],
            dbname=dbname,
        )
    else:
        # A registered coordinator takes no shards of its own accord; alone it has to (ha.md, 5).
        coordinator.sql(
            "SELECT pg_catalog.citus_set_node_property(%s, %s::int, 'shouldhaveshards', true)",
            [host, port],
            dbname=dbname,
        )
