"""What an application saw while the extension was updated: the live writers' errors and commits, version by version."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import psycopg

from harness.rehearsal.extension.model import WRITERS_CHECK, StepRun, VersionFindings
from harness.rehearsal.model import CheckResult, LatencySample, Verdict
from harness.rehearsal.writer import WriteError
from harness.rehearsal.writers import WriterReport

_DEADLOCK = psycopg.errors.DeadlockDetected.sqlstate


class Wrote(Protocol):
    """What there is to know of live writers that have ended."""

    def report(self) -> WriterReport:
        """Counts and errors."""

    def samples(self) -> tuple[LatencySample, ...]:
        """Committed writes."""


def judge_writers(
    versions: Sequence[VersionFindings], steps: Sequence[StepRun], writers: Wrote, threads: int
) -> Iterator[CheckResult]:
    """What writers met, by the version that they met it at: a version lasts until the next step begins.

    A version fails where a write failed, where one had to be cancelled because it still waited long after the writers
    were told to stop, and where none that began after its step committed. A deadlock with the step itself is told, and
    does not fail it: an application begins such a transaction again.

    Args:
        versions: that were reached, in order, each with its label.
        steps: of the update; the first version has none.
        writers: what they did, in seconds since the rehearsal's start.
        threads: how many there were.
    """
    report, samples = writers.report(), writers.samples()
    run = [step for step in steps if step.verdict is not Verdict.SKIPPED]
    begins = [0.0, *(step.started_s for step in run)]
    for number, found in enumerate(versions):
        step = run[number - 1] if number else None
        until_s = begins[number + 1] if number + 1 < len(begins) else math.inf
        errors = [one for one in report.errors if begins[number] <= one.at_s < until_s]
        deadlocks = [one for one in errors if step is not None and _is_deadlock_with(step, one)]
        met = [one for one in errors if one not in deadlocks]
        cancelled = sum(begins[number] <= at_s < until_s for at_s in report.cancelled_at_s)
        ended_s = 0.0 if step is None else step.started_s + step.elapsed_s
        wrong = []
        if met:
            wrong.append(f"{len(met)} error(s), the first on {met[0].source}: {met[0].sqlstate} {met[0].message}")
        if cancelled:
            wrong.append(f"{cancelled} write(s) still waited when the writers were to end, and were cancelled")
        if not any(ended_s <= one.at_s < until_s for one in samples):
            wrong.append("no write that began at it committed")
        told = [f"{len(deadlocks)} deadlock(s) with the step, after which a writer begins again"] if deadlocks else []
        verdict = Verdict.FAILED if wrong else Verdict.PASSED
        yield CheckResult(WRITERS_CHECK, found.version, f"{threads} writers", verdict, "; ".join([*wrong, *told]))


def _is_deadlock_with(step: StepRun, error: WriteError) -> bool:
    """Whether the transaction that was chosen as a deadlock's victim ran beside the step."""
    overlaps = error.at_s >= step.started_s and error.at_s - error.lasted_s <= step.started_s + step.elapsed_s
    return error.sqlstate == _DEADLOCK and overlaps
