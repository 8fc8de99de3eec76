"""The other end of `stepper`: orders a refresh, is told where it stands, lets it go on, and hears what came of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# A refresh that asks a worker which does not answer gives up after 10 s, twice.
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Stop:
    """Where a refresh stands.

    Attributes:
        at: before which exchange, from 1.
        what: what that would be.
        pid: its process.
        backend: its session's process on the coordinator.
    """

    at: int
    what: str
    pid: int
    backend: int


@dataclass(frozen=True)
class Outcome:
    """What came of a refresh.

    Attributes:
        action: as its result has it; None when it failed.
        error, message, hint: the class of what it raised, and its words.
        is_ours: whether the error is one of harness.errors.
        steps: how many exchanges there were; 0 when it was killed.
        names: what each was.
    """

    action: str | None = None
    error: str | None = None
    message: str = ""
    hint: str = ""
    is_ours: bool = False
    steps: int = 0
    names: list[str] = field(default_factory=list)


class Stepping:
    """A `stepper` and its orders."""

    def __init__(self) -> None:
        self._heard = b""
        self._process = self._begin()

    @staticmethod
    def _begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "scenarios.faults.stepper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HARNESS_LOG_LEVEL": "error"},
        )

    def begin_anew(self) -> None:
        """Another process, for one that may stand somewhere."""
        self.close()
        self._heard = b""
        self._process = self._begin()

    def order(
        self, dsn: str, name: str, stop_at: int | str | None = None, *, is_planned: bool = True
    ) -> Stop | Outcome:
        """Begin a refresh; returns where it stands, or what came of it if it never came there.

        Args:
            dsn: of the coordinator.
            name: of the stream table.
            stop_at: before which exchange, from 1; or after the first that has this word in its name.
            is_planned: whether it knows already how the table follows its query; if not, finding out are exchanges too.
        """
        self._tell(json.dumps({"dsn": dsn, "name": name, "stop_at": stop_at, "is_planned": is_planned}))
        word = self._hear()
        if "at" in word:
            return Stop(**word)
        return self._outcome(word)

    def go_on(self) -> Outcome:
        """Let it go on to its end, which may be that it was killed."""
        self._tell("go on")
        return self.end()

    def end(self) -> Outcome:
        """What came of it; an empty outcome when it was killed."""
        return self._outcome(self._hear())

    @contextlib.contextmanager
    def ended_after(self, fault: contextlib.AbstractContextManager[object], outcomes: list[Outcome]) -> Iterator[None]:
        """A fault under which it hangs: once that is undone, it has ended before anybody looks; see ``outcomes``."""
        with fault:
            yield
        outcomes.append(self.end())

    def is_silent(self, for_s: float) -> bool:
        """Whether it says nothing for so many seconds: it hangs."""
        assert self._process.stdout is not None
        return not self._heard and not select.select([self._process.stdout], [], [], for_s)[0]

    def let_go(self) -> None:
        """Let it go on, and do not wait for its end."""
        self._tell("go on")

    def _outcome(self, word: dict[str, Any]) -> Outcome:
        if "ended" in word:
            assert word["ended"] == -9, word
            return Outcome(error="killed")
        assert self._hear() == {"ended": 0}, word
        return Outcome(**word)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        until = time.monotonic() + DEADLINE_S
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the stepper said nothing for {DEADLINE_S} s"
            piece = os.read(self._process.stdout.fileno(), 65536)
            assert piece, f"the stepper ended with {self._process.wait(timeout=10)}"
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it, and a fork that stands somewhere."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=10)
        self._process.stdout.close()

    def find_step(self, dsn: str, name: str, word: str, change: Callable[[str], None]) -> int:
        """The number of the first exchange of a refresh that takes something whose name has this word in it."""
        change(name)
        done = self.order(dsn, name)
        assert isinstance(done, Outcome)
        return next(number for number, each in enumerate(done.names, 1) if word in each)


@contextlib.contextmanager
def stepping() -> Iterator[Stepping]:
    """A stepper for a block."""
    made = Stepping()
    try:
        yield made
    finally:
        made.close()
