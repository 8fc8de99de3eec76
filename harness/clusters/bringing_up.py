"""What starting a cluster has in common, wherever its nodes run: timed phases, and no node left after a failure."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from harness.clusters.cluster import in_parallel, in_parallel_or_first, results_or_first
from harness.clusters.databases import join_nodes
from harness.clusters.template import NEW_IDENTITY
from harness.errors import BadInputError
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
    names: Sequence[str],
    phases: Phases,
    settings: Mapping[str, str],
    *,
    create: Callable[[str], NodeT],
    launch: Callable[[Sequence[NodeT]], None],
) -> list[NodeT]:
    """Make nodes, start them, give each an identity and register them: the coordinator first.

    Args:
        names: of the nodes, the coordinator's first.
        phases: gets ``copy``, ``start``, ``identity`` and ``join``.
        settings: what ``create`` gives each node; those of Citus must be in force afterwards.
        create: makes one node, not started, as a copy of a template; called in threads, all at once.
        launch: starts all nodes; they need not be ready.

    Returns:
        The running nodes, in the order of ``names``.

    Raises:
        BadInputError: a setting of Citus that is none, or has no such value; names it.
        Exception: the first that failed; every node was destroyed.
    """
    made: list[NodeT] = []

    def one(name: str) -> NodeT:
        server = create(name)
        made.append(server)  # also when another one fails: then this one is destroyed
        return server

    try:
        with phases.phase("copy"):
            servers = _create_all(one, names)
        with phases.phase("start"):
            launch(servers)
            in_parallel_or_first(lambda server: server.wait_ready(), servers)
        with phases.phase("identity"):
            in_parallel_or_first(lambda server: server.sql(NEW_IDENTITY), servers)
            _refuse_what_was_dropped(servers[0], settings)
        with phases.phase("join"):
            join_nodes(servers[0], servers[1:])
    except BaseException as error:
        discard([server.discard for server in made], error)
        raise
    return servers


def _refuse_what_was_dropped(coordinator: ServerNode, settings: Mapping[str, str]) -> None:
    """Refuse settings of Citus that are none, or have no such value.

    PostgreSQL reads them before the library is there to judge them; what it then does not know is dropped with a line
    in the log.
    """
    wanted = {name.lower(): name for name in settings if name.lower().startswith("citus.")}
    in_force = coordinator.rows(
        "SELECT name FROM pg_catalog.pg_settings WHERE name = ANY(%s) AND source = 'configuration file'", [[*wanted]]
    )
    dropped = sorted(wanted.keys() - {str(name) for (name,) in in_force})
    if dropped:
        name = wanted[dropped[0]]
        known = coordinator.rows("SELECT FROM pg_catalog.pg_settings WHERE name = %s", [dropped[0]])
        reason = f"does not take the value {settings[name]!r}" if known else "does not exist in this Citus"
        raise BadInputError(f"setting {name} {reason}", hint="see pg_settings, and docs/roles.md for what is gone")


def _create_all(create: Callable[[str], NodeT], names: Sequence[str]) -> list[NodeT]:
    """All of them, or the first failure; when it returns or raises, nobody is making one any more.

    Ctrl-C reaches the main thread only: without the second wait, nodes would be made after all others were removed.
    """
    with ThreadPoolExecutor(len(names), thread_name_prefix="cluster") as pool:
        futures = [pool.submit(create, name) for name in names]
        try:
            wait(futures)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results_or_first(futures)


def discard(undo: Sequence[Callable[[], None]], cause: BaseException) -> None:
    """Undo a start that failed, all at once; what cannot be undone is added to the cause as a note, and no failure.

    Args:
        undo: what to call.
        cause: why; it is what the caller raises.
    """
    try:
        in_parallel(lambda step: step(), undo)
    except Exception as error:
        cause.add_note(f"and not all could be removed: {error}")
