"""The scheduler's own sessions: a connection each, one refresh at a time, opened again after it was lost."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

import psycopg

from harness.errors import HarnessError, LockedError
from harness.postgres.deadlines import DeadlineConnection
from harness.scheduler.place import connect, prove
from harness.trickle import Refresh, StreamTables


@dataclass(frozen=True)
class Outcome:
    """How a refresh ended.

    Attributes:
        refresh: what it did; None: nothing.
        error: why it did nothing; None: it did something.
        takeovers: stale leases that were taken over for it.
        has_met_holder: whether somebody else had the lease; a source that somebody locks is another thing.
    """

    refresh: Refresh | None
    error: Exception | None
    takeovers: int = 0
    has_met_holder: bool = False

    @property
    def is_locked(self) -> bool:
        """Whether somebody else was at it, which is no failure."""
        return isinstance(self.error, LockedError)


class Session:
    """A connection and what is known over it. `refresh` is called from one thread at a time, `cancel` from any."""

    def __init__(self, dsn: str, errors_until_error: int) -> None:
        self._dsn = dsn
        self._errors_until_error = errors_until_error
        self._connection: DeadlineConnection | None = None
        self._tables: StreamTables | None = None
        self._guard = threading.Lock()
        #: Numbers of the stream tables whose plans it has.
        self.knows: set[int] = set()

    def refresh(self, pgt_id: int, name: str) -> Outcome:
        """Bring a stream table up to date; never raises what a database may do."""
        before = waits = 0
        try:
            tables = self.open()
            before, waits = tables.leases.takeovers, tables.leases.waits
            self.knows.add(pgt_id)
            done = tables.refresh(name, initiated_by="SCHEDULER")
            return Outcome(done, None, tables.leases.takeovers - before)
        except (HarnessError, psycopg.Error) as error:
            leases = None if self._tables is None else self._tables.leases
            takeovers = 0 if leases is None else leases.takeovers - before
            has_met_holder = leases is not None and leases.waits > waits
            is_read_only = isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
            if self._connection is None or self._connection.closed or self._connection.broken or is_read_only:
                self.close()
            return Outcome(None, error, takeovers, has_met_holder)

    def open(self) -> StreamTables:
        """Its stream tables, over a connection that was alive a moment ago.

        Raises:
            HarnessError: there is no database, or not one where a scheduler may run.
        """
        if self._tables is not None and self._connection is not None and not self._connection.closed:
            return self._tables
        opened = connect(self._dsn)
        try:
            prove(opened)
            tables = StreamTables(opened, errors_until_error=self._errors_until_error)
        except BaseException:
            opened.close()
            raise
        with self._guard:
            self._connection, self._tables = opened, tables
        self.knows.clear()
        return tables

    def connection(self) -> DeadlineConnection:
        """The connection below, for what is no stream table's own.

        Raises:
            HarnessError: as `open`.
        """
        self.open()
        if self._connection is None:
            raise AssertionError("an open session has a connection")
        return self._connection

    def cancel(self) -> None:
        """End what it is doing, from another thread."""
        with self._guard:
            connection = self._connection
        if connection is not None and not connection.closed:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)

    def close(self) -> None:
        """Close it; it is opened again when needed."""
        with self._guard:
            connection, tables = self._connection, self._tables
            self._connection, self._tables = None, None
        if tables is not None:
            tables.close()
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
