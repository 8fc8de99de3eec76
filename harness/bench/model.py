"""What a benchmark is told and what it answers. Nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Tell = Callable[[str], None]


class Profile(StrEnum):
    """How long a run may take: a smoke test below 50 s, a standard run below ten minutes, or all there is."""

    SMOKE = "smoke"
    STANDARD = "standard"
    FULL = "full"


class Better(StrEnum):
    """Which way a figure gets better."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True)
class Interval:
    """A figure with what the noise allows.

    Attributes:
        value: of the medians.
        low: where its 95 % bootstrap interval begins.
        high: where it ends.
    """

    value: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether noise may explain the difference."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Measurement:
    """What was timed, one figure a round.

    Attributes:
        name: unique in its group, words separated by slashes, the same in every run of a profile.
        unit: of the samples: ``s``, ``ms``, ``rows/s``, ...
        samples: one a round, in order of the rounds.
        work: how many rows (or statements, refreshes) one sample stands for.
        better: which way it gets better.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    work: int = 1
    better: Better = Better.LOWER


@dataclass(frozen=True)
class Ratio:
    """Two measurements of the same rounds, one divided by the other.

    Attributes:
        name: unique in its group.
        of: the numerator's name.
        to: the denominator's name.
        interval: ratio of the medians, with the bootstrap over rounds.
        better: which way it gets better.
    """

    name: str
    of: str
    to: str
    interval: Interval
    better: Better = Better.LOWER


@dataclass(frozen=True)
class Refusal:
    """What cannot be measured since the server refuses it, with its error; that it is refused is the finding.

    Attributes:
        name: what was tried.
        error: the server's words.
        was_expected: whether a fact or the documents say so.
    """

    name: str
    error: str
    was_expected: bool = True


@dataclass(frozen=True)
class Check:
    """An answer that was compared after it was timed: a fast wrong one fails the run.

    Attributes:
        name: whose answer.
        passed: whether it was right.
        detail: what was compared; how it differed.
    """

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Point:
    """One place on a line.

    Attributes:
        x: the size that was varied.
        y: what was measured there.
        is_predicted: whether a model says so, and nobody measured it.
    """

    x: float
    y: Interval
    is_predicted: bool = False


@dataclass(frozen=True)
class Series:
    """A line of a plot.

    Attributes:
        name: unique in its group.
        plot: lines of one plot share it; its title.
        x_label, y_label: with units.
        points: in order of x.
        is_log_x, is_log_y: the axes.
        note: what the line says: a fit, where it bends.
    """

    name: str
    plot: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    is_log_x: bool = False
    is_log_y: bool = False
    note: str = ""


class Verdict(StrEnum):
    """Whether a goal is met."""

    MET = "met"
    NOT_MET = "not met"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """A goal of the project beside what was measured.

    Attributes:
        name: unique in a run.
        goal: the bound.
        better: LOWER: the value must not be above the goal; HIGHER: not below.
        unit: of both; ``x`` for a ratio.
        interval: what was measured; None where it was not.
        why: where the time goes, if it is not met; why it was not measured.
    """

    name: str
    goal: float
    better: Better
    unit: str = "x"
    interval: Interval | None = None
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        """By the value, not by its interval."""
        if self.interval is None:
            return Verdict.NOT_MEASURED
        value = self.interval.value
        is_met = value <= self.goal if self.better is Better.LOWER else value >= self.goal
        return Verdict.MET if is_met else Verdict.NOT_MET


@dataclass(frozen=True)
class GroupResult:
    """What a group found.

    Attributes:
        name: of the group.
        title: for people.
        measurements, ratios, refusals, checks, series, goals: see each.
        notes: sentences for the page and the terminal, each with its figures.
        skipped: why it did not run; empty if it did.
        elapsed_s: seconds.
    """

    name: str
    title: str
    measurements: tuple[Measurement, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    checks: tuple[Check, ...] = ()
    series: tuple[Series, ...] = ()
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class BenchResult:
    """A run of ``harness bench run``.

    Attributes:
        profile: which.
        groups: what ran, in order.
        facts: the machine, the servers, the settings.
        started_at: ISO 8601, UTC.
        elapsed_s: seconds.
        error: what broke the run off; empty if nothing did.
    """

    profile: Profile
    groups: tuple[GroupResult, ...]
    facts: Mapping[str, str]
    started_at: str
    elapsed_s: float
    error: str = ""

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Of all groups."""
        return tuple(goal for group in self.groups for goal in group.goals)

    @property
    def passed(self) -> bool:
        """Every answer was right and every group ran to its end. Goals that are not met do not fail a run."""
        checks = [check for group in self.groups for check in group.checks]
        unexpected = [refusal for group in self.groups for refusal in group.refusals if not refusal.was_expected]
        return not self.error and all(check.passed for check in checks) and not unexpected


@dataclass
class Gathered:
    """What a group gathers while it runs."""

    measurements: list[Measurement] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def result(self, name: str, title: str, elapsed_s: float) -> GroupResult:
        """All of it, frozen."""
        return GroupResult(
            name=name,
            title=title,
            measurements=tuple(self.measurements),
            ratios=tuple(self.ratios),
            refusals=tuple(self.refusals),
            checks=tuple(self.checks),
            series=tuple(self.series),
            goals=tuple(self.goals),
            notes=tuple(self.notes),
            elapsed_s=elapsed_s,
        )
