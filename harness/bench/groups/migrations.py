"""The chain, up and down, on installations of ever more sources: what one of them costs should not grow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from harness.bench.interleaved import Contestant, measure
from harness.bench.model import Check, Gathered, GroupResult, Interval, Measurement, Point, Profile, Ratio, Series, Tell
from harness.bench.statistics import median_interval, ratio_interval
from harness.bench.supply import Supply
from harness.chain.runner import current_revision, downgrade, known_heads, upgrade
from harness.postgres.administered import NodeDatabase
from harness.postgres.server_node import ServerNode
from harness.rehearsal.checks import check_captured
from harness.rehearsal.contents import note_captured, take_first
from harness.rehearsal.demonstration import build_demonstration
from harness.rehearsal.model import Verdict
from harness.rehearsal.tables import fetch_sources

NAME = "migrations"
TITLE = "The chain on many sources"


@dataclass(frozen=True)
class _Plan:
    """Sizes that are measured by turns.

    Attributes:
        sizes: sources of each installation.
        rounds: ways up.
        downs: in how many of these rounds the way down is run too; it takes about as long.
    """

    sizes: tuple[int, ...]
    rounds: int
    downs: int


# The largest alone takes minutes.
_PLANS: dict[Profile, tuple[_Plan, ...]] = {
    Profile.SMOKE: (_Plan((10, 40), 2, 1),),
    Profile.STANDARD: (_Plan((10, 100), 2, 1),),
    Profile.FULL: (_Plan((10, 100, 300, 1_000), 5, 5), _Plan((3_000, 10_000), 1, 1)),
}
_BASE = "0001"
_SEED = 7
# Of the awkward ones among the sources; the others have few rows of their own: their number is what is varied.
_ROWS = 2_400
# Comparing all rows of thousands of sources would take longer than the chain.
_MOST_COMPARED = 100


@dataclass
class _Installation:
    """An installation at the first revision, of which each round gets a copy."""

    size: int
    template: str
    down_s: list[float] = field(default_factory=list)


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Take copies of installations up to the head, compare what was captured, and take them down again."""
    begun = time.monotonic()
    gathered = Gathered()
    ups: list[Measurement] = []
    downs: list[Measurement] = []
    for plan in _PLANS[profile]:
        with supply.server() as place, _installations(place.site.coordinator, plan.sizes, tell) as made:
            tell(f"the chain on {', '.join(f'{size:,}' for size in plan.sizes)} sources, {plan.rounds} rounds")
            with ExitStack() as stack:
                chain = _Chain(place.site.coordinator, stack, gathered, plan.downs)
                found = measure([chain.contestant(each) for each in made], rounds=plan.rounds, warmups=0)
            ups += found
            downs += [Measurement(f"down/{each.size}", "s", tuple(each.down_s), work=each.size) for each in made]
            gathered.ratios += _ratios(found) + _ratios(downs[-len(found) :])
    gathered.measurements += [*ups, *downs]
    gathered.series += [_series("up", ups), _series("down", downs)]
    gathered.notes += [f"{series.name}: {series.note}" for series in gathered.series]
    return gathered.result(NAME, TITLE, time.monotonic() - begun)


@contextmanager
def _installations(node: ServerNode, sizes: Sequence[int], tell: Tell) -> Iterator[list[_Installation]]:
    with ExitStack() as stack:
        made = []
        for size in sizes:
            tell(f"building an installation of {size:,} sources")
            database = stack.enter_context(node.temporary_database("bench_chain"))
            upgrade(database.dsn(), _BASE)
            with database.connect() as connection:
                build_demonstration(connection, sources=size, rows=_ROWS, seed=_SEED)
                sources = fetch_sources(connection)
                take_first(connection, sources)
                note_captured(connection, sources)
            # Nobody may be connected to what is copied.
            database.close()
            made.append(_Installation(size, database.name))
        yield made


class _Chain:
    """Runs the chain on copies of installations."""

    def __init__(self, node: ServerNode, stack: ExitStack, gathered: Gathered, downs: int) -> None:
        self._node = node
        self._stack = stack
        self._gathered = gathered
        self._downs = downs
        self._copy: NodeDatabase | None = None

    @property
    def copied(self) -> NodeDatabase:
        """The copy of this round."""
        assert self._copy is not None  # noqa: S101 - each round begins with one
        return self._copy

    def contestant(self, made: _Installation) -> Contestant:
        """The way up; the way down is timed behind it."""

        def copy() -> None:
            copied = self._node.temporary_database("bench_copy", template=made.template)
            self._copy = self._stack.enter_context(copied)

        def up() -> None:
            upgrade(self.copied.dsn())

        def down() -> None:
            if not made.down_s:
                self._check(made, "up")
            if len(made.down_s) < self._downs:
                begun = time.perf_counter()
                downgrade(self.copied.dsn(), _BASE)
                made.down_s.append(time.perf_counter() - begun)
                if len(made.down_s) == 1:
                    self._check(made, "down")
            self._stack.close()

        return Contestant(f"up/{made.size}", up, before=copy, after=down, work=made.size)

    def _check(self, made: _Installation, way: str) -> None:
        wanted = known_heads()[0] if way == "up" else _BASE
        now = current_revision(self.copied.dsn())
        with self.copied.connect() as connection:
            sources = fetch_sources(connection)
            some = sources[:: max(1, len(sources) // _MOST_COMPARED)]
            lost = [each for each in check_captured(connection, some, phase=way) if each.verdict is Verdict.FAILED]
        detail = f"at {now}; {len(sources)} sources, {len(some)} compared"
        detail += f"; {lost[0].subject}: {lost[0].detail}" if lost else ""
        is_right = not lost and now == wanted and len(sources) == made.size
        self._gathered.checks.append(Check(f"{way}/{made.size}", is_right, detail))


def _ratios(found: Sequence[Measurement]) -> list[Ratio]:
    """Per source: each size to the one before it. From one round there is no interval, and so no ratio to compare."""
    ratios = []
    for less, more in pairwise(each for each in found if len(each.samples) > 1):
        interval = ratio_interval(
            [sample / more.work for sample in more.samples], [sample / less.work for sample in less.samples]
        )
        ratios.append(Ratio(f"{more.name} : {less.name}, a source", more.name, less.name, interval))
    return ratios


def _series(way: str, found: Sequence[Measurement]) -> Series:
    """Milliseconds a source by the number of sources, with the line that fits the times."""
    points = []
    for each in found:
        interval = median_interval([sample * 1000 / each.work for sample in each.samples])
        points.append(Point(each.work, interval))
    return Series(
        name=way,
        plot="The chain by the number of sources",
        x_label="sources",
        y_label="ms a source",
        points=tuple(points),
        is_log_x=True,
        is_log_y=True,
        note=describe_growth([each.work for each in found], [median_interval(each.samples) for each in found]),
    )


def describe_growth(sizes: Sequence[int], times_s: Sequence[Interval]) -> str:
    """A fixed part and a part a source, from all but the largest size; and how far the largest is from that line."""
    if len(sizes) < 3:
        share = (times_s[-1].value - times_s[0].value) * 1000 / (sizes[-1] - sizes[0])
        return f"{share:.2f} ms a source between {sizes[0]:,} and {sizes[-1]:,}"
    slope, fixed = np.polyfit(sizes[:-1], [each.value for each in times_s[:-1]], 1)
    predicted = fixed + slope * sizes[-1]
    return (
        f"{fixed:.2f} s and {slope * 1000:.2f} ms a source up to {sizes[-2]:,}; {sizes[-1]:,} sources take"
        f" {times_s[-1].value / predicted:.2f} times what that line says"
    )
