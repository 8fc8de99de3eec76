"""The timeline of writer latency as geometry: buckets, a logarithmic scale, ticks, bands. The template draws it.

Own code, since no library fits: see the reason beside jinja2 in pyproject.toml.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.rehearsal.model import LatencySample, RehearsalResult, RevisionRun
from harness.report.text import show_ms, visible

# The drawing's own units; the page scales it to its width.
WIDTH = 960.0
HEIGHT = 250.0
LEFT = 58.0  # room for "100 ms"
RIGHT = 8.0
TOP = 40.0  # room for two rows of band labels
BOTTOM = 30.0
BUCKETS = 300  # one bar each 3 units: more would touch each other
_LABEL_WIDTH = 38.0  # "0002", in the page's small type, with a gap
_LABEL_ROWS = 2
_FLOOR_MS = 0.01  # what is faster is drawn as this: a logarithm needs a floor


@dataclass(frozen=True)
class Bucket:
    """The writes that began within one slice of time; its maximum is never averaged away.

    Attributes:
        at_s: when the slowest write of the slice began.
        median_ms, max_ms: their latencies.
        source: the source of the slowest.
        writes: how many.
    """

    at_s: float
    median_ms: float
    max_ms: float
    source: str
    writes: int


@dataclass(frozen=True)
class Tick:
    """A line of the grid, with a label where there is room."""

    at: float
    label: str


@dataclass(frozen=True)
class Band:
    """One revision as a stripe; ``label_row`` is None where its label finds no room."""

    x: float
    width: float
    label: str
    label_x: float
    label_row: int | None
    title: str
    is_odd: bool


@dataclass(frozen=True)
class Bar:
    """One bucket: a bar from its median to its maximum."""

    x: float
    y_median: float
    y_max: float
    title: str


@dataclass(frozen=True)
class Panel:
    """One way of the chain (up, down, up again) with its own time axis."""

    name: str
    summary: str
    bands: tuple[Band, ...]
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def downsample(samples: Sequence[LatencySample], start_s: float, end_s: float, buckets: int) -> tuple[Bucket, ...]:
    """Group the writes that began between two moments into equal slices of time.

    Args:
        samples: in any order; those with a latency that is no finite number are left out.
        start_s, end_s: the first and last moment, both included, in seconds.
        buckets: how many slices at most; empty ones are left out.

    Returns:
        The slices in order of time. The largest latency of all is always among their maxima.
    """
    width_s = (end_s - start_s) / buckets
    slices: dict[int, list[LatencySample]] = {}
    for sample in samples:
        if start_s <= sample.at_s <= end_s and math.isfinite(sample.latency_ms):
            index = min(int((sample.at_s - start_s) / width_s), buckets - 1) if width_s > 0 else 0
            slices.setdefault(index, []).append(sample)
    return tuple(_bucket(slices[index]) for index in sorted(slices))


def _bucket(samples: Sequence[LatencySample]) -> Bucket:
    slowest = max(samples, key=lambda sample: sample.latency_ms)
    return Bucket(
        at_s=slowest.at_s,
        median_ms=statistics.median(sample.latency_ms for sample in samples),
        max_ms=slowest.latency_ms,
        source=slowest.source,
        writes=len(samples),
    )


def build_panels(result: RehearsalResult) -> tuple[Panel, ...]:
    """One panel a way of the chain, all with the same latency axis; none where nothing was migrated."""
    low_ms, high_ms = _latency_range([sample.latency_ms for sample in result.samples])
    names: dict[str, int] = {}
    panels = []
    for runs in _split_ways(result.revisions):
        direction = runs[0].direction
        names[direction] = names.get(direction, 0) + 1
        again = "" if names[direction] == 1 else " again"
        panels.append(_panel(f"{direction.capitalize()}{again}", runs, result.samples, low_ms, high_ms))
    return tuple(panels)


def _split_ways(runs: Sequence[RevisionRun]) -> list[list[RevisionRun]]:
    ways: list[list[RevisionRun]] = []
    for run in runs:
        if ways and ways[-1][0].direction == run.direction:
            ways[-1].append(run)
        else:
            ways.append([run])
    return ways


def _latency_range(values: Sequence[float]) -> tuple[float, float]:
    """Whole decades around all values, at least one."""
    usable = [max(value, _FLOOR_MS) for value in values if math.isfinite(value)]
    if not usable:
        return 0.1, 10.0
    low = 10 ** math.floor(math.log10(min(usable)))
    high = 10 ** math.ceil(math.log10(max(usable)))
    return low, high if high > low else low * 10


def _panel(
    name: str, runs: Sequence[RevisionRun], samples: Sequence[LatencySample], low_ms: float, high_ms: float
) -> Panel:
    first_s, last_s = runs[0].started_s, max(run.ended_s for run in runs)
    margin_s = max((last_s - first_s) * 0.03, 0.01)  # some of the quiet before and after, to compare with
    start_s, end_s = first_s - margin_s, last_s + margin_s

    def x(at_s: float) -> float:
        return LEFT + (at_s - start_s) / (end_s - start_s) * (WIDTH - LEFT - RIGHT)

    def y(latency_ms: float) -> float:
        share = math.log10(max(latency_ms, low_ms) / low_ms) / math.log10(high_ms / low_ms)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    buckets = downsample(samples, start_s, end_s, BUCKETS)
    bars = tuple(
        Bar(
            x=round(x(bucket.at_s), 1),
            y_median=round(y(bucket.median_ms), 1),
            y_max=round(min(y(bucket.max_ms), y(bucket.median_ms) - 2.0), 1),  # never too short to be seen
            title=f"{show_ms(bucket.max_ms)} at {bucket.at_s:.2f} s on {visible(bucket.source)}",
        )
        for bucket in buckets
    )
    bounds = [(run, x(run.started_s), x(run.ended_s)) for run in runs]
    return Panel(
        name=name,
        summary=_summary(runs, buckets),
        bands=_place_bands(bounds),
        bars=bars,
        x_ticks=tuple(Tick(round(x(at_s), 1), f"{at_s:g} s") for at_s in _even_ticks(start_s, end_s)),
        y_ticks=tuple(Tick(round(y(value), 1), label) for value, label in _decade_ticks(low_ms, high_ms)),
    )


def _summary(runs: Sequence[RevisionRun], buckets: Sequence[Bucket]) -> str:
    went = f"{runs[0].revision} to {runs[-1].revision}" if len(runs) > 1 else runs[0].revision
    if not buckets:
        return f"Revisions {went}; no write was measured."
    slowest = max(buckets, key=lambda bucket: bucket.max_ms)
    writes = sum(bucket.writes for bucket in buckets)
    return (
        f"Revisions {went}; {writes:,} writes, the slowest {show_ms(slowest.max_ms)} "
        f"at {slowest.at_s:.2f} s on {visible(slowest.source)}."
    )


def _place_bands(bounds: Sequence[tuple[RevisionRun, float, float]]) -> tuple[Band, ...]:
    """Stripes with their labels in as many rows as keep them apart; a label that finds no room is left out."""
    row_ends = [LEFT] * _LABEL_ROWS
    bands = []
    for index, (run, left, right) in enumerate(bounds):
        middle = min(max((left + right) / 2, LEFT + _LABEL_WIDTH / 2), WIDTH - RIGHT - _LABEL_WIDTH / 2)
        row = next((row for row in range(_LABEL_ROWS) if middle - _LABEL_WIDTH / 2 >= row_ends[row]), None)
        if row is not None:
            row_ends[row] = middle + _LABEL_WIDTH / 2
        bands.append(
            Band(
                x=round(left, 1),
                width=round(max(right - left, 1.0), 1),
                label=visible(run.revision),
                label_x=round(middle, 1),
                label_row=row,
                title=f"{visible(run.revision)} {visible(run.direction)}, {run.ended_s - run.started_s:.2f} s",
                is_odd=index % 2 == 1,
            )
        )
    return tuple(bands)


def _even_ticks(start: float, end: float, wanted: int = 8) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two bounds."""
    rough = (end - start) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(start / step), math.floor(end / step)
    return [round(index * step, 9) for index in range(first, last + 1)]


def _decade_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """A labelled line a decade, and unlabelled ones at 2 and 5."""
    ticks: list[tuple[float, str]] = []
    decades = round(math.log10(high / low))
    for index in range(decades + 1):
        base = low * 10**index
        ticks.append((base, f"{base:g} ms" if base < 1000 else f"{base / 1000:g} s"))
        if index < decades:
            ticks += [(base * 2, ""), (base * 5, "")]
    return ticks
