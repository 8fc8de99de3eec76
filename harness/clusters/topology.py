"""What a cluster says about itself: its nodes as Citus has them, read on each node and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from harness.errors import CheckFailedError

if TYPE_CHECKING:
    from harness.clusters.cluster import Cluster
    from harness.postgres.node import Node

NODES_QUERY: LiteralString = """
    SELECT nodeid, groupid, nodename, nodeport, noderole::text, isactive, hasmetadata, metadatasynced, shouldhaveshards
      FROM pg_catalog.pg_dist_node
     ORDER BY groupid, nodeid
"""
VERSION_QUERY: LiteralString = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'"


@dataclass(frozen=True)
class NodeRecord:
    """One row of ``pg_dist_node``: a node as Citus knows it.

    Attributes:
        node_id, group_id: Citus' numbers; group 0 is the coordinator.
        host, port: where the other nodes reach it.
        role: ``primary`` or ``secondary``.
        is_active: False after ``citus_disable_node``.
        has_metadata, is_metadata_synced: whether it can be queried like the coordinator, and is up to date.
        should_have_shards: whether new shards are placed on it.
    """

    node_id: int
    group_id: int
    host: str
    port: int
    role: str
    is_active: bool
    has_metadata: bool
    is_metadata_synced: bool
    should_have_shards: bool


@dataclass(frozen=True)
class Topology:
    """A cluster as one of its nodes sees it.

    Attributes:
        group_id: which group the node that was asked belongs to.
        citus_version: of its extension, such as ``14.0-1``; None without the extension.
        nodes: all rows of its ``pg_dist_node``.
    """

    group_id: int | None
    citus_version: str | None
    nodes: tuple[NodeRecord, ...]

    @property
    def coordinator(self) -> NodeRecord | None:
        """The coordinator's row; None where it was never registered."""
        return next((node for node in self.nodes if node.group_id == 0 and node.role == "primary"), None)

    @property
    def workers(self) -> tuple[NodeRecord, ...]:
        """The primaries of all worker groups, by group."""
        return tuple(node for node in self.nodes if node.group_id > 0 and node.role == "primary")


def read_topology(node: Node, *, dbname: str | None = None) -> Topology:
    """Read ``pg_dist_node`` and what belongs to it, on ``node`` itself; changes nothing.

    Args:
        node: the node to ask.
        dbname: the database; None for the node's own.

    Returns:
        What that node believes; an empty topology where the database has no Citus.
    """
    found = node.rows(VERSION_QUERY, dbname=dbname)
    if not found:
        return Topology(None, None, ())
    group_id = node.value("SELECT groupid FROM pg_catalog.pg_dist_local_group", dbname=dbname)
    records = tuple(NodeRecord(*row) for row in node.rows(NODES_QUERY, dbname=dbname))
    return Topology(group_id, found[0][0], records)


def _problems(name: str, topology: Topology, expected: Sequence[NodeRecord], group_id: int) -> list[str]:
    problems = []
    if topology.citus_version is None:
        return [f"{name}: no Citus extension"]
    if topology.group_id != group_id:
        problems.append(f"{name}: believes to be group {topology.group_id}, is group {group_id}")
    if topology.nodes != tuple(expected):
        problems.append(f"{name}: its pg_dist_node differs from the coordinator's")
    return problems


def prove_topology(cluster: Cluster, *, workers: int | None = None, dbname: str | None = None) -> Topology:
    """Prove that this is a cluster: every node has Citus, knows all nodes, and knows who it is.

    A scenario calls this before it may pass: a test that runs with no Citus proves nothing (``style.md``).

    Args:
        cluster: the cluster; each of its nodes is asked.
        workers: how many workers there must be; None accepts any number.
        dbname: the database; None for each node's own.

    Returns:
        The topology as the coordinator has it.

    Raises:
        CheckFailedError: names every node that disagrees, and how.
    """
    seen = cluster.on_each(lambda node: read_topology(node, dbname=dbname))
    truth = seen[cluster.coordinator.name]
    problems = []
    if workers is not None and len(truth.workers) != workers:
        problems.append(f"{len(truth.workers)} workers are registered, {workers} were expected")
    if len(truth.workers) != len(cluster.workers):
        problems.append(f"{len(truth.workers)} workers are registered, {len(cluster.workers)} are running")
    for record in truth.workers:
        if not (record.is_active and record.has_metadata and record.is_metadata_synced):
            problems.append(f"group {record.group_id} at {record.host}:{record.port} is inactive or not synced")
    for group_id, node in enumerate(cluster.nodes):
        expected_group = 0 if node is cluster.coordinator else truth.workers[group_id - 1].group_id
        problems += _problems(node.name, seen[node.name], truth.nodes, expected_group)
    versions = {topology.citus_version for topology in seen.values()}
    if len(versions) > 1:
        problems.append(f"Citus differs between nodes: {sorted(map(str, versions))}")
    if problems:
        raise CheckFailedError(
            f"{cluster.name} is not the cluster that it should be: " + "; ".join(problems),
            hint="throw it away and start another",
        )
    return truth
