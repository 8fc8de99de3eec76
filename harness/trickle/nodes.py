"""The snapshots of all nodes, read at the same time over connections that stay open; what is prepared on them (D9)."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import generators, sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from harness.errors import ServerGoneError, UnresolvedTransactionError, WaitTimeoutError
from harness.postgres.addresses import reach
from harness.postgres.deadlines import DeadlineConnection
from harness.trickle.frontier import Cut
from harness.trickle.history import NO_MARKS, Identity, Note
from harness.trickle.surroundings import is_between_nodes
from harness.waiting import wait_until

# A node on the same network answers such a query within milliseconds; one that has not in ten seconds froze or is gone.
ANSWER_DEADLINE_S = 10.0
CONNECT_TIMEOUT_S = 5
# Every commit over several nodes is prepared for some milliseconds; what is for seconds has lost its coordinator.
UNRESOLVED_AFTER_S = 5.0

# Where Citus' words about a connection between nodes end.
_ADDRESS = re.compile(r"(\S+):(\d+)\s*$", re.MULTILINE)

_STATE_QUERY = sql.SQL("""
    SELECT pg_catalog.pg_current_snapshot()::text,
           coalesce((SELECT json_agg(json_build_array(p.gid, extract(epoch FROM clock_timestamp() - p.prepared)))
                     FROM pg_catalog.pg_prepared_xacts p
                     WHERE p.database = pg_catalog.current_database()), '[]')::text, {}""")
# Asked once a connection: a server that changes ends its connections.
_IDENTITY_QUERY = """
    SELECT s.system_identifier::text, ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()),
                                                     1, 8))::bit(32)::int
    FROM pg_catalog.pg_control_system() AS s"""
# The workers, and where the coordinator is: timeline and position of its write-ahead log.
_GROUPS_QUERY = """
    SELECT n.groupid, n.nodename, n.nodeport, (SELECT max(every.groupid) FROM pg_catalog.pg_dist_node every),
           ('x' || substr(pg_catalog.pg_walfile_name(l.lsn), 1, 8))::bit(32)::int, l.lsn::text
    FROM pg_catalog.pg_dist_node n, pg_catalog.pg_current_wal_insert_lsn() AS l(lsn)
    WHERE n.noderole = 'primary' AND n.isactive AND n.groupid <> 0 ORDER BY n.groupid"""


# The highest group that was ever given out. While a node is being added, its number is taken and its row not there yet,
# and it must not be held for one that is gone: whoever adds one has this lock before the number.
_GIVEN_GROUPS_QUERY = """
    SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l
                             WHERE l.locktype = 'relation' AND l.relation = 'pg_catalog.pg_dist_node'::regclass
                               AND l.mode = 'ExclusiveLock' AND l.granted
                               AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                                 WHERE d.datname = pg_catalog.current_database()))
                THEN 0 ELSE coalesce(s.given, 0) END
    FROM (SELECT pg_catalog.pg_sequence_last_value('pg_catalog.pg_dist_groupid_seq') AS given OFFSET 0) AS s"""


class _SilentError(ServerGoneError):
    """A worker that took a question and gave no answer in time: asked again it would not answer either."""


@dataclass(frozen=True)
class NodeState:
    """What a node said of itself.

    Attributes:
        snapshot: ``pg_snapshot`` as text.
        prepared: what is prepared and neither committed nor rolled back: name and age in seconds.
        answer: what it said of its history; None: it is the one that the stream table stopped in, or nobody asked.
    """

    snapshot: str
    prepared: tuple[tuple[str, float], ...]
    answer: str | None = None


class Workers:
    """Connections to the workers of a cluster, opened when they are first needed; close it, or use it as a context.

    Args:
        coordinator: an open connection; role, password and database are taken from it.
    """

    def __init__(self, coordinator: psycopg.Connection[Any]) -> None:
        self._coordinator = coordinator
        self._open: dict[tuple[str, int], DeadlineConnection] = {}
        self._identities: dict[tuple[str, int], Identity] = {}
        self._unanswered: set[tuple[str, int]] = set()
        # Workers that this client cannot reach by itself: the coordinator asks them instead.
        self._unreachable: set[tuple[str, int]] = set()
        #: The highest group that was known when the states were last read; it never goes back.
        self.highest_group = 0
        #: Which server each worker was then, by group; None for one that only the coordinator reaches.
        self.identities: Mapping[int, Identity | None] = {}

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
        self._unanswered.clear()

    def read(self, note: Note | None = None) -> Mapping[int, NodeState]:
        """The state of every worker, by group, read at the same time.

        Args:
            note: what each is asked of its history; None: nothing.

        Raises:
            ServerGoneError: one does not answer; says which.
            HistoryChangedError: the history of one is not that of the stream table.
        """
        try:
            return self._read(note)
        except _SilentError:
            raise
        except ServerGoneError:
            # A connection of before a restart is found dead when it is used: once more over new ones.
            self.close()
            self._unreachable.clear()
            return self._read(note)

    def look(self, note: Note) -> None:
        """Ask every worker whether its history is the stream table's, and nothing else.

        Args:
            note: that notes nothing.

        Raises:
            ServerGoneError: a worker does not answer; says which.
            HistoryChangedError: the history of one is another.
        """
        groups, position = self._fetch_groups()
        asked = []
        for group, address in groups.items():
            connection = self._connection(address) if group in note.had.nodes else None
            if connection is not None:
                query = sql.SQL("SELECT {}").format(note.call(group, position))
                with contextlib.suppress(psycopg.Error):
                    connection.pgconn.send_query(query.as_bytes(connection))
                    self._unanswered.add(address)
                    asked.append((group, address, connection))
        answers = [self._answer(address, connection) for _group, address, connection in asked]
        if len(asked) < len(note.had.nodes) or None in answers:
            # One that only the coordinator reaches, or that was started again.
            self.read(note)
            return
        for (group, address, _connection), answer in zip(asked, answers, strict=True):
            note.refuse(group, address, answer or None, self._identities.get(address))

    def _answer(self, address: tuple[str, int], connection: DeadlineConnection) -> str | None:
        """What a worker says of its history, empty where it is the stream table's; None: nothing came."""
        results = self._take(address, connection)
        if not results or results[-1].status != ExecStatus.TUPLES_OK:
            return None
        return (results[-1].get_value(0, 0) or b"").decode()

    def _fetch_groups(self) -> tuple[dict[int, tuple[str, int]], tuple[int, str]]:
        """The workers' addresses by group; the coordinator's timeline and position."""
        rows = self._coordinator.execute(_GROUPS_QUERY).fetchall()
        self.highest_group = max([self.highest_group, *(int(row[3]) for row in rows)])
        groups = {int(group): (str(host), int(port)) for group, host, port, *_rest in rows}
        return groups, (int(rows[0][4]), str(rows[0][5])) if rows else (0, "0/0")

    def confirm(self, note: Note) -> None:
        """Tell every worker that the refresh was committed; nobody waits for the answers.

        Args:
            note: that the workers were asked with.
        """
        call = sql.SQL("SELECT pgtrickle.confirm_refresh({}, {})").format(
            sql.Literal(note.had.history), sql.Literal(note.next)
        )
        for address, connection in list(self._open.items()):
            try:
                connection.pgconn.send_query(call.as_bytes(connection))
                self._unanswered.add(address)
            except psycopg.Error:
                self._forget(address)
        if self._unreachable:
            # Citus' own connections, as in asking.
            self._coordinator.execute(
                "SELECT pg_catalog.run_command_on_workers(%s)", [call.as_string(self._coordinator)]
            )

    def _read(self, note: Note | None) -> Mapping[int, NodeState]:
        groups, position = self._fetch_groups()
        asked: list[tuple[int, tuple[str, int], psycopg.Cursor[Any]]] = []
        found: dict[int, NodeState] = {}
        with contextlib.ExitStack() as stack:
            for group, address in groups.items():
                connection = self._connection(address)
                if connection is None:
                    continue
                try:
                    stack.enter_context(connection.pipeline())
                    asked.append((group, address, connection.execute(_state_query(note, group, position))))
                except psycopg.OperationalError as error:
                    raise self._gone(address, error) from error
            for group, address, cursor in asked:
                try:
                    row = cursor.fetchone()
                except psycopg.errors.LockNotAvailable:
                    raise
                except WaitTimeoutError as error:
                    raise self._silent(address, error) from error
                except psycopg.OperationalError as error:
                    raise self._gone(address, error) from error
                found[group] = _state(row)
        for group in groups.keys() - found.keys():
            found[group] = self._ask_through_coordinator(group, groups[group], _state_query(note, group, position))
        self.identities = {
            group: self._identities.get(address)
            for group, address in groups.items()
            # One without marks noted nothing: as if it came later.
            if found[group].answer != NO_MARKS
        }
        if note is not None:
            for group, state in found.items():
                note.refuse(group, groups[group], state.answer, self.identities.get(group))
        return found

    def note_groups(self, known: int) -> None:
        """Look which groups there ever were, those that came and went since the last refresh too.

        Args:
            known: the highest that the last refresh knew.

        Call it before the transaction that reads the cut: whoever was there at this look is seen by that one, or gone.
        """
        row = self._coordinator.execute(_GIVEN_GROUPS_QUERY).fetchone()
        self.highest_group = max(self.highest_group, known, int(row[0]) if row else 0)

    def find_gone(self) -> ServerGoneError | None:
        """A worker that is down, or was restarted since it was last asked; None: all are what they were."""
        try:
            self._read(None)
        except ServerGoneError as gone:
            self.close()
            self._unreachable.clear()
            return gone
        except psycopg.Error:  # the coordinator itself
            return None
        return None

    def find_named(self, error: Exception) -> ServerGoneError | None:
        """The worker whose address an error has, since it was lost or its metadata are behind; None: it has none.

        One that went by another address meanwhile is known by what Citus says of its connections.

        Args:
            error: one of those for which Citus has no SQLSTATE of its own.
        """
        try:
            addresses, _position = self._fetch_groups()
        except psycopg.Error:
            return None
        named = next((one for one in addresses.values() if f"{one[0]}:{one[1]}" in str(error)), None)
        said = error.__cause__ or error
        if named is None and isinstance(said, psycopg.Error) and is_between_nodes(said):
            found = _ADDRESS.search(str(error))
            named = None if found is None else (found[1], int(found[2]))
        return None if named is None else _unreachable(named, error)

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
        for _group, host, port, *_rest in self._coordinator.execute(_GROUPS_QUERY).fetchall():
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
        if known is not None and not known.closed and not known.broken and self._is_answered(address, known):
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
        except psycopg.OperationalError as error:
            if _is_silent(error, host, port):
                raise self._silent(address, error) from error
            self._unreachable.add(address)
            return None
        opened.deadline_s = ANSWER_DEADLINE_S
        # Without it Citus hides its shards, and with them who locks them, from whoever looks at pg_class.
        opened.execute("SET citus.show_shards_for_app_name_prefixes = '*'")
        row = opened.execute(_IDENTITY_QUERY).fetchone()
        if row is not None:
            self._identities[address] = Identity(str(row[0]), int(row[1]))
        self._open[address] = opened
        return opened

    def _is_answered(self, address: tuple[str, int], connection: DeadlineConnection) -> bool:
        """Whether no answer is still on its way; False: one did not come, and the connection is closed."""
        return address not in self._unanswered or self._take(address, connection) is not None

    def _take(self, address: tuple[str, int], connection: DeadlineConnection) -> list[PGresult] | None:
        self._unanswered.discard(address)
        try:
            results: list[PGresult] = connection.wait(generators.execute(connection.pgconn))
        except WaitTimeoutError as error:
            raise self._silent(address, error) from error
        except psycopg.Error:
            self._forget(address)
            return None
        return results

    def _forget(self, address: tuple[str, int]) -> None:
        connection = self._open.pop(address, None)
        self._identities.pop(address, None)
        self._unanswered.discard(address)
        if connection is not None:
            connection.close()

    def _silent(self, address: tuple[str, int], error: Exception) -> _SilentError:
        gone = self._gone(address, error)
        return _SilentError(gone.message, hint=gone.hint, node=gone.node)

    def _gone(self, address: tuple[str, int], error: Exception) -> ServerGoneError:
        self._forget(address)
        return _unreachable(address, error)

    def _ask_through_coordinator(self, group: int, address: tuple[str, int], state: sql.Composed) -> NodeState:
        # 20 to 30 ms for all nodes (F32), and Citus uses its own credentials.
        asked = sql.SQL("SELECT json_build_array(s.a, s.b, s.c) FROM ({}) AS s(a, b, c)").format(state)
        query = " ".join(asked.as_string(self._coordinator).split())
        row = self._coordinator.execute(
            "SELECT success, result FROM pg_catalog.run_command_on_workers(%s) WHERE nodename = %s AND nodeport = %s",
            [query, *address],
        ).fetchone()
        if row is None or not row[0]:
            raise _unreachable(address, RuntimeError(row[1] if row else f"group {group} did not answer"))
        return _state(tuple(json.loads(row[1])))


def _is_silent(error: psycopg.OperationalError, host: str, port: int) -> bool:
    """Whether a server was reached, and said nothing: its kernel takes connections while it is frozen.

    The coordinator is not asked in its place: Citus would wait for it without end, and a session whose
    ``run_command_on_workers`` was cancelled may crash (docs/findings.md).
    """
    if not isinstance(error, psycopg.errors.ConnectionTimeout):
        return False
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _state(row: tuple[Any, ...] | None) -> NodeState:
    if row is None:
        raise ServerGoneError("a worker gave no answer", hint="its log says why")
    unresolved = json.loads(row[1])
    return NodeState(str(row[0]), tuple((str(gid), float(age_s)) for gid, age_s in unresolved), row[2])


def _state_query(note: Note | None, group: int, position: tuple[int, str]) -> sql.Composed:
    return _STATE_QUERY.format(sql.SQL("NULL::text") if note is None else note.call(group, position))


def _unreachable(address: tuple[str, int], error: Exception) -> ServerGoneError:
    host, port = address
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ServerGoneError(
        f"worker {host}:{port} does not answer: {words}",
        hint="start it, or take it out of the cluster; nothing was changed",
        node=f"{host}:{port}",
    )


def read_cut(own_snapshot: str, workers: Workers | None, *, note: Note | None = None, is_settled: bool = False) -> Cut:
    """The cut of now: the coordinator's own snapshot and every worker's.

    Args:
        own_snapshot: the refresh's own transaction's, on the coordinator.
        workers: None: only the coordinator is asked.
        note: what the workers are asked and told of the refresh.
        is_settled: wait until nothing is prepared on a worker; the caller keeps writers out.

    Raises:
        ServerGoneError: a worker does not answer.
        UnresolvedTransactionError: something has been prepared on a worker for too long (D9), and cannot be resolved.
        HistoryChangedError: the history of a worker is not that of the stream table.
    """
    if workers is None:
        return Cut({0: own_snapshot})
    states = workers.read(note)
    refuse_unresolved(states)
    if is_settled:
        # Who committed on the coordinator may still be prepared on a worker, for a moment: neither in the cut nor in
        # what is read.
        settled = wait_until(
            "prepared transactions on the workers to commit", lambda: _settled(workers), deadline_s=UNRESOLVED_AFTER_S
        )
        # What was committed between a state's snapshot and its look at what is prepared is in neither.
        states = workers.read() if settled else states
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
