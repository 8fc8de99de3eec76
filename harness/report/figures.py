"""What the four forms of the report say alike: figures and sentences computed from a result."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.rehearsal.model import CheckResult, RehearsalResult, RevisionRun, StepResult, Verdict
from harness.report.text import show_count, show_ms, show_s, visible


@dataclass(frozen=True)
class CheckCounts:
    """How the checks ended. ``wrong_before`` counts those of ``passed`` that were wrong before anything was done."""

    passed: int
    failed: int
    skipped: int
    wrong_before: int

    @property
    def total(self) -> int:
        """All checks, skipped ones included."""
        return self.passed + self.failed + self.skipped


@dataclass(frozen=True)
class LatencySummary:
    """The latency of all writes, in milliseconds."""

    median_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class SourceTimes:
    """The time of the transactions that moved one source each, in milliseconds."""

    median_ms: float
    max_ms: float
    slowest: str


def count_checks(checks: Sequence[CheckResult]) -> CheckCounts:
    """Count the checks by how they ended."""
    by_verdict = Counter(check.verdict for check in checks)
    return CheckCounts(
        passed=by_verdict[Verdict.PASSED],
        failed=by_verdict[Verdict.FAILED],
        skipped=by_verdict[Verdict.SKIPPED],
        wrong_before=sum(check.was_wrong_before for check in checks),
    )


def summarise_latency(result: RehearsalResult) -> LatencySummary | None:
    """Median, 99th percentile (nearest rank) and maximum of all writes; None where there were none."""
    values = sorted(sample.latency_ms for sample in result.samples if math.isfinite(sample.latency_ms))
    if not values:
        return None
    rank = math.ceil(0.99 * len(values)) - 1
    return LatencySummary(median_ms=statistics.median(values), p99_ms=values[rank], max_ms=values[-1])


def summarise_sources(run: RevisionRun) -> SourceTimes | None:
    """Median and maximum of a revision's transactions, one a source; None where it moved none."""
    times = {source: value for source, value in run.source_ms.items() if math.isfinite(value)}
    if not times:
        return None
    slowest = max(times, key=lambda source: times[source])
    return SourceTimes(median_ms=statistics.median(times.values()), max_ms=times[slowest], slowest=slowest)


def longest_stall(result: RehearsalResult) -> float | None:
    """The longest stall in milliseconds; None where no live writer committed anything: nothing was measured."""
    if result.writes == 0 or not math.isfinite(result.longest_stall_ms):
        return None
    return result.longest_stall_ms


def failed_steps(result: RehearsalResult) -> tuple[StepResult, ...]:
    """The steps that failed, in order."""
    return tuple(step for step in result.steps if step.verdict is Verdict.FAILED)


def failed_checks(result: RehearsalResult) -> tuple[CheckResult, ...]:
    """The checks that failed, in order."""
    return tuple(check for check in result.checks if check.verdict is Verdict.FAILED)


def describe_verdict(result: RehearsalResult) -> str:
    """The verdict in words: one or two sentences that claim nothing that was not checked."""
    counts = count_checks(result.checks)
    if not result.passed:
        return _describe_failure(result, counts)
    stall = longest_stall(result)
    held = (
        "No check ran"
        if counts.total == 0
        else f"{show_count(counts.passed, 'check')} held" + (f", {counts.skipped:,} skipped" if counts.skipped else "")
    )
    waited = (
        f"the longest stall of a writer was {show_ms(stall)}"
        if stall is not None
        else "no writer ran, so no stall was measured"
    )
    went = f"the upgrade of {show_count(result.sources, 'source')} took {show_s(result.upgrade_s)}"
    return f"{held}; {went}, and {waited}."


def _describe_failure(result: RehearsalResult, counts: CheckCounts) -> str:
    parts = []
    if counts.failed:
        first = failed_checks(result)[0]
        parts.append(
            f"{counts.failed:,} of {show_count(counts.total, 'check')} failed, "
            f"first {visible(first.name)} of {visible(first.subject)} after {visible(first.phase)}."
        )
    # A step that only says "a check failed" repeats the sentence above.
    parts += [
        f"Step {visible(step.name)} failed{': ' + visible(step.detail) if step.detail else ''}."
        for step in failed_steps(result)
    ]
    return " ".join(parts) or "The rehearsal did not pass; it names neither a step nor a check."
