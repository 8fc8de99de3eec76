"""A run and a comparison on a terminal; and what goes on meanwhile, with the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from harness.bench.compare import Change, Comparison, describe_comparison, show_interval, show_percent
from harness.bench.document import describe_bench
from harness.bench.model import BenchResult, Goal, GroupResult, Verdict
from harness.bench.run import Clock, Moment, OnMoment
from harness.report.text import NOTHING, show_s, visible

_STYLES = {Verdict.MET: "green", Verdict.NOT_MET: "bold red", Verdict.NOT_MEASURED: "dim"}
_CHANGES = {Change.BETTER: "green", Change.WORSE: "bold red", Change.NOISE: "dim"}
_MOST_ROWS = 40
_MOST_NOTES = 12


class _TimeLeft(ProgressColumn):
    """What the clock says, each time it is drawn."""

    max_refresh = 0.5

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def render(self, _task: Task) -> Text:
        """The time left."""
        return Text(f"about {show_left(self._clock.left_s)} left", style="dim")


def show_left(left_s: float) -> str:
    """A guess needs no tenths: ``5 s``, ``3 min``."""
    return f"{left_s:.0f} s" if left_s < 90 else f"{left_s / 60:.0f} min"


@contextlib.contextmanager
def show_bench_progress(console: Console, clock: Clock) -> Iterator[OnMoment]:
    """Yield a listener that shows where a run is: a line that moves on a terminal, a line each in a log.

    Args:
        console: where to.
        clock: of the run, which says the time left.
    """
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.fields[where]}"), BarColumn(bar_width=24), _TimeLeft(clock))
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bars:
        task = bars.add_task("", total=None, where="starting the servers")

        def on_moment(moment: Moment) -> None:
            where = f"{moment.number} of {moment.of}: {visible(moment.group)}"
            total = moment.elapsed_s + moment.left_s
            # Brackets would be markup here.
            words = visible(moment.words).replace("[", r"\[")
            bars.update(task, total=total or None, completed=moment.elapsed_s, where=where, description=words)

        yield on_moment


class _Lines:
    """A log: no line twice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[str, str] | None = None

    def __call__(self, moment: Moment) -> None:
        current = (moment.group, moment.words)
        if current == self._last:
            return
        self._last = current
        line = f"{moment.elapsed_s:7.1f} s  {visible(moment.group)}: {visible(moment.words)}"
        self._console.print(Text(f"{line}  (about {show_left(moment.left_s)} left)"), soft_wrap=True)


def _table(title: str, *columns: tuple[str, bool]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name, is_number in columns:
        table.add_column(name, justify="right" if is_number else "left", header_style="dim", overflow="fold")
    return table


def print_bench(result: BenchResult, answer: str, places: Sequence[Path], console: Console) -> None:
    """Groups, goals, what was wrong or refused, notes, the answer to the plan's question, the verdict.

    Args:
        result: of one run.
        answer: to the plan's question.
        places: the files that were written.
        console: where to.
    """
    console.print(_groups(result.groups))
    if result.goals:
        console.print(_goals(result.goals))
    for goal in result.goals:
        if goal.why:
            console.print(Text.assemble(("why ", "dim"), f"{visible(goal.name)}: {visible(goal.why)}"), soft_wrap=True)
    for group in result.groups:
        _print_findings(group, console)
    if result.error:
        console.print(Text.assemble(("broken off ", "bold red"), visible(result.error, multiline=True)), soft_wrap=True)
    console.print(Text(visible(answer)))
    word, style = ("PASSED", "green") if result.passed else ("FAILED", "red")
    console.print(Panel(Text.assemble((word, f"bold {style}"), "\n", describe_bench(result)), border_style=style))
    for place in places:
        console.print(Text.assemble(("written ", "dim"), visible(str(place))), soft_wrap=True)


def _groups(groups: Sequence[GroupResult]) -> Table:
    columns = (("ratios", True), ("answers", True), ("took", True), ("", False))
    table = _table("Groups", ("group", False), *columns)
    for group in groups:
        right = sum(check.passed for check in group.checks)
        if group.skipped:
            table.add_row(
                Text(group.name), NOTHING, NOTHING, NOTHING, Text(f"skipped: {visible(group.skipped)}", "yellow")
            )
            continue
        style = "" if right == len(group.checks) else "bold red"
        answers = Text(f"{right} of {len(group.checks)}", style)
        table.add_row(Text(group.name), f"{len(group.ratios):,}", answers, show_s(group.elapsed_s), Text(group.title))
    return table


def _goals(goals: Sequence[Goal]) -> Table:
    table = _table("Goals", ("goal", False), ("is", True), ("wanted", True), ("", False))
    for goal in goals:
        table.add_row(
            Text(visible(goal.name)),
            show_goal_value(goal),
            show_bound(goal),
            Text(goal.verdict.value, style=_STYLES[goal.verdict]),
        )
    return table


def show_goal_value(goal: Goal) -> str:
    """What was measured, with its interval, in the unit of the goal; a dash where nothing was."""
    return show_interval(goal.interval) if goal.interval is not None else NOTHING


def show_bound(goal: Goal) -> str:
    """The goal: ``<= 1.6 x``."""
    sign = "<=" if goal.better.value == "lower" else ">="
    return f"{sign} {goal.goal:g} {visible(goal.unit)}"


def _print_findings(group: GroupResult, console: Console) -> None:
    for check in group.checks:
        if not check.passed:
            words = f"{visible(group.name)}: {visible(check.name)}: {visible(check.detail, multiline=True)}"
            console.print(Text.assemble(("wrong ", "bold red"), words), soft_wrap=True)
    for refusal in group.refusals:
        word = ("refused ", "dim") if refusal.was_expected else ("refused, unexpected ", "bold red")
        first = visible(refusal.error.partition("\n")[0])
        console.print(Text.assemble(word, f"{visible(group.name)}: {visible(refusal.name)}: {first}"), soft_wrap=True)
    for note in group.notes[:_MOST_NOTES]:
        console.print(Text.assemble(("note ", "dim"), f"{visible(group.name)}: {visible(note)}"), soft_wrap=True)
    if len(group.notes) > _MOST_NOTES:
        console.print(f"and {len(group.notes) - _MOST_NOTES} more notes, all in the document")


def print_comparison(comparison: Comparison, console: Console) -> None:
    """What is beyond the noise, what differs beside it, the verdict.

    Args:
        comparison: of two results.
        console: where to.
    """
    shown = [each for each in comparison.ratios if each.change is not Change.NOISE]
    if shown:
        numbers = (("before", True), ("now", True), ("change", True))
        table = _table("Beyond the noise", ("ratio", False), ("", False), *numbers)
        for each in shown[:_MOST_ROWS]:
            within = "" if each.change is not Change.WORSE or each.fails else ", within the margin"
            table.add_row(
                Text(visible(f"{each.group}: {each.name}")),
                Text(each.change.value + within, style=_CHANGES[each.change]),
                show_interval(each.before),
                show_interval(each.after),
                show_percent(each.percent),
            )
        console.print(table)
    if len(shown) > _MOST_ROWS:
        console.print(f"and {len(shown) - _MOST_ROWS} more, all in the document")
    for difference in comparison.differences:
        words = (
            f"{difference.fact}: {visible(difference.before) or NOTHING}, now {visible(difference.after) or NOTHING}"
        )
        console.print(Text.assemble(("differs ", "yellow"), words), soft_wrap=True)
    for title, keys in (("not measured any more", comparison.only_before), ("new", comparison.only_after)):
        for group, name in keys[:_MOST_ROWS]:
            console.print(Text.assemble((f"{title} ", "dim"), visible(f"{group}: {name}")), soft_wrap=True)
    word, style = ("PASSED", "green") if comparison.passed else ("FAILED", "red")
    console.print(
        Panel(Text.assemble((word, f"bold {style}"), "\n", describe_comparison(comparison)), border_style=style)
    )
