"""What starting a cluster has in common, wherever its nodes run: timed phases, and no node left after a failure."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from harness.clusters.cluster import in_parallel, in_parallel_or_first
from harness.clusters.databases import join_nodes
from harness.clusters.template import NEW_IDENTITY
from harness.postgres.server_node import ServerNode

NodeT = TypeVar("NodeT", bound=ServerNode)
_numbers = itertools.count(1)


def next_cluster_name() -> str:
    """A name for messages, for who gave none."""
    return f"cluster-{next(_numbers)}"


class Phases:
    """Where the time goes, phase by phase.

    Attributes:
        seconds: of each phase that has ended, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started


def bring_up(
    names: Sequence[str], phases: Phases, *, create: Callable[[str], NodeT], launch: Callable[[Sequence[NodeT]], None]
) -> list[NodeT]:
    """Make nodes, start them, give each an identity and register them: the coordinator first.

    Args:
        names: of the nodes, the coordinator's first.
        phases: gets ``copy``, ``start``, ``identity`` and ``join``.
        create: makes one node, not started, as a copy of a template; called in threads, all at once.
        launch: starts all nodes; they need not be ready.

    Returns:
        The running nodes, in the order of ``names``.

    Raises:
        Exception: the first that failed; every node was destroyed.
    """
    made: list[NodeT] = []

    def one(name: str) -> NodeT:
        server = create(name)
        made.append(server)  # also when another one fails: then this one is destroyed
        return server

    try:
        with phases.phase("copy"):
            servers = in_parallel_or_first(one, names)
        with phases.phase("start"):
            launch(servers)
            in_parallel_or_first(lambda server: server.wait_ready(), servers)
        with phases.phase("identity"):
            in_parallel_or_first(lambda server: server.sql(NEW_IDENTITY), servers)
        with phases.phase("join"):
            join_nodes(servers[0], servers[1:])
    except BaseException as error:
        _tear_down(made, error)
        raise
    return servers


def _tear_down(servers: Sequence[ServerNode], cause: BaseException) -> None:
    """Remove every node of a start that failed; what cannot be removed is added to the cause as a note."""
    try:
        in_parallel(lambda server: server.discard(), servers)
    except Exception as error:
        cause.add_note(f"and the nodes could not be removed: {error}")
