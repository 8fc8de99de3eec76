"""Connections of the chain: errors of libpq and of the server become this project's own, without passwords."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import conninfo
from psycopg.rows import TupleRow

from harness.errors import (
    BadInputError,
    CheckFailedError,
    ConnectionRefusedByInput,
    DiskFullError,
    HarnessError,
    MissingPrivilegeError,
    RefusedError,
    ServerGoneError,
)
from harness.logs import redact

Connection = psycopg.Connection[TupleRow]
APPLICATION_NAME = "harness chain"


def describe_dsn(dsn: str) -> str:
    """Host, port, database and role of a DSN, for people; never the password.

    Raises:
        BadInputError: it is no DSN.
    """
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise BadInputError(
            f"the DSN cannot be read: {redact(str(error)).strip()}",
            hint="write it as 'host=... port=... dbname=... user=...' or as postgresql://user@host:port/dbname",
        ) from None
    named = [
        f"{key}={parts[key]}" for key in ("host", "hostaddr", "port", "dbname", "user", "service") if parts.get(key)
    ]
    return " ".join(named) or "libpq's defaults"


# Of the session from its first statement on: a database may end statements that last for some milliseconds.
_NO_TIMEOUTS = " -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
_NO_TRANSACTION_TIMEOUT = " -c transaction_timeout=0"  # since PostgreSQL 17


def connect(dsn: str, *, autocommit: bool = True, read_only: bool = False) -> Connection:
    """Connect, with an application name that says who is there.

    Args:
        dsn: libpq connection string or URI.
        autocommit: one transaction a statement.
        read_only: the session refuses to write, whatever it is asked.

    Raises:
        BadInputError: it is no DSN.
        ConnectionRefusedByInput: it leads to no database; says where it went, without the password.
    """
    where = describe_dsn(dsn)
    given = conninfo.conninfo_to_dict(dsn).get("options") or ""
    read = " -c default_transaction_read_only=on" if read_only else ""
    try:
        try:
            return _open(dsn, f"{given}{_NO_TIMEOUTS}{_NO_TRANSACTION_TIMEOUT}{read}", autocommit=autocommit)
        except psycopg.OperationalError as error:
            if "transaction_timeout" not in str(error):
                raise
            # Too old a server, which the preflight refuses in words of its own.
            return _open(dsn, f"{given}{_NO_TIMEOUTS}{read}", autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise ConnectionRefusedByInput(
            f"no connection to {where}: {redact(str(error)).strip()}",
            hint="check host, port, database, role and password",
            sqlstate=error.sqlstate,
        ) from None


def _open(dsn: str, options: str, *, autocommit: bool) -> Connection:
    words = {"application_name": APPLICATION_NAME, "connect_timeout": "10", "options": options.strip()}
    return psycopg.connect(conninfo.make_conninfo(dsn, **words), autocommit=autocommit)


def translate(error: psycopg.Error, *, doing: str) -> HarnessError:
    """The server's error as one of ours.

    Args:
        error: what psycopg raised.
        doing: what was being done, for the message.
    """
    diagnostic = error.diag
    message = redact(diagnostic.message_primary or str(error)).strip()
    detail = redact(diagnostic.message_detail or "")
    hint = redact(diagnostic.message_hint or "")
    text = f"{doing}: {message}" + (f"\n{detail}" if detail else "")
    state = error.sqlstate
    if isinstance(error, psycopg.errors.DiskFull):
        return DiskFullError(
            text, hint=hint or "make room on the server's disk and run the same command again", sqlstate=state
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return MissingPrivilegeError(text, hint=hint or "use the owner of the tables, or a superuser", sqlstate=state)
    if isinstance(
        error, psycopg.errors.ObjectNotInPrerequisiteState | psycopg.errors.RaiseException | psycopg.errors.ObjectInUse
    ):
        return RefusedError(text, hint=hint, sqlstate=state)
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return CheckFailedError(
            text, hint=hint or "run the same command again: it goes on where it stopped", sqlstate=state
        )
    if state is None or state.startswith(("57P", "08")):
        return ServerGoneError(
            f"{doing}: the server went away: {message}",
            hint="start it and run the same command again: the chain goes on where it stopped",
            sqlstate=state,
        )
    return HarnessError(text, hint=hint, sqlstate=state)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Let nothing of psycopg's out of this block; ``doing`` says what it was about."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, doing=doing) from error
