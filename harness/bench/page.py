"""The page of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from harness import __version__
from harness.bench.answer import answer_plan
from harness.bench.compare import show_interval
from harness.bench.document import describe_bench
from harness.bench.model import BenchResult, GroupResult, Measurement
from harness.bench.plots import Drawing, draw_group, nice
from harness.bench.terminal import show_bound, show_goal_value
from harness.report.page import make_environment
from harness.report.text import visible


@dataclass(frozen=True)
class MeasurementRow:
    """A line of the table of measurements, as text."""

    name: str
    median: str
    quartiles: str
    unit: str
    work: str
    rounds: str


@dataclass(frozen=True)
class GroupView:
    """A group as its section shows it."""

    result: GroupResult
    drawings: tuple[Drawing, ...]
    measurements: tuple[MeasurementRow, ...]
    wrong: int


def to_bench_page(result: BenchResult, command: str) -> str:
    """The result as one self-contained HTML page: style and drawings are inside, there is no script.

    Args:
        result: of one run.
        command: the command that repeats it.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (the extra ``bench``).
    """
    environment = make_environment()
    environment.filters |= {"interval": show_interval, "nice": nice}
    return environment.get_template("bench.html.j2").render(
        result=result,
        version=__version__,
        command=visible(command),
        verdict=describe_bench(result),
        answer=answer_plan(result),
        views=tuple(_views(result)),
        show_bound=show_bound,
        show_goal_value=show_goal_value,
        refusals=[(group.name, refusal) for group in result.groups for refusal in group.refusals],
        wrong=[(group.name, check) for group in result.groups for check in group.checks if not check.passed],
    )


def _views(result: BenchResult) -> Iterator[GroupView]:
    for group in result.groups:
        rows = tuple(_measurement_row(each) for each in group.measurements)
        yield GroupView(group, draw_group(group), rows, sum(not check.passed for check in group.checks))


def _measurement_row(each: Measurement) -> MeasurementRow:
    middle = statistics.median(each.samples)
    quartiles = ""
    if len(each.samples) > 1:
        first, _, third = statistics.quantiles(each.samples, n=4, method="inclusive")
        quartiles = f"{nice(first)} to {nice(third)}"
    return MeasurementRow(
        visible(each.name), nice(middle), quartiles, visible(each.unit), f"{each.work:,}", str(len(each.samples))
    )
