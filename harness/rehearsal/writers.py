"""Live writers: load on every source while the chain runs, each write timed and counted."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from harness.errors import BadInputError, WaitTimeoutError
from harness.rehearsal.model import LatencySample
from harness.rehearsal.tables import Connection, SourceTable
from harness.rehearsal.write_plans import WritePlan, fetch_write_plans
from harness.rehearsal.write_transactions import TpcB, find_tpcb
from harness.rehearsal.writer import Outage, Tally, WriteError, Writer

# Enough for each of 24 sources to be written to every 50 ms, and little enough to leave the chain most of two cores.
DEFAULT_RATE = 500.0


@dataclass(frozen=True)
class WriterReport:
    """What all writers did so far.

    Attributes:
        commits: transactions that committed.
        rollbacks: those that were rolled back on purpose.
        unknown_commits: commits whose answer was lost with the server.
        tolerated: errors that a write on any table may meet, by SQLSTATE.
        outages: times without a server; they are no stalls.
        errors: what no writer should have seen.
        cancelled_at_s: when a write still waited long after its writer was told to stop, and was cancelled, in seconds
            since the rehearsal's start.
    """

    commits: int
    rollbacks: int
    unknown_commits: int
    tolerated: Mapping[str, int]
    outages: tuple[Outage, ...]
    errors: tuple[WriteError, ...]
    cancelled_at_s: tuple[float, ...] = ()


class Writers:
    """Some threads that write to all sources, in any database.

    They can be stopped for a check and started again; counts and samples go on.

    Args:
        connect: gives a new connection; called by each writer, again after a crash.
        sources: the tables to write to.
        threads: how many writers.
        seed: of what they write; how their writes interleave is not repeatable.
        rate_limit: transactions a second, of all writers together; None for as fast as it goes.
        now_s: the rehearsal's clock, in seconds, monotonic; by default it starts now.
        triggers_stay_home: the sources' own triggers are known to change no source's number of rows.

    Raises:
        BadInputError: no source, no thread, or a rate that is not positive.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        sources: Sequence[SourceTable],
        *,
        threads: int = 4,
        seed: int = 0,
        rate_limit: float | None = DEFAULT_RATE,
        now_s: Callable[[], float] | None = None,
        triggers_stay_home: bool = False,
    ) -> None:
        if not sources:
            raise BadInputError("there is no source to write to", hint="the installation has no captured table")
        if threads < 1:
            raise BadInputError(f"{threads} writers cannot write", hint="ask for one or more")
        if rate_limit is not None and rate_limit <= 0:
            raise BadInputError(f"{rate_limit} writes a second are no load", hint="ask for a positive rate, or none")
        started = time.monotonic()
        self._connect = connect
        self._sources = tuple(sources)
        self._seed = seed
        self._interval_s = threads / rate_limit if rate_limit else 0.0
        self._now_s = now_s or (lambda: time.monotonic() - started)
        self._triggers_stay_home = triggers_stay_home
        self._tallies = tuple(Tally() for _ in range(threads))
        self._running: list[Writer] = []
        self._stopping = threading.Event()
        self._rounds = 0
        self._plans: tuple[WritePlan, ...] = ()

    def start(self) -> None:
        """Look at the tables once, and start writing. Does nothing while they run already."""
        if self._running:
            return
        tpcb = self._look()
        self._rounds += 1
        self._stopping = threading.Event()
        self._running = [
            Writer(
                number,
                self._connect,
                self._plans,
                tpcb,
                rng=random.Random(f"{self._seed} {self._rounds} {number}"),  # noqa: S311 - repeatable on purpose
                interval_s=self._interval_s,
                now_s=self._now_s,
                stopping=self._stopping,
                tally=tally,
            )
            for number, tally in enumerate(self._tallies)
        ]
        # A full garbage collection halts every thread for tens of milliseconds and would look like the server's stall
        # (seen: 39 ms for 89,000 objects). What is there now is not looked at again.
        gc.collect()
        gc.freeze()
        for writer in self._running:
            writer.start()

    def _look(self) -> TpcB | None:
        with self._connect() as conn:
            conn.autocommit = True
            if not self._plans:
                self._plans = fetch_write_plans(conn, self._sources, triggers_stay_home=self._triggers_stay_home)
            if not self._plans:
                raise BadInputError("no source has rows of its own to write to")
            return find_tpcb(conn, self._plans)

    def stop(self, *, deadline_s: float = 30.0) -> None:
        """Let each writer finish its transaction, and end.

        Args:
            deadline_s: how long to wait for them all, in seconds; what still waits then is cancelled.

        Raises:
            WaitTimeoutError: a writer did not end even then.
        """
        self._stopping.set()
        until = time.monotonic() + deadline_s
        for writer in self._running:
            writer.join(max(0.0, until - time.monotonic()))
        for writer in self._running:
            if writer.is_alive():
                writer.cancel()
                writer.join(10.0)
        stuck = [writer.name for writer in self._running if writer.is_alive()]
        self._running = []
        gc.unfreeze()
        if stuck:
            raise WaitTimeoutError(
                "the writers to end", elapsed_s=deadline_s, last_value=", ".join(stuck), hint="is the server frozen?"
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether any writer writes."""
        return any(writer.is_alive() for writer in self._running)

    def report(self) -> WriterReport:
        """What they did so far; exact when they do not run."""
        return WriterReport(
            commits=sum(tally.commits for tally in self._tallies),
            rollbacks=sum(tally.rollbacks for tally in self._tallies),
            unknown_commits=sum(tally.unknown_commits for tally in self._tallies),
            tolerated=dict(sum((tally.tolerated for tally in self._tallies), Counter[str]())),
            outages=tuple(outage for tally in self._tallies for outage in tally.outages),
            errors=tuple(error for tally in self._tallies for error in tally.errors),
            cancelled_at_s=tuple(sorted(at_s for tally in self._tallies for at_s in tally.cancelled_at_s)),
        )

    def samples(self) -> tuple[LatencySample, ...]:
        """Every committed write so far, by when it began. One of several tables bears the name of its slowest."""
        labels = [plan.source.label for plan in self._plans]
        found = [
            LatencySample(began_s, took_ms, labels[plan], number)
            for number, tally in enumerate(self._tallies)
            for began_s, took_ms, plan in zip(tally.began_s, tally.took_ms, tally.plan, strict=False)
        ]
        return tuple(sorted(found, key=lambda sample: sample.at_s))

    def net_rows(self) -> Mapping[str, tuple[int, int]]:
        """The least and the most rows that they added to each source, by label; exact when they do not run.

        The two differ where a commit's answer was lost. A source that triggers or cascades may also change is left out.
        """
        return {
            plan.source.label: (
                sum(tally.net_low[number] for tally in self._tallies),
                sum(tally.net_high[number] for tally in self._tallies),
            )
            for number, plan in enumerate(self._plans)
            if plan.is_counted
        }
