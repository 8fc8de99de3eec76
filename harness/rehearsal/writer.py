"""One live writer: a thread with its own connection that writes until it is told to stop, and counts what it did."""

from __future__ import annotations

import contextlib
import random
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg

from harness.logs import redact
from harness.rehearsal.tables import Connection, fetch_tables
from harness.rehearsal.write_plans import WritePlan, fetch_write_plans
from harness.rehearsal.write_transactions import Ending, Statement, TpcB, Transaction, random_transaction

# After these many errors a writer stops collecting: one is enough to fail, a hundred to understand.
ERRORS_KEPT = 100

# What a write on a stranger's table may meet: a constraint, a value out of range, a deadlock or serialization failure,
# a trigger of its own that refuses, a published table without replica identity.
_TOLERATED = ("22", "23", "40", "44000", "P0001", "55000")
# What says that the table is not what it was when it was looked at.
_CHANGED_TABLE = ("42P01", "42703", "42804", "42P10", "428C9")

# Commits must be on their way to the disk when they are acknowledged, whatever the database's default: a kill -9 would
# otherwise take back what was counted. Time-outs of the database's own would hide a stall.
_SESSION = """
SET application_name = 'harness writer';
SET synchronous_commit = on;
SET lock_timeout = 0;
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET jit = off;
"""


@dataclass(frozen=True)
class Outage:
    """A time in which the server was not there for a writer.

    Attributes:
        at_s: when it began, in seconds since the rehearsal's start.
        lasted_s: until the writer had a connection again, in seconds.
        writer: which one.
    """

    at_s: float
    lasted_s: float
    writer: int


@dataclass(frozen=True)
class WriteError:
    """An error that no writer should see; one is enough to fail the rehearsal.

    Attributes:
        at_s: when, in seconds since the rehearsal's start.
        writer: which one.
        source: on which table.
        sqlstate: the server's code.
        message: its words.
        context: where in the database it happened, such as a capture function.
        lasted_s: how long its transaction had run by then, in seconds.
    """

    at_s: float
    writer: int
    source: str
    sqlstate: str
    message: str
    context: str = ""
    lasted_s: float = 0.0


@dataclass
class Tally:
    """What one writer did; only its own thread changes it. Three arrays hold the samples: 17 bytes each, not 300."""

    began_s: array[float] = field(default_factory=lambda: array("d"))
    took_ms: array[float] = field(default_factory=lambda: array("f"))
    plan: array[int] = field(default_factory=lambda: array("i"))
    commits: int = 0
    rollbacks: int = 0
    unknown_commits: int = 0
    net_low: Counter[int] = field(default_factory=Counter)
    net_high: Counter[int] = field(default_factory=Counter)
    tolerated: Counter[str] = field(default_factory=Counter)
    cancelled_at_s: list[float] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    errors: list[WriteError] = field(default_factory=list)


class Writer(threading.Thread):
    """Writes to the sources until ``stopping`` is set.

    Args:
        number: which writer this is.
        connect: gives a new connection.
        plans: the tables to write to.
        tpcb: pgbench's tables, if they are there.
        rng: this writer's own chance.
        interval_s: the time from one transaction to the next, in seconds; 0 for as fast as it goes.
        now_s: the rehearsal's clock, in seconds, monotonic.
        stopping: when to stop.
        tally: where to count; kept by the caller.
    """

    def __init__(
        self,
        number: int,
        connect: Callable[[], Connection],
        plans: Sequence[WritePlan],
        tpcb: TpcB | None,
        *,
        rng: random.Random,
        interval_s: float,
        now_s: Callable[[], float],
        stopping: threading.Event,
        tally: Tally,
    ) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self.number = number
        self.tally = tally
        self._connect = connect
        self._plans = list(plans)
        self._tpcb = tpcb
        self._rng = rng
        self._interval_s = interval_s
        self._now_s = now_s
        self._stopping = stopping
        self._conn: Connection | None = None
        self._was_connected = False
        self._is_warm = False
        self._committing = False
        self._at = 0

    def cancel(self) -> None:
        """Ask the server to cancel what this writer waits for."""
        conn = self._conn
        if conn is not None and not conn.closed:
            with contextlib.suppress(psycopg.Error):
                conn.cancel_safe(timeout=5)

    def run(self) -> None:
        """The thread's work; never raises: what goes wrong is in the tally."""
        due_s = self._now_s() + self._rng.random() * self._interval_s
        try:
            while not self._stopping.wait(max(0.0, due_s - self._now_s())):
                # a writer that was held up does not catch up afterwards: no burst after a stall
                due_s = max(due_s + self._interval_s, self._now_s())
                self._write_once()
        except Exception as error:  # a bug in here must fail the rehearsal, not die with its thread
            self._collect("", "", f"{type(error).__name__}: {error}")
        finally:
            if self._conn is not None:
                self._conn.close()

    def _write_once(self) -> None:
        conn = self._conn
        if conn is None:
            conn = self._reconnect(self._now_s())
            if conn is None:
                return
        transaction = random_transaction(self._plans, self._tpcb, self._rng)
        done: list[tuple[Statement, int]] = []
        began_s = self._now_s()
        self._committing = False
        try:
            slowest = self._run(conn, transaction, done)
        except psycopg.Error as error:
            self._failed(conn, error, transaction, done, began_s)
            return
        if transaction.ending is Ending.ROLLBACK:
            self.tally.rollbacks += 1
            return
        self._count(done, low=True, high=True)
        self.tally.commits += 1
        if not self._is_warm:
            # the first write of a connection fills its caches, which is no stall of the chain
            self._is_warm = True
            return
        self.tally.began_s.append(began_s)
        self.tally.took_ms.append((self._now_s() - began_s) * 1000)
        self.tally.plan.append(slowest)

    def _run(self, conn: Connection, transaction: Transaction, done: list[tuple[Statement, int]]) -> int:
        """Run it all; ``done`` holds what will count if it commits. Returns the plan of the slowest statement."""
        if transaction.ending is Ending.AUTOCOMMIT:
            statement = transaction.statements[0]
            self._at, self._committing = statement.plan, True
            done.append((statement, conn.execute(statement.query).rowcount))
            return statement.plan
        conn.execute("BEGIN")
        slowest_s, slowest = 0.0, transaction.statements[0].plan
        for statement in transaction.statements:
            self._at, began_s = statement.plan, self._now_s()
            if statement.is_undone:
                conn.execute("SAVEPOINT harness")
            rows = conn.execute(statement.query).rowcount
            if statement.is_undone:
                conn.execute("ROLLBACK TO SAVEPOINT harness")
            else:
                done.append((statement, rows))
            took_s = self._now_s() - began_s
            if took_s > slowest_s:
                slowest_s, slowest = took_s, statement.plan
        if transaction.ending is Ending.ROLLBACK:
            conn.execute("ROLLBACK")
        else:
            self._committing = True
            conn.execute("COMMIT")
        return slowest

    def _count(self, done: Sequence[tuple[Statement, int]], *, low: bool, high: bool) -> None:
        for statement, rows in done:
            change = statement.sign * max(0, rows)
            if low:
                self.tally.net_low[statement.plan] += change
            if high:
                self.tally.net_high[statement.plan] += change

    def _failed(
        self,
        conn: Connection,
        error: psycopg.Error,
        transaction: Transaction,
        done: Sequence[tuple[Statement, int]],
        began_s: float,
    ) -> None:
        if conn.closed or conn.broken:
            self._conn = None
            conn.close()
            if self._committing:
                self.tally.unknown_commits += 1
                self._count_unknown(transaction, done)
            self._reconnect(began_s)
            return
        if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            try:
                conn.rollback()
            except psycopg.Error:
                conn.close()
                self._conn = None
        self._judge(error, began_s)

    def _count_unknown(self, transaction: Transaction, done: Sequence[tuple[Statement, int]]) -> None:
        """The commit may or may not have happened: the least and the most rows part."""
        outcomes = list(done) or [(statement, statement.most_rows) for statement in transaction.statements]
        for statement, rows in outcomes:
            only_low = statement.sign < 0
            self._count([(statement, rows)], low=only_low, high=not only_low)

    def _judge(self, error: psycopg.Error, began_s: float) -> None:
        sqlstate = error.sqlstate or ""
        context = error.diag.context or ""
        if sqlstate == psycopg.errors.QueryCanceled.sqlstate and self._stopping.is_set():
            sqlstate = "cancelled when it was told to stop"
            self.tally.tolerated[sqlstate] += 1
            self.tally.cancelled_at_s.append(self._now_s())
            return
        # what a capture function could not do is never the user's constraint
        is_capture = "pgtrickle" in context or error.diag.schema_name == "pgtrickle_changes"
        if not is_capture and sqlstate.startswith(_TOLERATED):
            self.tally.tolerated[sqlstate] += 1
            return
        at = self._at
        if not context and sqlstate in _CHANGED_TABLE and self._look_again(at):
            self.tally.tolerated[sqlstate] += 1
            return
        words, lasted_s = error.diag.message_primary or str(error), self._now_s() - began_s
        self._collect(self._plans[at].source.label, sqlstate, words, context, lasted_s)

    def _look_again(self, number: int) -> bool:
        """A table changed under the writer: its plan is made anew. False if it did not change after all."""
        conn = self._conn
        if conn is None:
            return True
        old = self._plans[number]
        try:
            tables = fetch_tables(conn, [old.source.relid])
            plans = fetch_write_plans(conn, tables)
        except psycopg.Error:
            return False
        if not plans or plans[0].source == old.source:
            return False
        self._plans[number] = plans[0]
        return True

    def _collect(self, source: str, sqlstate: str, message: str, context: str = "", lasted_s: float = 0.0) -> None:
        if len(self.tally.errors) < ERRORS_KEPT:
            self.tally.errors.append(
                WriteError(self._now_s(), self.number, source, sqlstate, redact(message), redact(context), lasted_s)
            )

    def _reconnect(self, since_s: float) -> Connection | None:
        """Connect, again and again until it works or it is told to stop; the time without a server is an outage."""
        is_outage = self._was_connected
        pause_s = 0.02
        while True:
            try:
                conn = self._connect()
                conn.autocommit = True
                conn.prepare_threshold = None
                conn.execute(_SESSION)
            except psycopg.OperationalError:
                is_outage = True
                if self._stopping.wait(pause_s):
                    return None
                pause_s = min(0.5, pause_s * 2)
                continue
            self._was_connected, self._is_warm = True, False
            if is_outage:
                self.tally.outages.append(Outage(since_s, self._now_s() - since_s, self.number))
            self._conn = conn
            return conn
