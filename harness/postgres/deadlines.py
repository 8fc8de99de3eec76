"""A connection whose every wait ends at a deadline of the client's own.

A frozen server answers nothing: neither ``statement_timeout`` nor a cancel ends such a wait (``containers.md``).
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from harness.errors import WaitTimeoutError

T = TypeVar("T")


def _bounded(steps: Generator[Any, Any, T], started: float, deadline_s: float) -> Generator[Any, Any, T]:
    ready: Ready | None = None
    while True:
        try:
            wanted: Wait = next(steps) if ready is None else steps.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value
        ready = yield wanted
        elapsed_s = time.monotonic() - started
        if ready == Ready.NONE and elapsed_s >= deadline_s:
            steps.close()
            raise WaitTimeoutError(
                "an answer from the server", elapsed_s=elapsed_s, hint="the server is frozen, or the statement is long"
            )


class DeadlineConnection(psycopg.Connection[TupleRow]):
    """A psycopg connection that raises `WaitTimeoutError` and closes when one wait takes too long.

    Attributes:
        deadline_s: how long one answer may take, in seconds; None: as long as it takes.
    """

    deadline_s: float | None = None

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Drive one exchange with the server to its end (psycopg calls this).

        Raises:
            WaitTimeoutError: no answer within ``deadline_s``; the connection is closed.
        """
        if self.deadline_s is None:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_bounded(gen, time.monotonic(), self.deadline_s), *args, **kwargs)
        except WaitTimeoutError:
            self.pgconn.finish()
            raise
