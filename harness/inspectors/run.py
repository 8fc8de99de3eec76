"""Runs inspectors: one read-only transaction a look, and one envelope whatever comes of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from psycopg import errors

from harness.errors import HarnessError, LockedError, WaitTimeoutError
from harness.inspectors import inputs as reading
from harness.inspectors import opening, ordering, reasons, registry
from harness.inspectors.asking import Silent
from harness.inspectors.contract import Envelope, Finding, Found, Inspector, Reason, Status, Unavailable
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
        except Exception as error:
            if isinstance(error, HarnessError) and not isinstance(error, WaitTimeoutError):
                raise
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
    except Exception as error:
        if connection.closed or (isinstance(error, HarnessError) and not isinstance(error, WaitTimeoutError)):
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
    if inspector.needs_citus:
        opening.require_citus(session)
    with _noticed(session) as notices:
        found = _look(inspector, given, session)
    reason, message = reasons.of_answer(found, session, notices)
    everything = ordering.sort_rows(found.rows, inspector.ordering)
    rows = everything
    if given.cursor is not None:
        rows = ordering.rows_after(rows, inspector.name, inspector.ordering, given.cursor)
    wanted = rows[: given.limit]
    page = ordering.fill_page(wanted, session.limits.most_bytes)
    warnings = [*found.warnings, *(session.redactor.message(text) for _, text in notices), *page.left_off]
    if page.passed < len(wanted):
        warnings.append(f"{page.passed} of {len(wanted)} rows are here: more than {session.limits.most_bytes} bytes")
    if page.left_off and reason is None:
        reason, message = Reason.TOO_LARGE, f"not all of it fits into {session.limits.most_bytes} bytes: see warnings"
    is_cut = page.passed < len(rows)
    envelope: Envelope[Any] = Envelope(
        name=inspector.name,
        status=_status(reason),
        reason=reason,
        message=message,
        rows=page.rows,
        truncated=is_cut,
        row_limit=given.limit,
        next_cursor=ordering.make_cursor(inspector.name, rows[page.passed - 1], inspector.ordering) if is_cut else None,
        nodes=session.seen(),
        warnings=tuple(dict.fromkeys(warnings)),
        ordering=inspector.ordering,
        volatile=tuple(sorted(inspector.volatile)),
        facts=dict(found.facts),
        readonly_enforced=session.readonly_enforced,
    )
    return replace(envelope, findings=_findings(inspector, found, replace(envelope, rows=tuple(everything))))


def _status(reason: Reason | None) -> Status:
    if reason is None:
        return Status.OK
    return Status.ERROR if reason is Reason.INTERNAL else Status.PARTIAL


def _look(inspector: Inspector[Any, Any], given: reading.Listing, session: Session) -> Found[Any]:
    try:
        return inspector.look(session, given)
    except Unavailable as error:
        # A look knows that no node answered; why, its nodes have said.
        reason, message = reasons.of_nodes(session.failed.values())
        if error.reason is not Reason.NODE_UNREACHABLE or reason in {None, error.reason}:
            raise
        raise Unavailable(reason, message) from None


def _findings(inspector: Inspector[Any, Any], found: Found[Any], whole: Envelope[Any]) -> tuple[Finding, ...]:
    """Judged by all rows, whichever of them are asked for: the hundred-and-first may be the bad one."""
    if found.findings is not None:
        return found.findings
    if inspector.severity is None:
        return ()
    return tuple(inspector.severity(replace(whole, rows=tuple(map(ordering.cut_cells, whole.rows)))))


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


def _failure(
    inspector: Inspector[Any, Any],
    given: reading.Listing,
    error: Exception,
    connection: Connection,
    redactor: Redactor,
) -> Envelope[Any]:
    reason, message = reasons.of_error(error, is_gone=connection.closed, redactor=redactor)
    return Envelope(
        name=inspector.name,
        status=Status.ERROR if reason is Reason.INTERNAL else Status.UNAVAILABLE,
        reason=reason,
        message=message,
        row_limit=given.limit,
        ordering=inspector.ordering,
        volatile=tuple(sorted(inspector.volatile)),
    )
