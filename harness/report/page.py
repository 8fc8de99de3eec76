"""The page of a rehearsal: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness import __version__
from harness.rehearsal.model import CheckResult, RehearsalResult, RevisionRun, SourceStall, Verdict
from harness.report import plot
from harness.report.figures import (
    count_checks,
    describe_verdict,
    failed_checks,
    longest_stall,
    summarise_latency,
    summarise_sources,
)
from harness.report.text import NOTHING, show_count, show_ms, show_s, visible

# What a person can read; the JSON document beside the page holds all.
_MOST_FAILURES = 500
_MOST_SUBJECTS = 200
_MOST_WAITS = 3
_FIRST_STALLS = 12
_MOST_STALLS = 500


@dataclass(frozen=True)
class RevisionRow:
    """One line of the table of revisions, as text."""

    name: str
    direction: str
    elapsed: str
    sources_moved: str
    source_ms: str
    lock_retries: str
    waits: tuple[str, ...]
    more_waits: int
    crashes: str
    pending_rows: str
    stall: str
    is_slowest: bool


@dataclass(frozen=True)
class StallRow:
    """The longest stall on one source; ``share`` is its bar's length in percent."""

    source: str
    stall: str
    at: str
    revision: str
    share: str


@dataclass(frozen=True)
class CheckGroup:
    """Checks of one name and phase that ended alike."""

    name: str
    phase: str
    count: int
    subjects: tuple[str, ...]
    reason: str

    @property
    def more(self) -> int:
        """How many subjects are not listed."""
        return self.count - len(self.subjects)


def make_environment() -> Environment:
    """What renders the templates of this package: every text escaped, the filters ``visible``, ``ms``, ``seconds``."""
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "ms": show_ms, "seconds": show_s}
    return environment


def to_page(result: RehearsalResult, command: str) -> str:
    """The result as one self-contained HTML page.

    Args:
        result: of one rehearsal.
        command: the command that repeats it, without a password.

    Returns:
        HTML that loads nothing: style and drawings are inside, there is no script, and its own content policy
        forbids the rest. Every text from outside is escaped, and its unseen characters are made visible.
    """
    environment = make_environment()
    passed = [check for check in result.checks if check.verdict is Verdict.PASSED]
    failed = failed_checks(result)
    stalls = _stall_rows(result.stalls)
    return environment.get_template("rehearsal.html.j2").render(
        result=result,
        version=__version__,
        command=visible(command),
        verdict=describe_verdict(result),
        counts=count_checks(result.checks),
        latency=summarise_latency(result),
        tiles=_tiles(result),
        panels=plot.build_panels(result),
        plot=plot,
        revisions=_revision_rows(result.revisions),
        stalls=stalls[:_FIRST_STALLS],
        more_stalls=stalls[_FIRST_STALLS:_MOST_STALLS],
        unlisted_stalls=max(len(stalls) - _MOST_STALLS, 0),
        failed=failed[:_MOST_FAILURES],
        unlisted_failures=max(len(failed) - _MOST_FAILURES, 0),
        wrong_before=[check for check in result.checks if check.was_wrong_before],
        skipped=_group([check for check in result.checks if check.verdict is Verdict.SKIPPED]),
        passed=_group([check for check in passed if not check.was_wrong_before]),
    )


def _tiles(result: RehearsalResult) -> tuple[tuple[str, str, str], ...]:
    """The figures that people look for first: name, value, and what it means."""
    stall = longest_stall(result)
    counts = count_checks(result.checks)
    return (
        ("Upgrade", show_s(result.upgrade_s), f"of {show_count(result.sources, 'source')}"),
        (
            "Longest stall",
            show_ms(stall) if stall is not None else "not measured",
            "of one write during a revision" if stall is not None else "no live writer ran",
        ),
        ("Checks", f"{counts.passed:,} of {counts.total:,}", "held"),
        ("Written meanwhile", f"{result.writes:,}", "transactions of live writers"),
        ("Data", f"{result.rows:,}", f"rows; {show_count(result.stream_tables, 'stream table')}"),
        ("Whole rehearsal", show_s(result.elapsed_s), "from the first look to the last check"),
    )


def _revision_rows(runs: Sequence[RevisionRun]) -> tuple[RevisionRow, ...]:
    slowest = max((run.longest_stall_ms for run in runs if run.longest_stall_ms is not None), default=None)
    return tuple(_revision_row(run, slowest) for run in runs)


def _revision_row(run: RevisionRun, slowest_ms: float | None) -> RevisionRow:
    times = summarise_sources(run)
    waits = sorted(run.waits, key=lambda wait: -wait.waited_ms)
    return RevisionRow(
        name=visible(run.revision),
        direction=visible(run.direction),
        elapsed=show_s(run.ended_s - run.started_s),
        sources_moved=f"{run.sources_moved:,}" if run.sources_moved else NOTHING,
        source_ms=f"{times.median_ms:.1f} / {times.max_ms:.1f}" if times else NOTHING,
        lock_retries=f"{run.lock_retries:,}",
        waits=tuple(
            f"{show_ms(wait.waited_ms)} for {visible(wait.holder)} on {visible(wait.source)}"
            for wait in waits[:_MOST_WAITS]
        ),
        more_waits=max(len(waits) - _MOST_WAITS, 0),
        crashes=f"{run.crashes:,}",
        pending_rows=f"{run.pending_rows:,}",
        stall=show_ms(run.longest_stall_ms),
        is_slowest=slowest_ms is not None and run.longest_stall_ms == slowest_ms,
    )


def _stall_rows(stalls: Sequence[SourceStall]) -> list[StallRow]:
    ordered = sorted(stalls, key=lambda stall: -stall.stall_ms)
    longest = max((stall.stall_ms for stall in ordered), default=0.0) or 1.0
    return [
        StallRow(
            source=visible(stall.source),
            stall=show_ms(stall.stall_ms),
            at=show_s(stall.at_s),
            revision=visible(stall.revision) if stall.revision else "between revisions",
            share=f"{max(stall.stall_ms, 0.0) / longest * 100:.1f}",
        )
        for stall in ordered
    ]


def _group(checks: Sequence[CheckResult]) -> tuple[CheckGroup, ...]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for check in checks:
        # The reason of a skip tells groups apart; what a passed check found need not.
        reason = visible(check.detail) if check.verdict is Verdict.SKIPPED else ""
        groups.setdefault((check.name, check.phase, reason), []).append(visible(check.subject))
    return tuple(
        CheckGroup(visible(name), visible(phase), len(subjects), tuple(subjects[:_MOST_SUBJECTS]), reason)
        for (name, phase, reason), subjects in groups.items()
    )
