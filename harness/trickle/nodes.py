"""The snapshots of all nodes, read at the same time over connections that stay open; what is prepared on them (D9)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from harness.errors import ServerGoneError, UnresolvedTransactionError, WaitTimeoutError
from harness.postgres.addresses import reach
from harness.postgres.deadlines import DeadlineConnection
from harness.trickle.frontier import Cut
from harness.waiting import wait_until

# A node on the same network answers such a query within milliseconds; one that has not in ten seconds froze or is gone.
ANSWER_DEADLINE_S = 10.0
CONNECT_TIMEOUT_S = 5
# Every commit over several nodes is prepared for some milliseconds; what is for seconds has lost its coordinator.
UNRESOLVED_AFTER_S = 5.0

_STATE_QUERY = """
    SELECT pg_catalog.pg_current_snapshot()::text,
           coalesce((SELECT json_agg(json_build_array(p.gid, extract(epoch FROM clock_timestamp() - p.prepared)))
                     FROM pg_catalog.pg_prepared_xacts p
                     WHERE p.database = pg_catalog.current_database()), '[]')::text"""
_GROUPS_QUERY = """
    SELECT n.groupid, n.nodename, n.nodeport, (SELECT max(every.groupid) FROM pg_catalog.pg_dist_node every)
    FROM pg_catalog.pg_dist_node n
    WHERE n.noderole = 'primary' AND n.isactive AND n.groupid <> 0 ORDER BY n.groupid"""


@dataclass(frozen=True)
class NodeState:
    """What a node said of itself.

    Attributes:
        snapshot: ``pg_snapshot`` as text.
        prepared: what is prepared and neither committed nor rolled back: name and age in seconds.
    """

    snapshot: str
    prepared: tuple[tuple[str, float], ...]


class Workers:
    """Connections to the workers of a cluster, opened when they are first needed; close it, or use it as a context.

    Args:
        coordinator: an open connection; role, password and database are taken from it.
    """

    def __init__(self, coordinator: psycopg.Connection[Any]) -> None:
        self._coordinator = coordinator
        self._open: dict[tuple[str, int], DeadlineConnection] = {}
        # Workers that this client cannot reach by itself: the coordinator asks them instead.
        self._unreachable: set[tuple[str, int]] = set()
        #: The highest group that was known when the states were last read.
        self.highest_group = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; they are opened again when needed."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def read(self) -> Mapping[int, NodeState]:
        """The state of every worker, by group, read at the same time.

        Raises:
            ServerGoneError: one does not answer; says which.
        """
        try:
            return self._read()
        except ServerGoneError:
            # A connection of before a restart is found dead when it is used: once more over new ones.
            self.close()
            self._unreachable.clear()
            return self._read()

    def _read(self) -> Mapping[int, NodeState]:
        rows = self._coordinator.execute(_GROUPS_QUERY).fetchall()
        groups = {int(group): (str(host), int(port)) for group, host, port, _highest in rows}
        self.highest_group = max((int(row[3]) for row in rows), default=0)
        asked: list[tuple[int, tuple[str, int], psycopg.Cursor[Any]]] = []
        found: dict[int, NodeState] = {}
        with contextlib.ExitStack() as stack:
            for group, address in groups.items():
                connection = self._connection(address)
                if connection is None:
                    continue
                try:
                    stack.enter_context(connection.pipeline())
                    asked.append((group, address, connection.execute(_STATE_QUERY)))
                except psycopg.OperationalError as error:
                    raise self._gone(address, error) from error
            for group, address, cursor in asked:
                try:
                    row = cursor.fetchone()
                except (psycopg.OperationalError, WaitTimeoutError) as error:
                    raise self._gone(address, error) from error
                found[group] = _state(row)
        for group in groups.keys() - found.keys():
            found[group] = self._ask_through_coordinator(group, groups[group])
        return found

    def rows(self, query: LiteralString, params: Sequence[Any]) -> list[tuple[str, tuple[Any, ...]]]:
        """The rows of a query on every worker that this client reaches, each with the worker's address.

        Args:
            query: run on each worker in turn, in autocommit.
            params: for its placeholders.

        Returns:
            ``host:port`` and a row, worker by worker.

        Raises:
            ServerGoneError: one does not answer.
        """
        found = []
        for _group, host, port, _highest in self._coordinator.execute(_GROUPS_QUERY).fetchall():
            address = (str(host), int(port))
            connection = self._connection(address)
            if connection is None:
                continue
            try:
                found += [(f"{host}:{port}", tuple(row)) for row in connection.execute(query, params).fetchall()]
            except (psycopg.OperationalError, WaitTimeoutError) as error:
                raise self._gone(address, error) from error
        return found

    def _connection(self, address: tuple[str, int]) -> DeadlineConnection | None:
        known = self._open.get(address)
        if known is not None and not known.closed and not known.broken:
            return known
        if address in self._unreachable:
            return None
        try:
            host, port = reach(*address)
        except ServerGoneError:  # one of our own that is stopped or cut off
            self._unreachable.add(address)
            return None
        info = self._coordinator.info
        parameters = info.get_parameters()
        parameters.pop("hostaddr", None)
        dsn = make_conninfo("", **{**parameters, "host": host, "port": port, "password": info.password or None})
        try:
            opened = DeadlineConnection.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        except psycopg.OperationalError:
            self._unreachable.add(address)
            return None
        opened.deadline_s = ANSWER_DEADLINE_S
        # Without it Citus hides its shards, and with them who locks them, from whoever looks at pg_class.
        opened.execute("SET citus.show_shards_for_app_name_prefixes = '*'")
        self._open[address] = opened
        return opened

    def _gone(self, address: tuple[str, int], error: Exception) -> ServerGoneError:
        connection = self._open.pop(address, None)
        if connection is not None:
            connection.close()
        return _unreachable(address, error)

    def _ask_through_coordinator(self, group: int, address: tuple[str, int]) -> NodeState:
        # 20 to 30 ms for all nodes (F32), and Citus uses its own credentials.
        asked = sql.SQL("SELECT json_build_array(s.a, s.b) FROM ({}) AS s(a, b)").format(sql.SQL(_STATE_QUERY))
        query = " ".join(asked.as_string(self._coordinator).split())
        row = self._coordinator.execute(
            "SELECT success, result FROM pg_catalog.run_command_on_workers(%s) WHERE nodename = %s AND nodeport = %s",
            [query, *address],
        ).fetchone()
        if row is None or not row[0]:
            raise _unreachable(address, RuntimeError(row[1] if row else f"group {group} did not answer"))
        return _state(tuple(json.loads(row[1])))


def _state(row: tuple[Any, ...] | None) -> NodeState:
    if row is None:
        raise ServerGoneError("a worker gave no answer", hint="its log says why")
    unresolved = json.loads(row[1])
    return NodeState(str(row[0]), tuple((str(gid), float(age_s)) for gid, age_s in unresolved))


def _unreachable(address: tuple[str, int], error: Exception) -> ServerGoneError:
    host, port = address
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ServerGoneError(
        f"worker {host}:{port} does not answer: {words}",
        hint="start it, or take it out of the cluster; nothing was changed",
        node=f"{host}:{port}",
    )


def read_cut(
    coordinator: psycopg.Connection[Any], own_snapshot: str, workers: Workers | None, *, is_settled: bool = False
) -> Cut:
    """The cut of now: the coordinator's own snapshot and every worker's.

    Args:
        coordinator: in the refresh's own transaction.
        own_snapshot: that transaction's.
        workers: None: only the coordinator is asked.
        is_settled: wait until nothing is prepared on a worker; the caller keeps writers out.

    Raises:
        ServerGoneError: a worker does not answer.
        UnresolvedTransactionError: something has been prepared on a worker for too long (D9), and cannot be resolved.
    """
    if workers is None:
        return Cut({0: own_snapshot})
    states = workers.read()
    refuse_unresolved(states)
    if is_settled:
        # Who committed on the coordinator may still be prepared on a worker, for a moment: neither in the cut nor in
        # what is read.
        settled = wait_until(
            "prepared transactions on the workers to commit", lambda: _settled(workers), deadline_s=UNRESOLVED_AFTER_S
        )
        states = settled or states
    snapshots = {0: own_snapshot, **{group: state.snapshot for group, state in states.items()}}
    return Cut(snapshots, workers.highest_group)


def _settled(workers: Workers) -> Mapping[int, NodeState] | None:
    states = workers.read()
    return None if any(state.prepared for state in states.values()) else states


def refuse_unresolved(states: Mapping[int, NodeState]) -> None:
    """Refuse while a transaction is prepared on a worker and neither committed nor rolled back.

    Raises:
        UnresolvedTransactionError: names it, its group and its age.
    """
    for group, state in sorted(states.items()):
        for gid, age_s in (one for one in state.prepared if one[1] >= UNRESOLVED_AFTER_S):
            raise UnresolvedTransactionError(
                f"transaction {gid!r} has been prepared on the worker of group {group} for {age_s:.0f} s and is neither"
                " committed nor rolled back",
                hint="on the coordinator: SELECT recover_prepared_transactions(); what is not Citus' own:"
                " COMMIT PREPARED or ROLLBACK PREPARED on that worker",
                node=f"group {group}",
            )
