"""Runs inspectors: one read-only transaction a look, and one envelope whatever comes of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import errors

from harness.errors import LockedError, WaitTimeoutError
from harness.inspectors import inputs as reading
from harness.inspectors import opening, ordering, registry
from harness.inspectors.asking import Silent
from harness.inspectors.contract import Envelope, Found, Inspector, Reason, Status, Unavailable
from harness.inspectors.limits import Limits
from harness.inspectors.opening import Connection
from harness.inspectors.redaction import Redactor
from harness.inspectors.session import Session
from harness.settings import load_settings

__all__ = ["Inspection", "Limits", "inspect", "look_within"]

# Of one process: an assistant that asks everything at once must not take a cluster's connections.
MOST_AT_ONCE = 4
_PATIENCE_S = 30.0
_slots = threading.BoundedSemaphore(MOST_AT_ONCE)

_REASONS: tuple[tuple[type[psycopg.Error], Reason], ...] = (
    (errors.InsufficientPrivilege, Reason.INSUFFICIENT_PRIVILEGE),
    (errors.LockNotAvailable, Reason.LOCK_TIMEOUT),
    (errors.QueryCanceled, Reason.STATEMENT_TIMEOUT),
    (errors.ObjectNotInPrerequisiteState, Reason.NOT_PRELOADED),
    (errors.UndefinedTable, Reason.UNSUPPORTED_VERSION),
    (errors.UndefinedColumn, Reason.UNSUPPORTED_VERSION),
    (errors.UndefinedFunction, Reason.UNSUPPORTED_VERSION),
    (errors.UndefinedObject, Reason.UNSUPPORTED_VERSION),
)
# Of nodes that failed, the worst first.
_NODE_VERBS: tuple[tuple[Reason, str], ...] = (
    (Reason.NODE_UNREACHABLE, "cannot be reached"),
    (Reason.STATEMENT_TIMEOUT, "did not answer in time"),
    (Reason.NODE_FAILED, "did not answer"),
)


def default_redactor() -> Redactor:
    """As ``HARNESS_INSPECT_KEY`` has it: without that key, tenants are not shown."""
    key = load_settings().inspect_key
    return Redactor(key.get_secret_value().encode() if key is not None else b"")


class Inspection:
    """Looks at one cluster, one after another, on one connection.

    Args:
        where: the coordinator: its DSN, or a connection in autocommit, which stays open.
        limits: how long, and how much.
        redactor: what is shown of what people wrote; None: as the environment says.

    Raises:
        BadInputError, ConnectionRefusedByInput: see `harness.inspectors.opening.connect`.
    """

    def __init__(
        self, where: str | Connection, *, limits: Limits | None = None, redactor: Redactor | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.redactor = redactor or default_redactor()
        self._silent = Silent()
        self._dsn = where if isinstance(where, str) else None
        self._connection: Connection = opening.connect(where, self.limits) if isinstance(where, str) else where

    def inspect(
        self,
        name: str,
        values: Mapping[str, Any] | None = None,
        *,
        known: Mapping[str, Envelope[Any]] | None = None,
    ) -> Envelope[Any]:
        """One look. Whatever the cluster does, the answer is an envelope.

        Args:
            name: of the inspector.
            values: its inputs, as text or as they are.
            known: answers of other inspectors without inputs, for one that rests on them: it does not look again.

        Raises:
            BadInputError: there is no such inspector, or an input cannot be used; nothing was asked.
            LockedError: too many looks of this process are under way.
        """
        inspector = registry.get(name)
        given = reading.parse(inspector.inputs, values or {})
        if not _slots.acquire(timeout=_PATIENCE_S):
            raise LockedError(f"{MOST_AT_ONCE} looks are under way", hint="ask for fewer at once")
        try:
            return self._look(inspector, given, dict(known or {}))
        finally:
            _slots.release()

    def _look(
        self, inspector: Inspector[Any, Any], given: reading.Listing, known: dict[str, Envelope[Any]]
    ) -> Envelope[Any]:
        if self._dsn is not None and self._connection.closed:
            self._connection = opening.connect(self._dsn, self.limits)
        try:
            with opening.transaction(self._connection, self.limits, inspector.cost):
                session = opening.open_session(self._connection, self.limits, inspector.cost, self.redactor)
                session.known, session.silent = known, self._silent
                return _answer(inspector, given, session)
        except (Unavailable, psycopg.Error, WaitTimeoutError) as error:
            return _failure(inspector, given, error, self._connection, self.redactor)

    def close(self) -> None:
        """Close the connection, if it is ours."""
        if self._dsn is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def inspect(
    where: str | Connection,
    name: str,
    values: Mapping[str, Any] | None = None,
    *,
    limits: Limits | None = None,
    redactor: Redactor | None = None,
) -> Envelope[Any]:
    """One look on a connection of its own (arguments and errors: see `Inspection`)."""
    with Inspection(where, limits=limits, redactor=redactor) as inspection:
        return inspection.inspect(name, values)


def look_within(session: Session, name: str, values: Mapping[str, Any] | None = None) -> Envelope[Any]:
    """One inspector's look for another one, in its transaction; what fails does not end that.

    Args:
        session: of the look that asks; nodes that fail here are noted there too.
        name, values: see `Inspection.inspect`. Without values, an answer that is known already is not looked for
            again.

    Raises:
        BadInputError: there is no such inspector, or an input cannot be used.
        psycopg.Error, WaitTimeoutError: the connection to the coordinator was lost.
    """
    if not values and name in session.known:
        return session.known[name]
    inspector = registry.get(name)
    given = reading.parse(inspector.inputs, values or {})
    connection = session.connection
    inner = replace(session, cost=inspector.cost, asked=[], answered={}, failed={}, readonly_enforced=None)
    connection.execute("SAVEPOINT look")
    try:
        if session.citus_version:
            connection.execute(opening.citus_settings(session.limits, inspector.cost))
        found = _answer(inspector, given, inner)
    except (Unavailable, psycopg.Error, WaitTimeoutError) as error:
        if connection.closed:
            raise
        found = _failure(inspector, given, error, connection, session.redactor)
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK TO SAVEPOINT look; RELEASE SAVEPOINT look")
    session.take(inner)
    if not values:
        session.known[name] = found
    return found


def _answer(inspector: Inspector[Any, Any], given: reading.Listing, session: Session) -> Envelope[Any]:
    if inspector.needs_citus and not session.citus_version:
        raise Unavailable(
            Reason.CITUS_MISSING, f"the database {session.database} has no Citus: it needs CREATE EXTENSION citus"
        )
    with _noticed(session) as notices:
        found = inspector.look(session, given)
    reason, message = _missing(found, session, notices)
    rows = ordering.sort_rows(found.rows, inspector.ordering)
    if given.cursor is not None:
        rows = ordering.rows_after(rows, inspector.name, inspector.ordering, given.cursor)
    wanted = rows[: given.limit]
    shown = [ordering.cut_cells(row) for row in wanted]
    count = ordering.fitting(shown, session.limits.most_bytes)
    warnings = [*found.warnings, *(session.redactor.message(text) for _, text in notices)]
    if count < len(shown):
        warnings.append(f"{count} of {len(shown)} rows are here: more than {session.limits.most_bytes} bytes")
    is_cut = count < len(rows)
    return Envelope(
        name=inspector.name,
        status=Status.OK if reason is None else Status.PARTIAL,
        reason=reason,
        message=message,
        rows=tuple(shown[:count]),
        truncated=is_cut,
        row_limit=given.limit,
        next_cursor=ordering.make_cursor(inspector.name, wanted[count - 1], inspector.ordering)
        if is_cut and count
        else None,
        nodes=session.seen(),
        warnings=tuple(dict.fromkeys(warnings)),
        ordering=inspector.ordering,
        volatile=tuple(sorted(inspector.volatile)),
        facts=dict(found.facts),
        readonly_enforced=session.readonly_enforced,
    )


@contextlib.contextmanager
def _noticed(session: Session) -> Iterator[list[tuple[str, str]]]:
    """What the server warns of meanwhile: (SQLSTATE, message)."""
    notices: list[tuple[str, str]] = []

    def note(diagnostic: errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            notices.append((diagnostic.sqlstate or "", diagnostic.message_primary or ""))

    session.connection.add_notice_handler(note)
    try:
        yield notices
    finally:
        session.connection.remove_notice_handler(note)


def _missing(found: Found[Any], session: Session, notices: list[tuple[str, str]]) -> tuple[Reason | None, str]:
    """Why an answer is not whole: as the look says, else by the nodes that failed, else by a warning."""
    failed = sorted(session.failed.values(), key=lambda each: each.nodeid)
    by_nodes: tuple[Reason | None, str] = (None, "")
    for reason, verb in _NODE_VERBS:
        if any(each.reason.startswith(reason) for each in failed):
            by_nodes = reason, f"{', '.join(each.node for each in failed)} {verb}"
            break
    if found.reason is not None:
        is_said = all(each.node in found.message for each in failed)
        return found.reason, found.message if is_said else f"{found.message}; {by_nodes[1]}"
    if failed:
        return by_nodes
    for sqlstate, message in notices:
        words = session.redactor.message(message)
        if sqlstate == errors.InsufficientPrivilege.sqlstate:
            return Reason.INSUFFICIENT_PRIVILEGE, words
        if sqlstate.startswith("08"):
            return Reason.NODE_UNREACHABLE, words
    return None, ""


def _failure(
    inspector: Inspector[Any, Any],
    given: reading.Listing,
    error: Unavailable | psycopg.Error | WaitTimeoutError,
    connection: Connection,
    redactor: Redactor,
) -> Envelope[Any]:
    reason, message = _explain(error, connection, redactor)
    return Envelope(
        name=inspector.name,
        status=Status.ERROR if reason is Reason.INTERNAL else Status.UNAVAILABLE,
        reason=reason,
        message=message,
        row_limit=given.limit,
        ordering=inspector.ordering,
        volatile=tuple(sorted(inspector.volatile)),
    )


def _explain(
    error: Unavailable | psycopg.Error | WaitTimeoutError, connection: Connection, redactor: Redactor
) -> tuple[Reason, str]:
    if isinstance(error, Unavailable):
        return error.reason, error.message
    if isinstance(error, WaitTimeoutError):
        return Reason.STATEMENT_TIMEOUT, "the coordinator does not answer"
    message = redactor.message(error.diag.message_primary or str(error))
    if connection.closed or (error.sqlstate or "").startswith("57P"):
        return Reason.SERVER_GONE, message
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason, message
    if (error.sqlstate or "").startswith("08"):
        return Reason.NODE_UNREACHABLE, message
    return Reason.INTERNAL, f"{message} ({error.sqlstate})"
