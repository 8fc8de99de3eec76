"""Faults: what breaks a cluster of ours for a block, and is always undone at its end."""

from __future__ import annotations

from harness.faults.backends import (
    Backend,
    backend_frozen,
    backend_killed,
    fetch_backends,
    kill_process,
    process_frozen,
    terminate_backend,
)
from harness.faults.links import Link, linked
from harness.faults.nodes import node_frozen, node_killed, restart_all
from harness.faults.proxy import Direction, Mode, Proxy
from harness.faults.registry import FAULTS, Fault
from harness.faults.resources import connections_used_up, disk_full, small_disk
from harness.faults.site import Site
from harness.faults.topology import (
    fetch_placements,
    move_shard,
    rebalance,
    shard_moved,
    worker_added,
    worker_drained,
    worker_removed,
)
from harness.faults.transactions import (
    citus_gid,
    commits_held,
    fetch_prepared,
    foreign_gid,
    leases_expired,
    prepared,
    recover,
    wait_for_decision,
)
from harness.faults.undoing import insist, wait_for_workers

__all__ = [
    "FAULTS",
    "Backend",
    "Direction",
    "Fault",
    "Link",
    "Mode",
    "Proxy",
    "Site",
    "backend_frozen",
    "backend_killed",
    "citus_gid",
    "commits_held",
    "connections_used_up",
    "disk_full",
    "fetch_backends",
    "fetch_placements",
    "fetch_prepared",
    "foreign_gid",
    "insist",
    "kill_process",
    "leases_expired",
    "linked",
    "move_shard",
    "node_frozen",
    "node_killed",
    "prepared",
    "process_frozen",
    "rebalance",
    "recover",
    "restart_all",
    "shard_moved",
    "small_disk",
    "terminate_backend",
    "wait_for_decision",
    "wait_for_workers",
    "worker_added",
    "worker_drained",
    "worker_removed",
]
