"""Undoing: what every fault ends with, however its block ended, and also on nodes that died meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import psycopg

from harness.errors import HarnessError, ServerError, WaitTimeoutError
from harness.faults.site import Site
from harness.postgres.server_node import ServerNode
from harness.waiting import wait_until

# A node that was killed recovers within a second; a lock that somebody holds goes with its statement.
UNDO_DEADLINE_S = 60.0
# One try of it: what has not come by then waits for a lock, or for a frozen node.
TRY_DEADLINE_S = 15.0


def insist(label: str, action: Callable[[], object], *, deadline_s: float = UNDO_DEADLINE_S) -> None:
    """Do something again and again until it succeeds, since nodes may still be starting.

    Args:
        label: what is being done, for the error.
        action: does it; may be called several times.
        deadline_s: give up after this many seconds.

    Raises:
        WaitTimeoutError: it never did; says why the last time.
    """
    last: list[Exception] = []

    def tried() -> bool:
        try:
            action()
        except (psycopg.Error, HarnessError) as error:
            last[:] = [error]
            return False
        return True

    try:
        wait_until(label, tried, deadline_s=deadline_s)
    except WaitTimeoutError as error:
        reason = str(last[0]).strip().splitlines()[0] if last else None
        raise WaitTimeoutError(label, elapsed_s=error.elapsed_s, last_value=reason) from (last[0] if last else None)


def start(node: ServerNode) -> None:
    """Start a node unless it runs, and wait until it answers; one that ended while it started is started once more.

    Raises:
        ServerStartError: it does not start.
    """
    if node.is_running:
        # It may be recovering from the crash of a backend, and tells who comes so.
        insist(f"{node.name} to be ready", node.wait_ready)
        return
    try:
        node.start()
    except ServerError:
        node.start()


def start_all(nodes: Iterable[ServerNode]) -> None:
    """`start`, for every node, whatever happens to the others.

    Raises:
        Exception: the last failure; those before it are its context.
    """
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(start, node)


def wait_for_workers(site: Site, *, deadline_s: float = UNDO_DEADLINE_S) -> None:
    """Wait until the coordinator reaches every node, and every worker the others.

    Raises:
        WaitTimeoutError: one does not answer; says which.
    """
    if not site.workers:
        return

    def reached() -> None:
        rows = site.rows(
            "SELECT from_nodeport, to_nodeport FROM pg_catalog.citus_check_cluster_node_health()"
            " WHERE result IS DISTINCT FROM true",
            deadline_s=TRY_DEADLINE_S,
        )
        if rows:
            missing = ", ".join(f"{near} to {far}" for near, far in rows)
            raise ServerError(f"no connection from port {missing}")

    insist("the nodes to reach each other", reached, deadline_s=deadline_s)
