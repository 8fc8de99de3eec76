"""What Citus says on a connection: is it there, placements, nodes, shards, row estimates, a statement on every node."""

from __future__ import annotations

from harness.citus.catalog import (
    Connection,
    Kind,
    Placement,
    Presence,
    Relation,
    fetch_nodes,
    fetch_placement,
    fetch_presence,
    fetch_relation,
    fetch_workers,
    has_citus,
)
from harness.citus.commands import NodeAnswer, NodesFailedError, ask_nodes, require_all, run_on_nodes
from harness.citus.shards import RowEstimate, Shard, ShardPlacement, fetch_row_estimate, fetch_shards
from harness.clusters.topology import NodeRecord

__all__ = [
    "Connection",
    "Kind",
    "NodeAnswer",
    "NodeRecord",
    "NodesFailedError",
    "Placement",
    "Presence",
    "Relation",
    "RowEstimate",
    "Shard",
    "ShardPlacement",
    "ask_nodes",
    "fetch_nodes",
    "fetch_placement",
    "fetch_presence",
    "fetch_relation",
    "fetch_row_estimate",
    "fetch_shards",
    "fetch_workers",
    "has_citus",
    "require_all",
    "run_on_nodes",
]
