"""Why an answer is not whole, or there is none: a reason for machines and words for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import psycopg
from psycopg import errors

from harness.errors import WaitTimeoutError
from harness.inspectors.contract import FailedNode, Found, Reason, Unavailable
from harness.inspectors.redaction import Redactor
from harness.inspectors.session import Session

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
    (Reason.LOCK_TIMEOUT, "waited for a lock"),
    (Reason.INSUFFICIENT_PRIVILEGE, "did not let this role look"),
    (Reason.UNSUPPORTED_VERSION, "lacks what is read"),
    (Reason.NODE_FAILED, "did not answer"),
)


def of_nodes(failed: Collection[FailedNode]) -> tuple[Reason | None, str]:
    """The worst that became of nodes that did not answer; None where all did."""
    in_order = sorted(failed, key=lambda each: each.nodeid)
    for reason, verb in _NODE_VERBS:
        if any(each.reason.startswith(reason) for each in in_order):
            return reason, f"{', '.join(each.node for each in in_order)} {verb}"
    return None, ""


def of_answer(found: Found[object], session: Session, notices: Sequence[tuple[str, str]]) -> tuple[Reason | None, str]:
    """Why an answer is not whole: as the look says, else by the nodes that failed, else by a warning.

    Args:
        found: by the look.
        session: in which it was.
        notices: (SQLSTATE, message) of what the server warned of meanwhile.
    """
    failed = session.failed.values()
    by_nodes = of_nodes(failed)
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


def of_error(error: Exception, *, is_gone: bool, redactor: Redactor) -> tuple[Reason, str]:
    """Why there is no answer.

    Args:
        error: that ended the look. Of one that nobody foresaw only the type is told: its words may hold anything.
        is_gone: whether the connection to the coordinator was lost.
        redactor: of the server's words.
    """
    if isinstance(error, Unavailable):
        return error.reason, error.message
    if isinstance(error, WaitTimeoutError):
        return Reason.STATEMENT_TIMEOUT, "the coordinator does not answer"
    if not isinstance(error, psycopg.Error):
        return Reason.INTERNAL, f"an error that nobody foresaw: {type(error).__name__}"
    return _of_server(error, is_gone=is_gone, redactor=redactor)


def _of_server(error: psycopg.Error, *, is_gone: bool, redactor: Redactor) -> tuple[Reason, str]:
    message = redactor.message(error.diag.message_primary or str(error))
    if is_gone or (error.sqlstate or "").startswith("57P"):
        return Reason.SERVER_GONE, message
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason, message
    if (error.sqlstate or "").startswith("08"):
        return Reason.NODE_UNREACHABLE, message
    return Reason.INTERNAL, f"{message} ({error.sqlstate})"
