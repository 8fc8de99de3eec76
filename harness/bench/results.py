"""A run as Markdown that is kept in a repository (docs/results.md): findings, goals, every ratio, how to repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from harness.bench.answer import answer_plan
from harness.bench.compare import show_interval
from harness.bench.document import describe_bench
from harness.bench.model import BenchResult, GroupResult, Series
from harness.bench.plots import nice
from harness.bench.terminal import show_bound, show_goal_value
from harness.report.text import NOTHING, show_s, visible

_MEANS_SOMETHING = re.compile(r"[\\`*_\[\]<>|&#~$]")


def to_results(result: BenchResult, command: str) -> str:
    """The whole result as Markdown, in its own words: nothing in it was written by hand.

    Args:
        result: of one run.
        command: the command that repeats it.
    """
    blocks = [
        "# Results",
        f"Made by `harness bench report RESULT --markdown FILE` from {plain(command)}, {plain(result.started_at)}:",
        f"{describe_bench(result)}. What a figure means is in [benchmarks](benchmarks.md).",
        "## The plan's question",
        plain(answer_plan(result)),
    ]
    if result.error:
        blocks += ["## What broke it off", plain(result.error)]
    if result.goals:
        blocks += ["## Goals", _table(("goal", "measured", "wanted", "verdict", "where the time goes"), _goals(result))]
    for group in result.groups:
        blocks += _group(group)
    facts = [(plain(name), plain(value)) for name, value in result.facts.items()]
    blocks += ["## The machine", _table(("fact", "value"), facts)]
    return "\n\n".join(blocks) + "\n"


def plain(text: str) -> str:
    """A text on one line, without passwords and unseen characters, in which Markdown reads nothing.

    As few characters as possible are escaped: the file is also read as it is.
    """
    return _MEANS_SOMETHING.sub(r"\\\g<0>", " ".join(visible(text.replace("\n", " ")).split()))


def _goals(result: BenchResult) -> Iterator[tuple[str, ...]]:
    for goal in result.goals:
        why = plain(goal.why) or NOTHING
        yield plain(goal.name), show_goal_value(goal), plain(show_bound(goal)), goal.verdict.value, why


def _group(group: GroupResult) -> Iterator[str]:
    yield f"## {plain(group.title)}"
    if group.skipped:
        yield f"Skipped: {plain(group.skipped)}"
        return
    right = sum(check.passed for check in group.checks)
    yield f"{show_s(group.elapsed_s)}; {right} of {len(group.checks)} answers were right."
    for check in group.checks:
        if not check.passed:
            yield f"- wrong: {plain(check.name)}: {plain(check.detail)}"
    for note in group.notes:
        yield f"- {plain(note)}"
    for refusal in group.refusals:
        expected = "refused, as expected" if refusal.was_expected else "refused, and nobody expected it"
        yield f"- {plain(refusal.name)}: {expected}: {plain(refusal.error)}"
    if group.ratios:
        rows = [(plain(ratio.name), show_interval(ratio.interval)) for ratio in group.ratios]
        yield _table(("ratio", "value, 95 % interval"), rows)
    for title in dict.fromkeys(line.plot for line in group.series):
        yield from _plot(title, [line for line in group.series if line.plot == title])


def _plot(title: str, lines: Sequence[Series]) -> Iterator[str]:
    yield f"### {plain(title)}"
    for line in lines:
        if line.note:
            yield f"- {plain(line.name)}: {plain(line.note)}"
    rows = [
        (plain(line.name), nice(point.x), show_interval(point.y), "the model" if point.is_predicted else "measured")
        for line in lines
        for point in line.points
    ]
    yield _table(("line", plain(lines[0].x_label), plain(lines[0].y_label), "from"), rows)


def _table(columns: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = [" | ".join(cells) for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(f"| {line} |" for line in lines)
