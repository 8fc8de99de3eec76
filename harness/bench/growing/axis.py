"""One axis of growth: sizes that are measured by turns, and the line through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.bench.growing.lines import describe
from harness.bench.growing.sources import Grown
from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.model import Gathered, Measurement, Point, Series
from harness.bench.statistics import median_interval


@dataclass(frozen=True)
class Axis:
    """What is varied, and what it costs.

    Attributes:
        word: in names, such as ``shards/refresh``.
        plural: what was varied.
        cost: what it costs, with its unit in front.
    """

    word: str
    plural: str
    cost: str

    def name(self, size: int) -> str:
        """Of a size's measurement."""
        return f"{self.word}/{size}"


def timed_ms(work: Callable[[], object]) -> float:
    """How long it takes, in milliseconds."""
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


@dataclass(frozen=True)
class Pace:
    """How much time there is.

    Attributes:
        rounds: of each size; three at least.
        until: on the monotonic clock: from then on three rounds are enough.
    """

    rounds: int
    until: float

    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.until


def measure_axis(
    axis: Axis, contestants: Mapping[int, Contestant], pace: Pace, gathered: Gathered
) -> dict[int, Measurement]:
    """Measure all sizes by turns, and gather them with their line.

    Args:
        axis: which.
        contestants: by size, in its order.
        pace: how many rounds.
        gathered: gets measurements, a series and the sentence about it.
    """
    measured = measure(list(contestants.values()), rounds=pace.rounds, deadline=pace.is_over)
    found = dict(zip(contestants, measured, strict=True))
    gather_axis(axis, found, gathered)
    return found


def gather_axis(axis: Axis, found: Mapping[int, Measurement], gathered: Gathered) -> None:
    """Measurements by size, the line through them, and what it says."""
    gathered.measurements.extend(found.values())
    intervals = {size: median_interval(each.samples) for size, each in found.items()}
    if len(found) < 2:
        return
    smallest, *_, largest = found.values()
    if len(smallest.samples) == len(largest.samples):  # measured by turns, not while it grew
        gathered.ratios.append(ratio(largest, smallest))
    note = describe(axis.plural, axis.cost, list(intervals), [each.value for each in intervals.values()])
    gathered.notes.append(note)
    gathered.series.append(
        Series(
            axis.word,
            f"Growth: {axis.plural}",
            axis.plural,
            axis.cost,
            tuple(Point(size, interval) for size, interval in intervals.items()),
            is_log_x=True,
            is_log_y=True,
            note=note,
        )
    )


def refreshing(name: str, grown: Grown, rows: int) -> Contestant:
    """A refresh after so many rows were written; with none it has nothing to do."""

    def write() -> None:
        if rows:
            grown.change(rows)

    return Contestant(name, lambda: timed_ms(grown.refresh), before=write, work=max(rows, 1), unit="ms")


def writing(name: str, grown: Grown, rows: int) -> Contestant:
    """So many rows, written in one statement; they stay in the buffer."""
    return Contestant(name, lambda: timed_ms(lambda: grown.change(rows)), work=rows, unit="ms")
