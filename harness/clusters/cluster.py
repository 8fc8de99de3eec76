"""One cluster, whoever provides it: a coordinator, its workers, and the same verbs on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self

from typing_extensions import TypeVar

from harness.errors import BadInputError
from harness.postgres.deadlines import DeadlineConnection
from harness.postgres.node import Node, Params, Query

T = TypeVar("T")
N = TypeVar("N")
# What a cluster's nodes are: without a word, anything that can be asked.
NodeT_co = TypeVar("NodeT_co", bound=Node, default=Node, covariant=True)


def in_parallel(function: Callable[[N], T], items: Sequence[N]) -> list[T]:
    """Run ``function`` on all items at once, each in a thread, and wait for every one of them.

    Args:
        function: what to do with one item.
        items: the items; their order is the order of the answers.

    Raises:
        Exception: the only failure, as it was.
        ExceptionGroup: more than one failed; all of them.
    """
    return _results(_run_all(function, items))


def _run_all(function: Callable[[N], T], items: Sequence[N]) -> list[Future[T]]:
    if not items:
        return []
    with ThreadPoolExecutor(len(items), thread_name_prefix="cluster") as pool:
        return [pool.submit(function, item) for item in items]


def _results(futures: Sequence[Future[T]]) -> list[T]:
    failures = [error for future in futures if (error := future.exception()) is not None]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} of {len(futures)} failed", failures)
    return [future.result() for future in futures]


def results_or_first(futures: Sequence[Future[T]]) -> list[T]:
    """The results of what has ended; of several failures the first one, caused by the group of all.

    Nodes that fail together fail for one reason, such as a setting that none of them takes.
    """
    try:
        return _results(futures)
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        first.add_note(f"{len(group.exceptions)} of {len(futures)} failed")
        raise first from group


def in_parallel_or_first(function: Callable[[N], T], items: Sequence[N]) -> list[T]:
    """As `in_parallel`, for what a person asked for: see `results_or_first`."""
    return results_or_first(_run_all(function, items))


class Cluster(Generic[NodeT_co]):
    """A coordinator and its workers.

    The cluster's own ``sql``, ``rows``, ``row``, ``value`` and ``transaction`` always run on the coordinator;
    for another node, ask that node: ``cluster.workers[0].value(...)``.

    Args:
        name: how it is called in messages and logs.
        coordinator: the node that clients talk to.
        workers: the other nodes, in the order of their groups.
        start_time: where the time of its start went, phase by phase, in seconds.
    """

    def __init__(
        self,
        name: str,
        coordinator: NodeT_co,
        workers: Sequence[NodeT_co],
        *,
        start_time: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self._coordinator = coordinator
        self._workers = tuple(workers)
        self.start_time: Mapping[str, float] = MappingProxyType(dict(start_time or {}))

    @property
    def coordinator(self) -> NodeT_co:
        """The node that clients talk to."""
        return self._coordinator

    @property
    def workers(self) -> tuple[NodeT_co, ...]:
        """The nodes that hold shards, in the order of their groups."""
        return self._workers

    @property
    def nodes(self) -> tuple[NodeT_co, ...]:
        """The coordinator, then the workers."""
        return (self.coordinator, *self.workers)

    def node(self, name: str) -> NodeT_co:
        """The node of this name, such as ``coordinator`` or ``worker-1``.

        Raises:
            BadInputError: there is none; names those that there are.
        """
        for each in self.nodes:
            if each.name == name:
                return each
        names = ", ".join(each.name for each in self.nodes)
        raise BadInputError(f"{self.name} has no node {name!r}", hint=f"its nodes: {names}")

    def on_each(self, function: Callable[[NodeT_co], T]) -> dict[str, T]:
        """Run ``function`` on all nodes at once.

        Returns:
            The answers by node name, coordinator first.

        Raises:
            Exception: of the node that failed; an ExceptionGroup if several did.
        """
        return dict(zip((node.name for node in self.nodes), in_parallel(function, self.nodes), strict=True))

    def sql(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> None:
        """Run a statement on the coordinator (arguments and errors: see `Node.sql`)."""
        self.coordinator.sql(query, params, dbname=dbname, deadline_s=deadline_s)

    def rows(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> list[tuple[Any, ...]]:
        """All rows of a query on the coordinator."""
        return self.coordinator.rows(query, params, dbname=dbname, deadline_s=deadline_s)

    def row(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> tuple[Any, ...]:
        """The only row of a query on the coordinator."""
        return self.coordinator.row(query, params, dbname=dbname, deadline_s=deadline_s)

    def value(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> Any:
        """The only value of a query on the coordinator."""
        return self.coordinator.value(query, params, dbname=dbname, deadline_s=deadline_s)

    @contextmanager
    def transaction(
        self, dbname: str | None = None, *, user: str | None = None, deadline_s: float | None = None
    ) -> Iterator[DeadlineConnection]:
        """A transaction on the coordinator, on a connection of its own; commits at the end, rolls back on an error."""
        with self.coordinator.transaction(dbname, user=user, deadline_s=deadline_s) as connection:
            yield connection

    def close(self) -> None:
        """Close the cached connections of every node; the nodes go on."""
        for node in self.nodes:
            node.close()

    def destroy(self) -> None:
        """Give up what belongs to this object. An existing cluster stays as it is: only connections are closed."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: 1+{len(self.workers)}>"
