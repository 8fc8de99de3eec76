"""The steps of a rehearsal as they are recorded: what ran when, what came of it, and what a revision did."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from harness.chain.runner import ChainEvent
from harness.rehearsal.model import (
    CheckResult,
    LatencySample,
    RevisionRun,
    SourceStall,
    StepResult,
    Verdict,
    WaitedFor,
)
from harness.rehearsal.options import STEPS, OnProgress, Progress


class Clock:
    """Seconds since a rehearsal's start, on the monotonic clock."""

    def __init__(self) -> None:
        self.origin_s = time.monotonic()

    def now_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.origin_s


@dataclass
class CurrentStep:
    """A step while it runs: what it has to say at its end, and how it tells where it is."""

    name: str
    on_progress: OnProgress
    detail: str = ""
    verdict: Verdict = Verdict.PASSED

    def say(self, message: str, fraction: float | None = None) -> None:
        """Tell whoever listens what happens now; ``fraction`` of the step is done, 0 to 1."""
        self.on_progress(Progress(self.name, message, fraction))

    def judge(self, checks: Sequence[CheckResult]) -> None:
        """Fail the step if one of its checks failed, and say how many there were."""
        failed = [check for check in checks if check.verdict is Verdict.FAILED]
        skipped = sum(check.verdict is Verdict.SKIPPED for check in checks)
        said = f"{len(checks) - skipped} checks" + (f", {len(failed)} failed" if failed else "")
        self.detail = f"{self.detail}, {said}" if self.detail else said
        if failed:
            self.verdict = Verdict.FAILED


@dataclass
class StepLog:
    """All steps so far, in order.

    Attributes:
        clock: of the rehearsal.
        on_progress: who listens.
        results: of the steps that ended.
    """

    clock: Clock
    on_progress: OnProgress
    results: list[StepResult] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[CurrentStep]:
        """Run one step; its result is recorded however it ends, and an exception goes on."""
        assert name in STEPS, name  # noqa: S101 - the CLI and the report know these names
        current = CurrentStep(name, self.on_progress)
        started_s = self.clock.now_s()
        current.say("begins", 0.0)
        try:
            yield current
        except BaseException:
            current.verdict = Verdict.FAILED
            raise
        finally:
            elapsed_s = self.clock.now_s() - started_s
            self.results.append(StepResult(name, current.verdict, started_s, elapsed_s, current.detail))
        current.say(current.detail or "done", 1.0)


@dataclass
class RevisionRecord:
    """One revision while it runs, from the events of the chain."""

    revision: str
    direction: str
    started_s: float
    ended_s: float = 0.0
    source_ms: dict[str, float] = field(default_factory=dict)
    lock_retries: int = 0
    waits: dict[tuple[str, str], float] = field(default_factory=dict)
    crashes: int = 0
    pending_rows: int = 0

    def take(self, event: ChainEvent) -> None:
        """Count one event of the chain."""
        if event.kind == "source_moved" and event.source is not None:
            self.source_ms[event.source] = event.elapsed_ms or 0.0
        elif event.kind == "waiting" and event.source is not None:
            self.lock_retries += 1
            key = (event.source, _holder(event.detail))
            self.waits[key] = self.waits.get(key, 0.0) + (event.elapsed_ms or 0.0)

    def freeze(self, samples: Sequence[LatencySample]) -> RevisionRun:
        """The revision's run, with the slowest write that overlapped it."""
        own = [sample.latency_ms for sample in samples if overlaps(sample, self.started_s, self.ended_s)]
        return RevisionRun(
            revision=self.revision,
            direction=self.direction,
            started_s=self.started_s,
            ended_s=self.ended_s,
            sources_moved=len(self.source_ms),
            source_ms=dict(self.source_ms),
            pending_rows=self.pending_rows,
            lock_retries=self.lock_retries,
            waits=tuple(WaitedFor(source, holder, waited) for (source, holder), waited in self.waits.items()),
            crashes=self.crashes,
            longest_stall_ms=max(own, default=None),
        )


def _holder(detail: Mapping[str, object]) -> str:
    """Who holds the lock, in the words of the event."""
    for key in ("holder", "holders", "blocked_by", "pid", "pids"):
        if detail.get(key):
            return str(detail[key])
    return "unknown"


def overlaps(sample: LatencySample, from_s: float, to_s: float) -> bool:
    """Did this write run at any time between the two?"""
    return sample.at_s <= to_s and sample.at_s + sample.latency_ms / 1000 >= from_s


def longest_stalls(samples: Sequence[LatencySample], revisions: Sequence[RevisionRun]) -> tuple[SourceStall, ...]:
    """The slowest write on each source, longest first, and the revision that it met.

    Args:
        samples: every write of the live writers.
        revisions: when each ran.
    """
    slowest: dict[str, LatencySample] = {}
    for sample in samples:
        if sample.source not in slowest or sample.latency_ms > slowest[sample.source].latency_ms:
            slowest[sample.source] = sample
    stalls = []
    for source, sample in slowest.items():
        met = next((run for run in revisions if overlaps(sample, run.started_s, run.ended_s)), None)
        name = f"{met.revision} {met.direction}" if met else None
        stalls.append(SourceStall(source, sample.latency_ms, sample.at_s, name))
    return tuple(sorted(stalls, key=lambda stall: -stall.stall_ms))


def with_pending(record: RevisionRecord, pending_rows: int, ended_s: float) -> RevisionRecord:
    """The same record, ended."""
    return replace(record, pending_rows=pending_rows, ended_s=ended_s)
