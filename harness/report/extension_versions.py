"""The table of versions of a rehearsed update of the extension; neighbours with equal answers share a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.rehearsal.extension.model import EVERY, StepRun, UpdateResult, VersionFindings, after_failed, arrived
from harness.rehearsal.model import Verdict
from harness.report.text import NOTHING, show_ms, show_s

COLUMNS = ("version", "its step", "took", "stall", "fresh", "differs", "functions failing", "a new one", "refreshed")


@dataclass(frozen=True)
class _Line:
    """One version: what it is called, what its step took, and what was answered there, as text."""

    version: str
    took_s: float | None
    stall_ms: float | None
    step: str
    answers: tuple[str, ...]


def version_rows(result: UpdateResult) -> tuple[tuple[str, ...], ...]:
    """The table of versions as text, in the order of `COLUMNS`.

    Neighbours of which everything but the times is equal are one line, with the least and the most of their times.
    """
    steps = {_end(step, result): step for step in result.steps}
    reached = {found.version for found in result.versions}
    lines = [_line(found, steps.get(found.version)) for found in result.versions]
    for end, step in steps.items():
        if end not in reached:
            took_s = None if step.verdict is Verdict.SKIPPED else step.elapsed_s
            lines.append(_Line(end, took_s, None, step.verdict.value, (NOTHING,) * (len(COLUMNS) - 4)))
    together = groupby(lines, key=lambda line: (line.step, line.answers))
    return tuple(_row(tuple(found)) for _, found in together)


def _end(step: StepRun, result: UpdateResult) -> str:
    """What the line is called on which a step stands."""
    if result.start != EVERY:
        return step.target
    end = arrived if step.verdict is Verdict.PASSED else after_failed
    return end(step.start, step.target)


def _line(found: VersionFindings, step: StepRun | None) -> _Line:
    called = sum(one.state.value != "not called" for one in found.functions)
    also = len([one for one in found.failing if one.identity in found.failing_in_fresh])
    return _Line(
        found.version,
        step.elapsed_s if step else None,
        step.longest_stall_ms if step else None,
        step.verdict.value if step else NOTHING,
        (
            found.fresh,
            NOTHING if found.differences is None else f"{len(found.differences):,}",
            f"{len(found.failing)} of {called}" + (f", {also} in a fresh one too" if also else ""),
            found.new_stream_table or "works",
            f"{found.refreshed} of {found.stream_tables}",
        ),
    )


def _row(lines: Sequence[_Line]) -> tuple[str, ...]:
    took = _least_and_most([line.took_s for line in lines], show_s)
    stall = _least_and_most([line.stall_ms for line in lines], show_ms)
    return _span(lines[0].version, lines[-1].version), lines[0].step, took, stall, *lines[0].answers


def _span(first: str, last: str) -> str:
    """Two lines' names as one: what they share (see `arrived`, `after_failed`) is said once."""
    if first == last:
        return first
    (version, _, where), (last_version, _, last_where) = first.partition(", "), last.partition(", ")
    if where == last_where:
        return f"{version} to {last_version}" + (f", {where}" if where else "")
    return f"{first} to {last_where.removeprefix('from ') if version == last_version else last}"


def _least_and_most(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING
    least, most = show(min(known)), show(max(known))
    return least if least == most else f"{least} to {most}"
