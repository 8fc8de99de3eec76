"""The summary of a rehearsal on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.rehearsal.model import RehearsalResult, RevisionRun, SourceStall, Verdict
from harness.report.figures import describe_verdict, failed_checks, summarise_sources
from harness.report.text import NOTHING, show_ms, show_s, visible
from harness.report.write import ReportPaths

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim"}
_MOST_FAILURES = 20
_MOST_STALLS = 5
_MOST_WAITS = 5


def print_summary(result: RehearsalResult, paths: ReportPaths, command: str, console: Console) -> None:
    """Steps, revisions, longest stalls, failed checks, the verdict, and where the report is.

    Args:
        result: of one rehearsal.
        paths: the files of its report.
        command: the command that repeats it, without a password.
        console: where to.
    """
    console.print(_steps(result))
    if result.revisions:
        console.print(_revisions(result.revisions))
        _print_waits(result.revisions, console)
    if result.stalls:
        console.print(_stalls(result.stalls))
    for warning in result.warnings:
        console.print(Text.assemble(("warning ", "yellow"), visible(warning)), soft_wrap=True)
    _print_failures(result, console)
    console.print(_verdict(result))
    for name, value in (("report", str(paths.page)), ("again", command)):
        # Not wrapped: a path or command that is cut can't be copied.
        console.print(Text.assemble((f"{name:7}", "dim"), visible(value)), soft_wrap=True)


def _table(title: str, *columns: tuple[str, bool]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name, is_number in columns:
        table.add_column(name, justify="right" if is_number else "left", header_style="dim", overflow="fold")
    return table


def _steps(result: RehearsalResult) -> Table:
    table = _table("Steps", ("step", False), ("verdict", False), ("took", True), ("", False))
    for step in result.steps:
        table.add_row(
            Text(visible(step.name)),
            Text(step.verdict.value, style=_STYLES[step.verdict]),
            show_s(step.elapsed_s),
            Text(visible(step.detail)),
        )
    return table


def _revisions(runs: Sequence[RevisionRun]) -> Table:
    has_crashes = any(run.crashes for run in runs)
    columns = ["took", "sources", "ms a source", "retries", "pending", "stall", *(["crashes"] if has_crashes else [])]
    table = _table("Revisions (ms a source: median / most)", ("revision", False), *((name, True) for name in columns))
    for run in runs:
        times = summarise_sources(run)
        cells = [
            show_s(run.ended_s - run.started_s),
            f"{run.sources_moved:,}",
            f"{times.median_ms:.1f} / {times.max_ms:.1f}" if times else NOTHING,
            f"{run.lock_retries:,}",
            f"{run.pending_rows:,}",
            show_ms(run.longest_stall_ms),
            *([f"{run.crashes:,}"] if has_crashes else []),
        ]
        table.add_row(Text(f"{visible(run.revision)} {visible(run.direction)}"), *cells)
    return table


def _print_waits(runs: Sequence[RevisionRun], console: Console) -> None:
    waits = sorted(((wait, run) for run in runs for wait in run.waits), key=lambda pair: -pair[0].waited_ms)
    for wait, run in waits[:_MOST_WAITS]:
        console.print(
            Text.assemble(
                ("waited ", "yellow"),
                f"{show_ms(wait.waited_ms)} for {visible(wait.holder)} on {visible(wait.source)} ",
                f"in {visible(run.revision)} {visible(run.direction)}",
            ),
            soft_wrap=True,
        )
    if len(waits) > _MOST_WAITS:
        console.print(f"and {len(waits) - _MOST_WAITS:,} more waits, all in the report")


def _stalls(stalls: Sequence[SourceStall]) -> Table:
    table = _table("Longest stall by source", ("source", False), ("stall", True), ("during", False))
    for stall in sorted(stalls, key=lambda stall: -stall.stall_ms)[:_MOST_STALLS]:
        table.add_row(
            Text(visible(stall.source)), show_ms(stall.stall_ms), Text(visible(stall.revision or "between revisions"))
        )
    return table


def _print_failures(result: RehearsalResult, console: Console) -> None:
    failed = failed_checks(result)
    for check in failed[:_MOST_FAILURES]:
        console.print(
            Text.assemble(
                ("failed ", "bold red"),
                f"{visible(check.name)} of {visible(check.subject)} after {visible(check.phase)}: ",
                visible(check.detail),
            ),
            soft_wrap=True,
        )
    if len(failed) > _MOST_FAILURES:
        console.print(f"and {len(failed) - _MOST_FAILURES:,} more failed checks, all in the report")


def _verdict(result: RehearsalResult) -> RenderableType:
    word, style = ("PASSED", "green") if result.passed else ("FAILED", "red")
    return Panel(Group(Text(word, style=f"bold {style}"), Text(describe_verdict(result))), border_style=style)
