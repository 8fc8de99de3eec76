"""Faults of whole nodes: killed, frozen, restarted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.faults.site import Site
from harness.faults.undoing import start, start_all
from harness.postgres.postmaster import StopMode
from harness.postgres.server_node import ServerNode


@contextmanager
def node_killed(node: ServerNode) -> Iterator[ServerNode]:
    """SIGKILL to a node's postmaster and all its children, as when its machine dies; started again at the end.

    Runs on that node. Sessions end with 08006 at their clients; the other nodes' cached connections to it are found
    dead when they are next used (docs/clusters.md, *Faults*). What it had prepared is still prepared afterwards.
    Leaves: the node running, recovered from its WAL.

    Args:
        node: a server of our own.

    Raises:
        ServerStartError: at the end, where it does not start.
    """
    try:
        node.kill()
        yield node
    finally:
        start(node)


@contextmanager
def node_frozen(node: ServerNode) -> Iterator[ServerNode]:
    """SIGSTOP to all processes of a node: connections stay open, the kernel still accepts, and nothing answers.

    Runs on that node. No timeout of a server ends a wait for it, only a client's own deadline (ha.md, 2: keepalives do
    not help); a new connection from another node gives up after ``citus.node_connection_timeout``.
    Leaves: the node running. One that was killed meanwhile is started.

    Args:
        node: a server of our own.

    Raises:
        ServerError: it is not running.
        ServerStartError: at the end, where it was killed and does not start.
    """
    try:
        node.freeze()
        yield node
    finally:
        if node.is_running:
            node.thaw()
        start(node)


def restart_all(site: Site, mode: StopMode = "fast") -> None:
    """Stop every node, the coordinator first, and start all again.

    Runs on all nodes. All sessions end; transactions that were prepared stay. Leaves: all nodes running.

    Args:
        site: the nodes.
        mode: ``fast`` ends sessions in order, ``immediate`` leaves recovery to the start.

    Raises:
        WaitTimeoutError: a node did not stop; it and all others run afterwards.
        ServerStartError: a node did not start.
    """
    try:
        for node in site.nodes:
            node.stop(mode)
    finally:
        start_all(site.nodes)
