"""The session of a refresh: its settings, its snapshot, the statements that it runs; leases.py has the right to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from harness.errors import BadInputError, LockedError, MissingPrivilegeError, ServerGoneError
from harness.trickle.storage import refresh_settings
from harness.trickle.surroundings import is_out_of_sync

T = TypeVar("T")

# How long a refresh waits for a table that somebody locks (VACUUM FULL, ALTER TABLE), in milliseconds, in all.
LOCK_TIMEOUT_MS = 10_000
# Whoever waits in a circle of locks looks for it once, after deadlock_timeout, and is the one that fails. Somebody who
# closes a circle with us must not be: we give our locks back before they look, and begin anew.
_SHARE_OF_DEADLOCK_TIMEOUT = 0.8
# Where we close it, we look first; superusers may set that.
_OWN_DEADLOCK_TIMEOUT = "50ms"
_PAUSE_S = 0.02


def refuse_busy(connection: psycopg.Connection[Any]) -> None:
    """Refuse a connection that is in the middle of something: a refresh has a transaction of its own.

    Raises:
        BadInputError: it is in a transaction, or not in autocommit.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE or not connection.autocommit:
        raise BadInputError(
            "stream tables need a connection in autocommit that is in no transaction",
            hint="open one of their own: psycopg.connect(dsn, autocommit=True)",
        )


@contextmanager
def transaction(
    connection: psycopg.Connection[Any], *, has_citus: bool, is_repeatable: bool, is_undone: bool = False
) -> Iterator[None]:
    """A transaction of a refresh.

    Args:
        connection: in autocommit.
        has_citus: whether there are workers.
        is_repeatable: whether all its statements read one snapshot of this node.
        is_undone: whether it is rolled back in any case.
    """
    path, waiting = _fetch_settings(connection)
    with connection.transaction(force_rollback=is_undone):
        # SET and not set_config(): a SELECT would take the transaction's snapshot before the sources are locked. One
        # round trip.
        settings: list[sql.Composable] = (
            [sql.SQL("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")] if is_repeatable else []
        )
        settings += refresh_settings(is_on_workers=has_citus)
        settings += [
            sql.SQL("SET LOCAL search_path = {}").format(path),
            waiting,
        ]
        if has_citus:
            # Joins that are not colocated (F23), as a person would have to allow them.
            settings.append(sql.SQL("SET LOCAL citus.enable_repartition_joins = on"))
        connection.execute(sql.SQL("; ").join(settings))
        yield


@contextmanager
def giving_way(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction that locks what people's statements lock, and lets them go first; see `patiently`.

    Args:
        connection: in autocommit.

    Raises:
        psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected: somebody is in the way; it was undone.
    """
    _path, waiting = _fetch_settings(connection)
    with connection.transaction():
        connection.execute(waiting)
        yield


def patiently(work: Callable[[], T]) -> T:
    """Do something again until nobody is in its way, and every node that has metadata has the newest.

    Args:
        work: leaves nothing behind where it fails.

    Raises:
        psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected: somebody was for 10 s.
        psycopg.errors.ObjectNotInPrerequisiteState: or a node's metadata were out of sync for as long.
    """
    until = time.monotonic() + LOCK_TIMEOUT_MS / 1000
    while True:
        try:
            return work()
        except psycopg.Error as error:
            is_locked = isinstance(error, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected))
            if not (is_locked or is_out_of_sync(error)) or time.monotonic() >= until:
                raise
            time.sleep(_PAUSE_S)


@contextmanager
def understood(what: str, connection: psycopg.Connection[Any]) -> Iterator[None]:
    """What PostgreSQL says of rights, locks and lost nodes, in this project's errors.

    Args:
        what: was being done or looked at, to begin the message with.
        connection: to the coordinator, on which it is done.

    Raises:
        MissingPrivilegeError: the role may not.
        LockedError: a lock was not to be had in time, or a node's metadata did not become the newest.
        ServerGoneError: a node does not answer, or the connection is lost.
    """
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingPrivilegeError(
            f"{what}: {error.diag.message_primary}", hint="ask its owner, or a superuser", sqlstate=error.sqlstate
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise LockedError(
            f"{what}: {error.diag.message_primary}", hint="somebody holds a lock on it or on a source (pg_locks)"
        ) from error
    except psycopg.Error as error:
        if is_out_of_sync(error):
            raise LockedError(
                f"{what}: {error.diag.message_primary}",
                hint="Citus' maintenance daemon brings a node's metadata up to date by itself: try again, and look at"
                " pg_dist_node.metadatasynced if it stays so",
                sqlstate=error.sqlstate,
            ) from error
        if is_lost(error, connection):
            words = (str(error).strip().splitlines() or ["the connection was lost"])[0]
            raise ServerGoneError(
                f"{what}: {words}",
                hint="a node does not answer; what was being committed is there wholly or not at all",
                sqlstate=error.sqlstate,
            ) from error
        raise


def is_lost(error: psycopg.Error, connection: psycopg.Connection[Any]) -> bool:
    """Whether an error says that a node is gone; on a connection that is lost every error says so."""
    if connection.closed or connection.broken:
        return True
    if isinstance(error, psycopg.errors.QueryCanceled) or not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate[:2] in {"08", "57"}


def fetch_waiting(connection: psycopg.Connection[Any]) -> sql.Composed:
    """The settings of how a transaction of ours waits for locks; see `patiently`."""
    return _fetch_settings(connection)[1]


def _fetch_settings(connection: psycopg.Connection[Any]) -> tuple[sql.SQL, sql.Composed]:
    """The search path of a refresh, and the settings of how it waits.

    PostgreSQL's own names come first in the path, then the session's: USING, CASE and IS DISTINCT FROM cannot name the
    schema of their operator.
    """
    row = connection.execute(
        # Not from pg_settings, which puts all of them together: current_setting says 1s, 500ms, 2min.
        "SELECT current_setting('search_path'),"
        " (extract(epoch FROM current_setting('deadlock_timeout')::interval) * 1000)::int"
    ).fetchone()
    own, deadlock_timeout_ms = (str(row[0]).strip(), int(row[1])) if row else ("", 1000)
    path = sql.SQL("pg_catalog") if own in {"", '""'} else sql.SQL("pg_catalog, " + own)
    patience_ms = min(LOCK_TIMEOUT_MS, max(1, int(deadlock_timeout_ms * _SHARE_OF_DEADLOCK_TIMEOUT)))
    waiting = sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(patience_ms))
    if connection.info.parameter_status("is_superuser") == "on":
        waiting += sql.SQL("; SET LOCAL deadlock_timeout = {}").format(sql.Literal(_OWN_DEADLOCK_TIMEOUT))
    return path, waiting


@dataclass(frozen=True)
class Texts:
    """Statements that were put together before, and what stands in them this time.

    Attributes:
        connection: that they are written for.
        known: by purpose and variant; each with marks in it.
        values: what takes the place of each mark.
    """

    connection: psycopg.Connection[Any]
    known: dict[tuple[str, str], bytes]
    values: Mapping[bytes, bytes]

    def get(self, purpose: str, variant: str, make: Callable[[], sql.Composed]) -> bytes:
        """A statement, put together only if it was not before."""
        text = self.known.get((purpose, variant))
        if text is None:
            text = self.known[purpose, variant] = make().as_bytes(self.connection)
        for mark, value in self.values.items():
            text = text.replace(mark, value)
        return text


class Statements:
    """Runs a target's statements, and writes them down.

    Args:
        connection: in the transaction of a refresh.
        is_dry: whether nothing is run.
        texts: what was put together before; None: each is put together, and written down.

    Attributes:
        seen: purpose and SQL of each, where no texts were given.
        is_dry: whether nothing is run.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], *, is_dry: bool = False, texts: Texts | None = None
    ) -> None:
        self._connection = connection
        self._texts = texts
        self.is_dry = is_dry
        self.seen: list[tuple[str, sql.Composed]] = []

    def run(self, purpose: str, make: Callable[[], sql.Composed], *, variant: str = "") -> int:
        """Run a statement; how many rows it was about."""
        query = self._query(purpose, make, variant)
        return 0 if self.is_dry else max(self._connection.execute(query).rowcount, 0)

    def fetch(self, purpose: str, make: Callable[[], sql.Composed], *, variant: str = "") -> list[tuple[Any, ...]]:
        """Run a query; its rows."""
        query = self._query(purpose, make, variant)
        return [] if self.is_dry else self._connection.execute(query).fetchall()

    def _query(self, purpose: str, make: Callable[[], sql.Composed], variant: str) -> sql.Composed | bytes:
        if self._texts is not None:
            return self._texts.get(purpose, variant, make)
        query = make()
        self.seen.append((purpose, query))
        return query
