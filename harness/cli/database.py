"""What commands on a database share: which database, a connection to it, errors of the server as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from harness.chain.connection import Connection, connect, translate
from harness.errors import BadInputError, HarnessError, RefusedError, ServerGoneError
from harness.settings import load_settings

# SQLSTATE classes that speak of what was asked for, not of the server: a feature that is not there, a value that can't
# be used, a constraint or a state that says no, a name that is not there, a syntax error.
_REFUSED = ("0A", "21", "22", "23", "2B", "3D", "3F", "42", "44", "55")
# Somebody else was in the way: deadlocks, serialisation failures.
_RETRY = ("40",)


def chosen_dsn(given: str | None) -> str:
    """The DSN of ``--dsn``, else HARNESS_DSN.

    Raises:
        BadInputError: neither is there.
    """
    if given:
        return given
    secret = load_settings().dsn
    if secret is None:
        raise BadInputError("no database is named", hint="pass --dsn or set HARNESS_DSN")
    return secret.get_secret_value()


@contextmanager
def connected(given: str | None, *, name: str) -> Iterator[Connection]:
    """An autocommit connection for a block.

    Args:
        given: what ``--dsn`` says.
        name: the session's application name.

    Raises:
        BadInputError: there is no DSN, or it can't be read.
        ConnectionRefusedByInput: it leads to no database.
    """
    with connect(chosen_dsn(given)) as connection:
        connection.execute("SELECT pg_catalog.set_config('application_name', %s, false)", [name])
        yield connection


def _translate(error: psycopg.Error, doing: str) -> HarnessError:
    state = error.sqlstate
    ours = translate(error, doing=doing)
    if state is None and isinstance(error, psycopg.DataError | psycopg.ProgrammingError | psycopg.NotSupportedError):
        # psycopg itself refuses the value, such as one with a zero byte.
        return BadInputError(f"{doing}: {error}")
    if type(ours) is HarnessError and state is not None and state.startswith(_REFUSED):
        return RefusedError(ours.message, hint=ours.hint, sqlstate=state)
    if isinstance(error, psycopg.errors.LockNotAvailable) or (state is not None and state.startswith(_RETRY)):
        hint = "somebody else was in the way: run the same command again"
        return RefusedError(ours.message, hint=ours.hint if state != "55P03" and ours.hint else hint, sqlstate=state)
    if isinstance(ours, ServerGoneError):
        ours.hint = "start it and run the same command again; what was not committed is undone"
    return ours


@contextmanager
def refused_in_words(doing: str) -> Iterator[None]:
    """Let nothing of psycopg's out of this block: exit code 2 where the request is to blame, else 3.

    Args:
        doing: what the block does, for the message.
    """
    try:
        yield
    except psycopg.Error as error:
        raise _translate(error, doing) from error
