"""Kills the copy's server once in each revision, at a moment drawn from the seed, and brings it back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import sqlalchemy.exc

from harness.chain.runner import ChainEvent
from harness.errors import HarnessError, ServerGoneError
from harness.logs import get_logger
from harness.postgres import Server

# A revision without sources of its own takes some 10 to 100 ms: most draws fall inside, those behind kill at its end.
_LATEST_MS = 150.0
# One source takes about 4 ms and at most 12 (F36): the blow falls before, in or after the next one's transaction.
_AFTER_SOURCE_MS = 12.0
# What a killed server's client gets to see, whichever layer it comes through.
CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError, sqlalchemy.exc.DBAPIError, HarnessError)


@dataclass(frozen=True)
class CrashMoment:
    """When to kill.

    Attributes:
        after_sources: so many sources have been moved (0: the revision has begun).
        delay_ms: and so long after that, in milliseconds.
    """

    after_sources: int
    delay_ms: float


def draw_moment(seed: int, revision: str, direction: str, phase: str, source_count: int) -> CrashMoment:
    """The moment of one revision, the same for the same seed, whatever ran before.

    Args:
        seed: the rehearsal's.
        revision, direction, phase: which run of which revision.
        source_count: how many sources a revision may move.
    """
    # A moment has to be repeatable, not secret.
    source = random.Random(f"{seed}/{phase}/{revision}/{direction}")  # noqa: S311
    if source.random() < 0.5:
        return CrashMoment(0, source.uniform(0.0, _LATEST_MS))
    return CrashMoment(source.randint(0, max(0, source_count - 1)), source.uniform(0.0, _AFTER_SOURCE_MS))


class Killer:
    """Kills a server at a moment of a revision; at the latest when the revision says that it ends.

    Args:
        server: the copy's.
        moment: when.
    """

    def __init__(self, server: Server, moment: CrashMoment) -> None:
        self._server = server
        self._moment = moment
        self._moved = 0
        self._timer: threading.Timer | None = None
        self._guard = threading.Lock()
        self.has_struck = False

    def take(self, event: ChainEvent) -> None:
        """Listen to the chain, and strike when the moment has come."""
        if event.kind == "revision_begin" and self._moment.after_sources == 0:
            self._strike_later()
        elif event.kind == "source_moved":
            self._moved += 1
            if self._moved == self._moment.after_sources:
                self._strike_later()
        elif event.kind == "revision_end":
            self._strike()

    def _strike_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._moment.delay_ms / 1000, self._strike)
            self._timer.daemon = True
            self._timer.start()

    def _strike(self) -> None:
        with self._guard:
            if not self.has_struck:
                self.has_struck = True
                self._server.kill()

    def stand_down(self) -> None:
        """No blow falls after this returns."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()


def run_with_crash(
    server: Server,
    moment: CrashMoment,
    go: Callable[[Callable[[ChainEvent], None]], None],
    *,
    on_crash: Callable[[], None],
) -> int:
    """Run one revision, kill the server on the way, start it again, and run the revision to its end.

    Args:
        server: the copy's, running.
        moment: when to kill.
        go: runs the revision, or what is left of it, and tells the listener that it is given.
        on_crash: called while the server is down.

    Returns:
        How often the server was killed: 1, or 0 where the revision had nothing to do and said nothing.

    Raises:
        HarnessError: the revision failed for another reason, or a second time.
    """
    killer = Killer(server, moment)
    try:
        go(killer.take)
    except CONNECTION_ERRORS:
        killer.stand_down()
        if not killer.has_struck:
            raise
    finally:
        killer.stand_down()
    if not killer.has_struck:
        return 0
    get_logger("rehearsal").info("killed", server=server.name, after_sources=moment.after_sources)
    on_crash()
    server.start()
    go(_hear_nothing)
    return 1


def _hear_nothing(_event: ChainEvent) -> None:
    """Nobody kills a second time."""


def explain_death(server: Server, error: Exception) -> ServerGoneError | None:
    """The error for a copy that died without being killed by us; None if it lives."""
    if server.is_running:
        return None
    return ServerGoneError(
        f"the copy's server died in the middle: {' '.join(str(error).split())[:200]}",
        hint="its log says why (--keep keeps it); the source was only read",
        node=server.name,
    )
