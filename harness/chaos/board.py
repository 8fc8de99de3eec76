"""What all actors of a run share: the clock, what is being done just now, who refreshed when, and what must not be."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from harness.chaos.model import Done, Recovery, Step, Trouble
from harness.errors import HarnessError
from harness.logs import redact

# What a cut leaves behind is over by then: a statement that was under way when a step ended still fails because of it.
AFTERMATH_S = 10.0


def words_of(error: BaseException) -> str:
    """One line, without passwords."""
    text = error.message if isinstance(error, HarnessError) else str(error)
    return redact((text.strip().splitlines() or [""])[0])


def class_of(error: BaseException) -> str:
    """Its class, with SQLSTATE and class of what the server said."""
    cause = error.__cause__ if isinstance(error, HarnessError) else error
    state = getattr(error, "sqlstate", None) or getattr(cause, "sqlstate", None)
    return f"{type(error).__name__} {state}" if state else type(error).__name__


@dataclass
class Board:
    """Only its methods change it; any thread may call them."""

    stopping: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)
    done: list[Done] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refreshes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    # One example of each, for whoever wonders what it was.
    examples: dict[str, str] = field(default_factory=dict)
    # Begin and end of each good refresh, on this clock.
    good: list[tuple[float, float]] = field(default_factory=list)
    _active: list[Step] = field(default_factory=list)
    _guard: threading.RLock = field(default_factory=threading.RLock)

    def now_s(self) -> float:
        """Seconds since the writers began."""
        return time.monotonic() - self.began

    @contextmanager
    def active(self, step: Step) -> Iterator[None]:
        """A step that is at work inside the block."""
        with self._guard:
            self._active.append(step)
        try:
            yield
        finally:
            with self._guard:
                self._active.remove(step)

    def kinds_since(self, at_s: float) -> set[str]:
        """The kinds of steps that were at work at any time from then on, or a little before."""
        with self._guard:
            found = {step.kind for step in self._active}
            return found | {done.step.kind for done in self.done if done.until_s >= at_s - AFTERMATH_S}

    def add_done(self, done: Done) -> None:
        """A step that is over."""
        with self._guard:
            self.done.append(done)

    def trouble(self, code: str, subject: str, detail: str) -> None:
        """Something that must not be."""
        with self._guard:
            self.troubles.append(Trouble(code, subject, redact(detail)))

    def bug(self, subject: str, error: BaseException) -> None:
        """An error that nobody raises on purpose: with its traceback."""
        self.trouble("bug", subject, "".join(traceback.format_exception(error)).strip())

    def note(self, words: str) -> None:
        """What a person should know."""
        with self._guard:
            self.notes.append(redact(words))

    def refreshed(self, action: str, began_s: float, ended_s: float) -> None:
        """A refresh that was good, whoever did it."""
        with self._guard:
            self.refreshes[action] += 1
            self.good.append((began_s, ended_s))

    def failed(self, who: str, name: str, error: BaseException, began_s: float) -> None:
        """A refresh, or another call of the engine, that failed: expected, or a trouble."""
        label = class_of(error)
        with self._guard:
            self.failures[label] += 1
            self.examples.setdefault(label, f"{who} {name}: {words_of(error)}")
        if not isinstance(error, HarnessError | psycopg.Error):
            self.bug(f"{who} {name}", error)
        elif not is_expected(error, self.kinds_since(began_s)):
            self.trouble("unexpected_error", f"{who} {name}", f"{label}: {words_of(error)}")


# Errors of the engine that faults and DDL explain, by class; an unexpected one fails the run.
_EXPECTED_CLASSES = (
    "LockedError",  # somebody else was at it, or a source stayed locked
    "LeaseLostError",
    "ServerGoneError",
    "WaitTimeoutError",
    "UnresolvedTransactionError",  # D9
    "DiskFullError",
    "StreamTableNotFoundError",  # the one that the plan makes and drops
)
# SQLSTATEs by their first characters: connections, resources, operator's interventions and system errors, deadlocks and
# serialisation failures, locks; Citus' and PostgreSQL's own words for a lost node.
_EXPECTED_STATES = ("08", "53", "57", "58", "40", "55P03")
# What certain steps explain, and nothing else does.
_EXPLAINED = {
    # Citus' shell tables go and come with a worker's metadata.
    "worker_removed": ("42P01", "42883", "XX000", "55000", "3F000", "42704", "42P10"),
    # A reference table's copy on a new worker has its primary key a moment after its metadata (42P10).
    "worker_added": ("42P01", "42883", "XX000", "55000", "42P10"),
    "column_renamed": ("42703",),
    # Whoever waited for its lease meanwhile finds another table in its place.
    "stream_table_altered": ("RefusedError",),
    "stream_table_made": ("RefusedError",),
}


# A lost node in Citus' and PostgreSQL's own words: to a client it says XX000, for which the engine has to have words of
# its own; to everybody 55000 as long as a worker's metadata are behind.
_LOST_NODE = ("worker_", "coordinator_", "backend_", "link_", "all_", "disk_", "connections_")


def is_expected(error: BaseException, kinds: Iterable[str], *, is_client: bool = False) -> bool:
    """Whether what was going on explains an error.

    Args:
        error: of the engine, or of the server.
        kinds: the steps that were at work.
        is_client: a person's own statement failed, and not one of the engine's.
    """
    name, kinds = type(error).__name__, tuple(kinds)
    if isinstance(error, HarnessError) and name in _EXPECTED_CLASSES:
        return True
    if any(name in _EXPLAINED.get(kind, ()) for kind in kinds):
        return True
    cause = error.__cause__ if isinstance(error, HarnessError) and error.__cause__ is not None else error
    state = getattr(error, "sqlstate", None) or getattr(cause, "sqlstate", None)
    if state is None:
        # psycopg's own words for a connection that is gone.
        return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
    if state.startswith(_EXPECTED_STATES):
        return True
    if any(kind.startswith(_LOST_NODE) for kind in kinds) and (state == "55000" or (is_client and state == "XX000")):
        return True
    return any(state in _EXPLAINED.get(kind, ()) for kind in kinds)


def recoveries(board: Board) -> dict[str, Recovery]:
    """By kind: the longest times from a step's begin and end to the end of the next good refresh."""
    found: dict[str, Recovery] = {}
    good = sorted(board.good, key=lambda pair: pair[1])
    for done in board.done:
        if done.outcome != "done":
            continue
        ended = next((until for began, until in good if began >= done.at_s), None)
        if ended is None:
            continue
        before = found.get(done.step.kind, Recovery(0.0, 0.0))
        found[done.step.kind] = Recovery(
            max(before.after_begin_s, ended - done.at_s), max(before.after_end_s, ended - done.until_s)
        )
    return found
