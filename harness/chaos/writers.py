"""A writer: one connection after another, one transaction after another, and its own count of what it heard."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import psycopg
from psycopg import sql

from harness.chaos.board import Board, class_of, is_expected, words_of
from harness.chaos.ledger import Effect, Ledger, Operation, Outcome
from harness.chaos.plan import SHAPE_KINDS
from harness.chaos.shop import SOURCES, insert_query
from harness.chaos.transactions import Draft, Ending, Holdings
from harness.errors import WaitTimeoutError
from harness.postgres.deadlines import DeadlineConnection

# A frozen or silent node lasts 2 s in a plan: a writer sometimes gives up before it is back, and sometimes not.
ANSWER_DEADLINES_S = (1.0, 3.0, 6.0)
_RECONNECT_S = 0.05
# With the outcome of a COMMIT open, half of the transactions are sent again under their key; the others are looked up
# at the end.
_RETRIED = 0.5
# What the server says before it has decided to commit, whatever it was asked. A lost node, an intervention or an
# internal error may come when it has: single-shard writes commit on the worker first.
_DEFINITE = ("0A", "21", "22", "23", "25", "40", "42", "53", "55", "P0")

_SESSION = """
SET application_name = 'harness chaos writer';
SET synchronous_commit = on;
SET lock_timeout = '3s';
SET client_connection_check_interval = '1s';
"""


@dataclass
class Gates:
    """TRUNCATE excludes the writers of a table: what was acknowledged before it is gone, what came after is there."""

    _locks: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    @contextlib.contextmanager
    def held(self, tables: Sequence[str], stopping: threading.Event) -> Iterator[bool]:
        """The right to write these tables; whether it was to be had before the run stopped."""
        wanted = sorted({table for table in tables if SOURCES[table].is_truncated})
        with contextlib.ExitStack() as stack:
            for table in wanted:
                while not self._locks[table].acquire(timeout=0.1):
                    if stopping.is_set():
                        yield False
                        return
                stack.callback(self._locks[table].release)
            yield True


class MissedRowError(Exception):
    """A row of the writer's own is not there, or there twice: it was lost or doubled before the end already."""


class Writer(threading.Thread):
    """Writes until the run stops.

    Args:
        number: which; ``writers``: of how many.
        connect: a new connection to the node that it writes through.
        is_local: whether that is the coordinator.
        chance: its own.
        board, ledger, gates: shared by all.
    """

    def __init__(
        self,
        number: int,
        writers: int,
        connect: Callable[[], DeadlineConnection],
        *,
        is_local: bool,
        chance: random.Random,
        board: Board,
        ledger: Ledger,
        gates: Gates,
    ) -> None:
        super().__init__(name=f"chaos writer {number}", daemon=True)
        self.number = number
        self.errors: Counter[str] = Counter()
        self.retried = 0
        self._connect = connect
        self._chance = chance
        self._is_local = is_local
        self._holdings = Holdings(number, writers, is_local, chance)
        self._board, self._ledger, self._gates = board, ledger, gates
        self._connection: DeadlineConnection | None = None
        self._sent = 0
        self._warnings: list[str] = []

    def run(self) -> None:
        """The thread's work; never raises."""
        try:
            while not self._board.stopping.is_set():
                self._once()
                self._board.stopping.wait(self._chance.uniform(0, 0.03))
        except Exception as error:  # a bug in here must fail the run, not die with its thread
            self._board.bug(self.name, error)
        finally:
            if self._connection is not None:
                self._connection.close()

    def _once(self) -> None:
        draft = self._holdings.draw()
        effects = (*draft.effects, *draft.undone)
        if not effects:
            return
        with self._gates.held([effect.table for effect in effects], self._board.stopping) as has_right:
            connection = self._open() if has_right else None
            if connection is None:
                return
            self._sent += 1
            key = f"w{self.number}-{self._sent}"
            operation = self._ledger.begin(key, self.number, draft.effects, marks=draft.marks, at_s=self._board.now_s())
            self._send(connection, operation, draft)
            while operation.outcome is Outcome.UNKNOWN and draft.marks and self._chance.random() < _RETRIED:
                again = self._open()
                if again is None:
                    return
                operation.tries += 1
                self.retried += 1
                self._send(again, operation, draft)

    def _send(self, connection: DeadlineConnection, operation: Operation, draft: Draft) -> None:
        began_s = self._board.now_s()
        phase = ["body"]
        self._warnings.clear()
        try:
            outcome = self._run(connection, operation, draft, phase)
        except (psycopg.Error, WaitTimeoutError, MissedRowError) as error:
            outcome = self._failed(connection, operation, error, phase[0], began_s)
        self._ledger.end(operation, outcome)
        effects = (*draft.effects, *draft.undone)
        if outcome is Outcome.UNKNOWN:
            self._holdings.set_aside(effects)
            return
        if outcome is Outcome.ACKNOWLEDGED and self._warnings:
            # Committed, and some node has not heard of it yet (it is prepared there): an UPDATE that comes before that
            # finds no row on it, and Citus tells only what another replica of a reference table found.
            self._holdings.set_aside(effects)
            self.errors["warned at COMMIT"] += 1
        else:
            self._holdings.take_back(effects)
        if outcome is Outcome.ACKNOWLEDGED:
            self._holdings.commit(operation)

    def _run(self, connection: DeadlineConnection, operation: Operation, draft: Draft, phase: list[str]) -> Outcome:
        if draft.ending is Ending.BARE:
            phase[0] = "commit"
            _apply(connection, draft.effects, operation.key)
            return Outcome.ACKNOWLEDGED
        connection.execute("BEGIN")
        phase[0] = "mark"
        connection.execute(
            sql.SQL("INSERT INTO {} (op) VALUES (%s)").format(sql.Identifier("public", operation.marks)),
            [operation.key],
        )
        phase[0] = "body"
        if draft.undone:
            connection.execute("SAVEPOINT chaos")
            _apply(connection, draft.undone, f"{operation.key} undone")
            connection.execute("ROLLBACK TO SAVEPOINT chaos")
        _apply(connection, draft.effects, operation.key)
        if draft.ending is Ending.ROLLBACK:
            connection.execute("ROLLBACK")
            return Outcome.ROLLED_BACK
        phase[0] = "commit"
        status = connection.execute("COMMIT").statusmessage
        # A COMMIT of a transaction that had failed answers ROLLBACK, and no error.
        return Outcome.ACKNOWLEDGED if status == "COMMIT" else Outcome.ROLLED_BACK

    def _failed(
        self, connection: DeadlineConnection, operation: Operation, error: Exception, phase: str, began_s: float
    ) -> Outcome:
        is_known = operation.tries > 1 and phase == "mark" and isinstance(error, psycopg.errors.UniqueViolation)
        if is_known:  # it had committed: the same key is not taken twice
            with contextlib.suppress(psycopg.Error):
                connection.execute("ROLLBACK")
            return Outcome.ACKNOWLEDGED
        if isinstance(error, MissedRowError):
            self._missed(operation, error, began_s)
            with contextlib.suppress(psycopg.Error, WaitTimeoutError):
                connection.execute("ROLLBACK")
            return Outcome.ROLLED_BACK if operation.tries == 1 else Outcome.UNKNOWN
        self.errors[class_of(error)] += 1
        self._board.examples.setdefault(f"write {class_of(error)}", f"{self.name}: {words_of(error)}")
        state = getattr(error, "sqlstate", None)
        if not is_expected(error, self._board.kinds_since(began_s), is_client=True):
            self._complain("writes", error)
        is_open = not connection.closed and not connection.broken
        if is_open:
            with contextlib.suppress(psycopg.Error, WaitTimeoutError):
                connection.execute("ROLLBACK")
        if phase == "commit" and not (is_open and state is not None and state.startswith(_DEFINITE)):
            return Outcome.UNKNOWN
        # A first try that failed before its COMMIT was sent never commits. A second one says nothing of the first.
        return Outcome.ROLLED_BACK if operation.tries == 1 else Outcome.UNKNOWN

    def _missed(self, operation: Operation, error: MissedRowError, began_s: float) -> None:
        # Citus 14.0.1: a statement through a worker that waits for a shard to move finds it empty there, since its
        # snapshot is older than the copy. The client is told so (UPDATE 0), and the transaction is rolled back.
        self.errors["MissedRowError"] += 1
        if self._is_local or not self._board.kinds_since(began_s) & SHAPE_KINDS.keys():
            self._board.trouble("missed_row", f"{self.name}, {began_s:.2f} s", f"{operation.key}: {error}")
        self._board.examples.setdefault("write MissedRowError", f"{self.name}: {error}")

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "")

    def _complain(self, doing: str, error: Exception) -> None:
        self._board.trouble("unexpected_error", f"{self.name} {doing}", f"{class_of(error)}: {words_of(error)}")

    def _open(self) -> DeadlineConnection | None:
        """A connection that works, however long that takes; None: the run stops."""
        while not self._board.stopping.is_set():
            current = self._connection
            if current is not None and not current.closed and not current.broken:
                return current
            if current is not None:
                current.close()
            began_s = self._board.now_s()
            try:
                opened = self._connect()
                opened.deadline_s = self._chance.choice(ANSWER_DEADLINES_S)
                opened.add_notice_handler(self._hear)
                opened.execute(_SESSION)
            except (psycopg.Error, WaitTimeoutError) as error:
                if not is_expected(error, self._board.kinds_since(began_s), is_client=True):
                    self._complain("connects", error)
                time.sleep(_RECONNECT_S)
                continue
            self._connection = opened
        return None


def _apply(connection: DeadlineConnection, effects: Sequence[Effect], key: str) -> None:
    """Rows that come together in one statement, the others one by one."""
    for (table, action), group in groupby(effects, lambda effect: (effect.table, effect.action)):
        source, rows = SOURCES[table], list(group)
        if action == "insert":
            _insert(connection, table, rows, key)
        elif action == "delete":
            done = connection.execute(
                sql.SQL("DELETE FROM {} WHERE id = ANY (%s)").format(source.identifier), [[row.row_id for row in rows]]
            )
            _require(done.rowcount, len(rows), f"DELETE of {table} {[row.row_id for row in rows]}")
        else:
            for row in rows:
                done = connection.execute(
                    sql.SQL(
                        "UPDATE {} SET grp = %s, amount = amount + %s, version = version + 1, op = %s WHERE id = %s"
                    ).format(source.identifier),
                    [row.grp, row.amount, key, row.row_id],
                )
                _require(done.rowcount, 1, f"UPDATE of {table} {row.row_id}")


def _require(seen: int, wanted: int, what: str) -> None:
    if seen != wanted:
        raise MissedRowError(f"{what} found {seen} of {wanted} rows that an acknowledged transaction had written")


def _insert(connection: DeadlineConnection, table: str, rows: Sequence[Effect], key: str) -> None:
    source = SOURCES[table]
    values = [
        [row.row_id, *([source.link_of(row.row_id)] if source.link else []), row.grp, row.amount, key] for row in rows
    ]
    connection.execute(insert_query(source, len(rows)), [value for row in values for value in row])
