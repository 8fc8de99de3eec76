"""Every error that this project raises on purpose.

.. code-block:: text

    HarnessError                     anything a person can do something about; knows its exit code
     ├── EnvironmentMissingError  3  this machine lacks something (also a typed skip in tests)
     │    ├── BinariesNotFoundError     no usable PostgreSQL
     │    ├── CitusMissingError         no PostgreSQL with Citus; says where it looked
     │    └── DiskFullError             not enough room for what was asked
     ├── ServerError              3  a server did not do what was asked of it
     │    ├── ServerStartError          did not start or become ready; carries the log's tail
     │    ├── ServerGoneError           died or became unreachable in the middle
     │    └── PortTakenError            someone else listens there
     ├── WaitTimeoutError         3  a deadline passed; carries label, elapsed time, last value
     ├── RefusedError             2  what was asked for is not safe or not sensible
     │    ├── BadInputError             a value that cannot be used; names it
     │    ├── UnsupportedVersionError   a PostgreSQL or Citus outside the supported range
     │    ├── ConnectionRefusedByInput  a DSN that does not lead to a database
     │    ├── NotACoordinatorError      a database that is no Citus coordinator
     │    ├── MissingPrivilegeError     a right that is needed and not there
     │    ├── QueryRefusedError         a query that PostgreSQL refuses, or that no stream table can keep
     │    ├── StreamTableNotFoundError  no stream table of that name
     │    ├── UnresolvedTransactionError  a prepared transaction that nobody resolved (D9)
     │    ├── LockedError               somebody else holds what is needed, and did not give it back in time
     │    │    └── LeaseLostError       the right to refresh ran out on the way; nothing was changed
     │    └── PreflightError            findings, each with what to do; nothing was changed
     └── CheckFailedError         1  a check found a difference
          ├── HashCollisionError        two different rows with one hash; nothing was merged
          └── OutOfStepError            a stream table that lacks what its changes are about; it is rebuilt next

Errors are told apart by class or by SQLSTATE, never by their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_GOOD = 0
EXIT_CHECK_FAILED = 1
EXIT_REFUSED = 2
EXIT_ENVIRONMENT = 3


class HarnessError(Exception):
    """Base of all errors raised on purpose: a message, a hint, and an exit code.

    Args:
        message: what is wrong and with which value, one line.
        hint: what to do next, one line; may be empty.
        node: the node on which it happened, where there is one.
        sqlstate: the server's code, where a server said no.
    """

    exit_code = EXIT_ENVIRONMENT

    def __init__(self, message: str, *, hint: str = "", node: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.node = node
        self.sqlstate = sqlstate


class EnvironmentMissingError(HarnessError):
    """This machine lacks something that the request needs."""


class BinariesNotFoundError(EnvironmentMissingError):
    """No usable PostgreSQL binaries were found."""


class CitusMissingError(EnvironmentMissingError):
    """No PostgreSQL with Citus was found; the message says where it was looked for."""


class DiskFullError(EnvironmentMissingError):
    """There is not enough room on a disk for what was asked."""


class ServerError(HarnessError):
    """A server did not do what was asked of it."""


class ServerStartError(ServerError):
    """A server did not start or did not become ready; ``log_tail`` holds its last words."""

    def __init__(self, message: str, *, hint: str = "", node: str | None = None, log_tail: str = "") -> None:
        super().__init__(message, hint=hint, node=node)
        self.log_tail = log_tail


class ServerGoneError(ServerError):
    """A server died or became unreachable in the middle of something."""


class PortTakenError(ServerError):
    """Someone else listens on the port that was asked for."""


class WaitTimeoutError(HarnessError):
    """A deadline passed while waiting.

    Args:
        label: what was waited for.
        elapsed_s: how long, in seconds.
        last_value: the last thing seen.
    """

    def __init__(self, label: str, *, elapsed_s: float, last_value: object = None, hint: str = "") -> None:
        seen = "" if last_value is None else f"; last seen: {last_value}"
        super().__init__(f"waited {elapsed_s:.1f} s for {label}{seen}", hint=hint)
        self.label = label
        self.elapsed_s = elapsed_s
        self.last_value = last_value


class RefusedError(HarnessError):
    """What was asked for is not safe or not sensible; nothing was changed."""

    exit_code = EXIT_REFUSED


class BadInputError(RefusedError):
    """A value that cannot be used; the message names it."""


class UnsupportedVersionError(RefusedError):
    """A version of PostgreSQL, Citus or the catalog that this project does not support."""


class ConnectionRefusedByInput(RefusedError):  # noqa: N818 - named after its cause, the DSN
    """A DSN that does not lead to a database: wrong host, port, role, password or database."""


class NotACoordinatorError(RefusedError):
    """A database that can be reached and is not the coordinator of a Citus cluster."""


class MissingPrivilegeError(RefusedError):
    """A right is needed that the role does not have."""


class QueryRefusedError(RefusedError):
    """A query that PostgreSQL refuses, or of a kind that no stream table can keep in the mode that was asked for."""


class StreamTableNotFoundError(RefusedError):
    """There is no stream table of that name."""


class UnresolvedTransactionError(RefusedError):
    """A transaction is prepared and not resolved: its rows can be neither seen nor deleted (D9)."""


class LockedError(RefusedError):
    """Somebody else holds what is needed, and did not give it back in time."""


class LeaseLostError(LockedError):
    """The right to refresh a stream table ran out on the way, and its transaction was undone."""


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way, found before anything was changed.

    Attributes:
        code: a stable word for machines, such as ``stable_name_collision``.
        subject: the object that it is about.
        message: what is wrong.
        hint: what to do.
    """

    code: str
    subject: str
    message: str
    hint: str = ""


class PreflightError(RefusedError):
    """Something stands in the way; ``findings`` lists each with what to do. Nothing was changed."""

    def __init__(self, message: str, findings: Sequence[Finding], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class CheckFailedError(HarnessError):
    """A check found a difference between what is and what must be."""

    exit_code = EXIT_CHECK_FAILED


class HashCollisionError(CheckFailedError):
    """Two different rows or groups have one row id; nothing was merged, nothing was changed."""


class OutOfStepError(CheckFailedError):
    """A stream table lacks rows that its changes take away: it was written by somebody else, and must be rebuilt."""
