"""A process that refreshes stream tables and stops between two exchanges with a server: ``stepper``, orders by stdin.

An order is a line of JSON: ``dsn``, ``name``, ``is_planned``, ``stop_at`` (the number of an exchange, a word of the one
before it, or null). Each is done by a fork, so that it can be killed and the next one need not import anything. What a
fork says is a line of JSON on stdout: ``at`` when it stands before that exchange, until it is sent a line; ``steps``
and what came of the refresh at the end. ``ended`` is the parent's word that the fork is gone, with its exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Generator
from typing import Any

import psycopg

from harness.errors import HarnessError
from harness.trickle import StreamTables

# What psycopg does without a statement of ours.
_WORDS = {"_enter_gen": "BEGIN or SAVEPOINT", "_exit_gen": "COMMIT or RELEASE"}


def _say(**words: Any) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def _listen() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            break
        line += piece
    return line


class Steps:
    """Counts the exchanges of this thread with any server, and stops before one of them.

    An exchange is what psycopg waits for: a statement and its answer, BEGIN and COMMIT, a connection being made.
    """

    def __init__(self, stop_at: int | str | None, backend: int) -> None:
        self.count = 0
        self._stop_at = stop_at
        self._has_stopped = False
        self._backend = backend
        self.names: list[str] = []

    def __enter__(self) -> Steps:
        self._original = psycopg.Connection.wait
        me, original, steps = threading.current_thread(), self._original, self

        def wait(connection: psycopg.Connection[Any], gen: Generator[Any, Any, Any], *args: Any, **kw: Any) -> Any:
            if threading.current_thread() is me:
                steps.step(_name(gen))
            return original(connection, gen, *args, **kw)

        psycopg.Connection.wait = wait  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_error: object) -> None:
        psycopg.Connection.wait = self._original  # type: ignore[method-assign]

    def step(self, name: str) -> None:
        """One more exchange begins."""
        self.count += 1
        self.names.append(name)
        if not self._has_stopped and self._is_there():
            self._has_stopped = True
            _say(at=self.count, what=name, pid=os.getpid(), backend=self._backend)
            _listen()

    def _is_there(self) -> bool:
        if isinstance(self._stop_at, str):
            return len(self.names) > 1 and self._stop_at in self.names[-2]
        return self.count == self._stop_at


def _name(gen: Generator[Any, Any, Any]) -> str:
    """What an exchange is about, for people: the statement where there is one."""
    variables = getattr(getattr(gen, "gi_frame", None), "f_locals", {})
    if isinstance(inner := variables.get("steps"), Generator):  # a wait with a deadline
        return f"worker: {_name(inner)}"
    query = variables.get("query", variables.get("command"))
    if isinstance(query, psycopg.sql.Composable):
        query = query.as_string(None)
    if isinstance(query, bytes):
        query = query.decode()
    own = str(getattr(gen, "__name__", "exchange"))
    words = str(query or _WORDS.get(own, own))
    return " ".join(words.split())[:100]


def refresh(order: dict[str, Any]) -> None:
    """One refresh of an order; says what came of it."""
    connection = psycopg.connect(order["dsn"], autocommit=True)
    tables = StreamTables(connection)
    if order["is_planned"]:
        with contextlib.suppress(HarnessError):  # the refresh says it again
            tables.explain(order["name"])  # which finds out how it follows its query, as a scheduler did long ago
    said: dict[str, Any]
    with Steps(order["stop_at"], connection.info.backend_pid) as steps:
        try:
            said = {"action": tables.refresh(order["name"]).action}
        except (HarnessError, psycopg.Error) as error:
            said = {"error": type(error).__name__, "message": str(error), "hint": getattr(error, "hint", "")}
            said["is_ours"] = isinstance(error, HarnessError)
        # After the last one.
        steps.step("the end")
    _say(steps=steps.count, names=steps.names, **said)
    with contextlib.suppress(psycopg.Error):
        tables.close()
        connection.close()


def main() -> None:
    """Do orders until stdin ends."""
    while order := _listen():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                refresh(json.loads(order))
                code = 0
            except BaseException as error:
                _say(error=type(error).__name__, message=str(error), hint="", is_ours=False)
                raise
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        _say(ended=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
