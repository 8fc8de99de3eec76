"""The network between nodes on one machine: workers are registered at a proxy, and the proxy misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

from harness.errors import ServerError
from harness.faults.proxy import Direction, Mode, Proxy
from harness.faults.site import Site
from harness.faults.undoing import TRY_DEADLINE_S, insist, start_all
from harness.postgres.server_node import ServerNode

# Whoever holds a lock on a placement is ended after this time, in milliseconds: no statement of a test takes longer.
_LOCK_COOLDOWN_MS = 2000
_AT: LiteralString = "SELECT FROM pg_catalog.pg_dist_node WHERE nodename = %s AND nodeport = %s"
_PLACES: LiteralString = "SELECT nodename, nodeport FROM pg_catalog.pg_dist_node"


@dataclass(frozen=True)
class Link:
    """The way to one worker: every other node, and this process when it asks pg_dist_node, comes through the proxy.

    Attributes:
        worker: to whom.
        proxy: what lies between.
    """

    worker: ServerNode
    proxy: Proxy

    @contextmanager
    def broken(self, mode: Mode, *, latency_s: float = 0.0, direction: Direction = "both") -> Iterator[None]:
        """The link in another mode for a block; passing again after it.

        Args:
            mode: see `Proxy`.
            latency_s: for ``slow``: how long each piece of data is held, in seconds.
            direction: for ``black_hole`` and ``slow``: ``forth`` is to the worker, ``back`` its answers.
        """
        try:
            self.proxy.set_mode(mode, latency_s=latency_s, direction=direction)
            yield
        finally:
            self.proxy.set_mode("pass")


@contextmanager
def linked(site: Site, worker: ServerNode) -> Iterator[Link]:
    """Put a proxy between a worker and all who reach it by pg_dist_node; the address is put back at the end.

    Runs on the coordinator: ``citus_update_node`` there, whose change Citus brings to every node in the same
    transaction; it is awaited on each. It locks the worker's shards, and ends who holds them for longer than 2 s.
    Sessions that have a connection to the worker already keep it; new statements of theirs go through the proxy.
    Leaves: pg_dist_node as it was, on every node; nodes that died meanwhile are started for that.

    Args:
        site: a cluster on this machine's loopback.
        worker: one of its workers.

    Raises:
        WaitTimeoutError: a node did not take the change.
        ServerError: the worker is not registered.
    """
    home = worker.address
    proxy = Proxy((worker.host, worker.port))
    try:
        try:
            if not site.rows(_AT, list(home)):
                raise ServerError(f"{worker.name} is not registered at {home[0]}:{home[1]}", node=worker.name)
            insist(f"{worker.name} to be registered at the proxy", lambda: _move(site, home, proxy.address))
            yield Link(worker, proxy)
        finally:
            # Sessions that hang in the proxy hold locks that the way back needs.
            proxy.set_mode("cut")
            proxy.set_mode("pass")
            start_all(site.nodes)
            insist(f"{worker.name} to be registered as before", lambda: _move(site, proxy.address, home))
    finally:
        proxy.close()


def _move(site: Site, before: tuple[str, int], after: tuple[str, int]) -> None:
    """Register whoever is at an address at another one, by whatever number; nobody may be there."""
    site.sql(
        "SELECT pg_catalog.citus_update_node(nodeid, %s, %s::int, force => true, lock_cooldown => %s::int)"
        " FROM pg_catalog.pg_dist_node WHERE nodename = %s AND nodeport = %s",
        [*after, _LOCK_COOLDOWN_MS, *before],
        deadline_s=TRY_DEADLINE_S,
    )
    # A worker that is out of the cluster just now is not told, and knows nothing of it either.
    registered = {(str(host), int(port)) for host, port in site.rows(_PLACES)}
    for node in site.nodes:
        at = site.links[node.name].proxy.address if node.name in site.links else node.address
        if not registered & {at, before, after} and node is not site.coordinator:
            continue
        if node.rows(_AT, list(before), dbname=site.dbname, deadline_s=TRY_DEADLINE_S):
            raise ServerError(f"{node.name} still has {before[0]}:{before[1]}", node=node.name)
