"""Who may refresh or change a stream table: a lease on a cluster (D8), an advisory lock without one.

The rules are in the database (migrations/sql/0008_up.sql): a lease is taken in a transaction of its own, has a deadline
and a fencing token, and is checked inside the refresh's own COMMIT. This module takes it, keeps it alive over a
connection of its own, and gives it back. docs/leases.md tells the whole.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from harness import __version__
from harness.errors import LeaseLostError, LockedError, RefusedError, StreamTableNotFoundError, WaitTimeoutError
from harness.logs import get_logger
from harness.postgres.deadlines import DeadlineConnection

# The class of this project's advisory locks; the second key is the stream table's number.
LOCK_CLASS = 0x7067_7443
# What the database says when a lease was lost (migrations/sql/0008_up.sql).
LOST_STATE = "PTL01"
# A lease is renewed three times before it runs out: two may fail.
RENEWALS = 3
# While a lease cannot be renewed, as when the server has no connection left, it is tried again so often.
RENEW_AGAIN_S = 2.0
# Waiting for a lease asks so often: half a round of a quick refresh at first, then calmly.
_POLL_S, _POLL_MAX_S = 0.01, 0.5
_ANSWER_DEADLINE_S = 10.0
_CONNECT_TIMEOUT_S = 5

Kind = Literal["lease", "advisory"]
_log = get_logger("leases")

# What the session is set to while it works. Where its client froze or its machine is gone, the server ends it, and with
# it the locks: after the lock timeout, or as soon as the connection is found dead in the middle of a statement.
_GUARDS = sql.SQL(
    "pg_catalog.set_config('idle_in_transaction_session_timeout', {idle}, false),"
    " pg_catalog.set_config('idle_session_timeout', {idle}, false),"
    # Platforms that cannot tell refuse the setting.
    " CASE WHEN pg_catalog.version() LIKE '%%linux%%'"
    " THEN pg_catalog.set_config('client_connection_check_interval', '5s', false) END"
)
_FORMER = sql.SQL(
    "pg_catalog.current_setting('idle_in_transaction_session_timeout'),"
    " pg_catalog.current_setting('idle_session_timeout'),"
    " pg_catalog.current_setting('client_connection_check_interval')"
)
_RESTORE = sql.SQL(
    "pg_catalog.set_config('idle_in_transaction_session_timeout', %s, false),"
    " pg_catalog.set_config('idle_session_timeout', %s, false),"
    " pg_catalog.set_config('client_connection_check_interval', %s, false)"
)
_IDLE = sql.SQL("(pg_catalog.ceil(got.span_s * 1000))::bigint::text")
# Whoever takes a lease over ends the session that had it, so the server need not be as quick: a refresh that asks
# workers is idle for some seconds.
_IDLE_LEASED = sql.SQL("(pg_catalog.ceil(greatest(got.span_s, 30) * 1000))::bigint::text")
_ACQUIRE_LEASE = (
    sql.SQL(
        "SELECT got.token, got.taken_at, got.span_s, got.held_by, got.held_pid, got.held_until::text, got.taken_from,"
        " {former},"
        " CASE WHEN got.token IS NOT NULL THEN ROW({guards})::text END"
        " FROM pgtrickle.acquire_lease(%s, %s) AS got"
    )
    .format(former=_FORMER, guards=_GUARDS.format(idle=_IDLE_LEASED))
    .as_bytes()
)
_ACQUIRE_ADVISORY = (
    sql.SQL(
        "SELECT CASE WHEN got.is_held THEN 0 END, pg_catalog.clock_timestamp(), got.span_s, NULL, NULL, NULL, NULL,"
        " {former},"
        " CASE WHEN got.is_held THEN ROW({guards})::text END"
        " FROM (SELECT pg_catalog.pg_try_advisory_lock(%s, %s) AS is_held,"
        " extract(epoch FROM pgtrickle.lock_timeout())::float8 AS span_s OFFSET 0) AS got"
    )
    .format(former=_FORMER, guards=_GUARDS.format(idle=_IDLE))
    .as_bytes()
)
_RELEASE_LEASE = sql.SQL("SELECT pgtrickle.release_lease(%s, %s), {}").format(_RESTORE).as_bytes()
_RELEASE_ADVISORY = sql.SQL("SELECT pg_catalog.pg_advisory_unlock(%s, %s), {}").format(_RESTORE).as_bytes()
_ADVISORY_HOLDER = """
    SELECT a.application_name, a.pid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s::oid AND l.objid = %s::oid
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"""


@dataclass(frozen=True)
class Lease:
    """The right to refresh or change one stream table, for a while.

    Attributes:
        pgt_id: the stream table's number.
        token: its fencing token; 0 for an advisory lock.
        taken_at: when, by the server's clock.
        span_s: how long it lasts without being renewed, in seconds.
        taken_from: who had it before and let it run out; None: nobody.
    """

    pgt_id: int
    token: int
    taken_at: datetime
    span_s: float
    taken_from: str | None = None


@dataclass(frozen=True)
class _Taken:
    """A lease, and what its session was set to before."""

    lease: Lease
    former: tuple[str, str, str]


class Leases:
    """Takes leases for one session.

    Args:
        connection: to the coordinator, in autocommit; the refreshes run on it.
        kind: ``lease`` on a cluster, ``advisory`` without one. All who work on one database have to use the same.

    Attributes:
        waits: how often somebody else had what was wanted.
        takeovers: how often a stale lease was taken over.
    """

    def __init__(self, connection: psycopg.Connection[Any], kind: Kind) -> None:
        self._connection = connection
        self.kind = kind
        self.waits = 0
        self.takeovers = 0
        self._keeper = _Keeper(connection)

    def close(self) -> None:
        """End the thread that keeps leases alive; it is started again when needed."""
        self._keeper.close()

    @contextlib.contextmanager
    def held(self, pgt_id: int, name: str, *, wait_s: float = 0.0) -> Iterator[Lease]:
        """Be the only one who refreshes or changes a stream table, as long as this lasts.

        Args:
            pgt_id: number of the stream table.
            name: its name, for the message.
            wait_s: how long to wait for whoever has it, in seconds.

        Raises:
            LockedError: somebody else is at it; says who.
            LeaseLostError: it ran out while this worked, and what was done last was undone.
            StreamTableNotFoundError: it was dropped.
        """
        taken = self._wait(pgt_id, name, wait_s)
        if self.kind == "lease":
            self._keeper.keep(taken.lease)
        try:
            yield taken.lease
        except psycopg.Error as error:
            if error.sqlstate != LOST_STATE:
                raise
            raise LeaseLostError(
                f"the lease on {name} was lost after {taken.lease.span_s:.0f} s without a sign of life",
                hint="what this refresh did was undone, and whoever took it goes on; refresh it again",
                sqlstate=LOST_STATE,
            ) from error
        finally:
            self._keeper.drop(taken.lease)
            self._release(taken)

    def _wait(self, pgt_id: int, name: str, wait_s: float) -> _Taken:
        give_up_at = time.monotonic() + wait_s
        pause_s = _POLL_S
        is_first = True
        while True:
            found = self._acquire(pgt_id, name)
            if isinstance(found, _Taken):
                return found
            if is_first:
                self.waits += 1
            is_first = False
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                waited = f" (waited {wait_s:g} s)" if wait_s else ""
                raise LockedError(
                    f"{name} is being refreshed or changed by {found}{waited}",
                    hint="wait until it is done: --wait SECONDS does",
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, _POLL_MAX_S)

    def _acquire(self, pgt_id: int, name: str) -> _Taken | str:
        """The lease, or who has it."""
        try:
            if self.kind == "lease":
                row = self._connection.execute(
                    _ACQUIRE_LEASE, [pgt_id, holder_name(self._connection)], binary=True
                ).fetchone()
            else:
                row = self._connection.execute(_ACQUIRE_ADVISORY, [LOCK_CLASS, pgt_id], binary=True).fetchone()
        except (psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable):
            # Somebody else was quicker, where transactions are repeatable or serializable; or drops it just now.
            return "another session"
        except psycopg.errors.ForeignKeyViolation:
            raise StreamTableNotFoundError(
                f"stream table {name} was dropped a moment ago", hint="`harness st list` shows those that are left"
            ) from None
        except psycopg.errors.InvalidParameterValue as error:
            raise RefusedError(
                str(error.diag.message_primary), hint=str(error.diag.message_hint or ""), sqlstate=error.sqlstate
            ) from None
        if row is None:
            raise AssertionError("a query of one row gave none")
        token, taken_at, span_s, held_by, held_pid, held_until, taken_from, *rest = row
        if token is None:
            return self._holder(pgt_id, held_by, held_pid, held_until)
        if taken_from is not None:
            self.takeovers += 1
            _log.warning("took over a stale lease", stream_table=name, taken_from=taken_from)
        return _Taken(
            Lease(pgt_id, int(token), taken_at, float(span_s), taken_from), (str(rest[0]), str(rest[1]), str(rest[2]))
        )

    def _holder(self, pgt_id: int, held_by: str | None, held_pid: int | None, held_until: str | None) -> str:
        if held_by is not None:
            return f"{held_by} (server process {held_pid}, until {held_until} unless it is renewed)"
        if self.kind == "advisory":
            row = self._connection.execute(_ADVISORY_HOLDER, [LOCK_CLASS, pgt_id]).fetchone()
            if row is not None:
                return f"another session ({row[0] or 'unnamed'}, server process {row[1]})"
        return "another session"

    def _release(self, taken: _Taken) -> None:
        # A session that is gone has lost its lease with it: the database sees that.
        if self._connection.closed:
            return
        with contextlib.suppress(psycopg.Error):
            if self.kind == "lease":
                self._connection.execute(_RELEASE_LEASE, [taken.lease.pgt_id, taken.lease.token, *taken.former])
            else:
                self._connection.execute(_RELEASE_ADVISORY, [LOCK_CLASS, taken.lease.pgt_id, *taken.former])

    def check(self, lease: Lease, name: str) -> None:
        """Refuse to go on under a lease that was lost; saves the work, which the commit would refuse anyway.

        Raises:
            LeaseLostError: it was.
        """
        if self.kind == "advisory":
            return
        row = self._connection.execute(
            "SELECT 1 FROM pgtrickle.st_locks WHERE pgt_id = %s AND fencing_token = %s", [lease.pgt_id, lease.token]
        ).fetchone()
        if row is None:
            raise LeaseLostError(f"the lease on {name} was lost", hint="nothing was changed; refresh it again")


def holder_name(connection: psycopg.Connection[Any]) -> str:
    """Who takes a lease, for people: program, version, machine, process."""
    program = connection.info.parameter_status("application_name") or "harness"
    version = "" if __version__ in program else f" {__version__}"
    return f"{program}{version} on {socket.gethostname()}, process {os.getpid()}"


class _Keeper:
    """Renews the leases that a session has, from a thread and over a connection of its own.

    A client that freezes freezes it too, and so loses the lease; a statement that takes hours does not. The thread
    sleeps a third of a lease at a time and looks then: a refresh that is quicker than that costs it nothing. It ends by
    itself when it finds no lease.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._refreshes_on = connection
        self._guard = threading.Lock()
        self._hurry = threading.Event()
        self._leases: dict[int, Lease] = {}
        self._pause_s = 0.0
        self._thread: threading.Thread | None = None
        self._connection: DeadlineConnection | None = None

    def keep(self, lease: Lease) -> None:
        """Renew this one from now on."""
        with self._guard:
            self._leases[lease.token] = lease
            if self._thread is None:
                self._pause_s = lease.span_s / RENEWALS
                self._thread = threading.Thread(target=self._run, name="lease keeper", daemon=True)
                self._thread.start()
            elif lease.span_s / RENEWALS < self._pause_s:
                self._hurry.set()

    def drop(self, lease: Lease) -> None:
        """Renew it no longer."""
        with self._guard:
            self._leases.pop(lease.token, None)

    def close(self) -> None:
        """End the thread."""
        with self._guard:
            self._leases.clear()
            thread = self._thread
            self._hurry.set()
        if thread is not None:
            thread.join(timeout=_ANSWER_DEADLINE_S + _CONNECT_TIMEOUT_S)

    def _run(self) -> None:
        try:
            while True:
                self._hurry.wait(self._pause_s)
                self._hurry.clear()
                with self._guard:
                    leases = list(self._leases.values())
                    if not leases:
                        self._thread = None
                        return
                    self._pause_s = min(lease.span_s for lease in leases) / RENEWALS
                for lease in leases:
                    self._renew_or_tell(lease)
        finally:
            with self._guard:
                if self._thread is threading.current_thread():
                    self._thread = None
            self._disconnect()

    def _renew_or_tell(self, lease: Lease) -> None:
        try:
            if not self._renew(lease):
                with self._guard:
                    # It may just have been given back.
                    is_lost = self._leases.pop(lease.token, None) is not None
                if is_lost:
                    _log.warning("a lease was lost", pgt_id=lease.pgt_id, token=lease.token)
        except (psycopg.Error, WaitTimeoutError) as error:
            _log.warning("a lease could not be renewed", pgt_id=lease.pgt_id, error=str(error))
            self._disconnect()
            self._pause_s = min(RENEW_AGAIN_S, self._pause_s)

    def _renew(self, lease: Lease) -> bool:
        if self._connection is None:
            self._connection = DeadlineConnection.connect(
                self._dsn(), autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S
            )
            self._connection.deadline_s = _ANSWER_DEADLINE_S
        row = self._connection.execute(
            "SELECT pgtrickle.renew_lease(%s, %s, make_interval(secs => %s))", [lease.pgt_id, lease.token, lease.span_s]
        ).fetchone()
        return bool(row and row[0])

    def _dsn(self) -> str:
        """The very server that the refresh runs on, whatever other hosts the session's DSN has."""
        info = self._refreshes_on.info
        parameters = {name: value for name, value in info.get_parameters().items() if name != "hostaddr"}
        parameters.pop("target_session_attrs", None)
        parameters |= {"host": info.host, "port": str(info.port), "application_name": "harness lease"}
        return make_conninfo("", **parameters, password=info.password or None)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
