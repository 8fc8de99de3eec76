"""The session of a refresh: its settings, its snapshot, the statements that it runs; leases.py has the right to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from harness.errors import BadInputError, LockedError, MissingPrivilegeError, ServerGoneError
from harness.trickle.storage import refresh_settings

# How long a refresh waits for a table that somebody locks (VACUUM FULL, ALTER TABLE), in milliseconds.
LOCK_TIMEOUT_MS = 10_000


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
    path = _search_path(connection)
    with connection.transaction(force_rollback=is_undone):
        # SET and not set_config(): a SELECT would take the transaction's snapshot before the sources are locked. One
        # round trip.
        settings: list[sql.Composable] = (
            [sql.SQL("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")] if is_repeatable else []
        )
        settings += refresh_settings(is_on_workers=has_citus)
        settings += [
            sql.SQL("SET LOCAL search_path = {}").format(path),
            sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)),
        ]
        if has_citus:
            # Joins that are not colocated (F23), as a person would have to allow them.
            settings.append(sql.SQL("SET LOCAL citus.enable_repartition_joins = on"))
        connection.execute(sql.SQL("; ").join(settings))
        yield


@contextmanager
def understood(what: str) -> Iterator[None]:
    """What PostgreSQL says of rights, locks and lost nodes, in this project's errors.

    Args:
        what: was being done or looked at, to begin the message with.

    Raises:
        MissingPrivilegeError: the role may not.
        LockedError: a lock was not to be had in time.
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
    except psycopg.OperationalError as error:
        if error.sqlstate is None or error.sqlstate[:2] in {"08", "57"}:
            words = (str(error).strip().splitlines() or ["the connection was lost"])[0]
            raise ServerGoneError(
                f"{what}: {words}", hint="a node does not answer; nothing was changed", sqlstate=error.sqlstate
            ) from error
        raise


def _search_path(connection: psycopg.Connection[Any]) -> sql.SQL:
    """PostgreSQL's own names first, then the session's: USING, CASE and IS DISTINCT FROM cannot name the schema of
    their operator."""
    row = connection.execute("SHOW search_path").fetchone()
    own = str(row[0]).strip() if row else ""
    return sql.SQL("pg_catalog") if own in {"", '""'} else sql.SQL("pg_catalog, " + own)


class Statements:
    """Runs a target's statements, and writes them down.

    Attributes:
        seen: purpose and SQL of each.
        is_dry: whether nothing is run.
    """

    def __init__(self, connection: psycopg.Connection[Any], *, is_dry: bool = False) -> None:
        self._connection = connection
        self.is_dry = is_dry
        self.seen: list[tuple[str, sql.Composed]] = []

    def run(self, purpose: str, query: sql.Composed) -> int:
        """Run a statement; how many rows it was about."""
        self._note(purpose, query)
        return 0 if self.is_dry else max(self._connection.execute(query).rowcount, 0)

    def fetch(self, purpose: str, query: sql.Composed) -> list[tuple[Any, ...]]:
        """Run a query; its rows."""
        self._note(purpose, query)
        return [] if self.is_dry else self._connection.execute(query).fetchall()

    def _note(self, purpose: str, query: sql.Composed) -> None:
        self.seen.append((purpose, query))
