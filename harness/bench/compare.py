"""Compares two results: each ratio is better, worse, or not to be told apart from noise. Times are never compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harness import __version__
from harness.bench.keep import KeptRatio, Key, Ratios
from harness.bench.model import Better, Interval
from harness.errors import BadInputError
from harness.logs import redact
from harness.report.markdown import Column, Problem, Summary, Table, render
from harness.report.text import NOTHING, show_count, without_surrogates

SCHEMA = "harness/bench-compare/1"
DEFAULT_MARGIN = 10.0
# Facts that figures depend on. Those that differ from run to run by themselves, such as the load, are none of them.
COMPARED_FACTS = (
    "harness",
    "PostgreSQL",
    "plain PostgreSQL",
    "Citus",
    "cluster",
    "settings",
    "processor",
    "cpus",
    "memory",
    "system",
    "Python",
    "file system",
)


class Change(StrEnum):
    """What became of a ratio."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"


@dataclass(frozen=True)
class Compared:
    """A ratio before and after.

    Attributes:
        group, name: whose.
        before, after: with what the noise allows.
        better: which way it gets better.
        change: by the overlap of the intervals.
        percent: how much more (or less) than before.
        fails: worse by more than the margin.
    """

    group: str
    name: str
    before: Interval
    after: Interval
    better: Better
    change: Change
    percent: float
    fails: bool


@dataclass(frozen=True)
class Difference:
    """A fact that is not the same; empty where one side does not have it."""

    fact: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """Two results beside each other.

    Attributes:
        before, after: the two.
        margin_percent: worse by no more than that does not fail.
        ratios: those that both have, the worst first.
        only_before, only_after: those that one has.
        differences: profile, machine, versions.
    """

    before: Ratios
    after: Ratios
    margin_percent: float
    ratios: tuple[Compared, ...]
    only_before: tuple[Key, ...]
    only_after: tuple[Key, ...]
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """No ratio is worse beyond the margin, and the later run's answers were right: a fast wrong one is none."""
        return self.after.passed and not any(each.fails for each in self.ratios)

    def count(self, change: Change) -> int:
        """How many ratios became so."""
        return sum(each.change is change for each in self.ratios)


def compare(before: Ratios, after: Ratios, *, margin_percent: float = DEFAULT_MARGIN) -> Comparison:
    """Hold two results side by side.

    Args:
        before: a result, or the kept ratios of several.
        after: the same.
        margin_percent: 0 or more.

    Raises:
        BadInputError: a margin below 0, or no ratio that both have.
    """
    if not margin_percent >= 0:
        raise BadInputError(f"--margin {margin_percent:g} is no margin", hint="give a percentage of 0 or more")
    common = [key for key in before.by_name if key in after.by_name]
    if not common:
        raise BadInputError(
            f"{before.place} and {after.place} have no ratio in common", hint="compare runs of the same groups"
        )
    found = [_compared(key, before.by_name[key], after.by_name[key], margin_percent) for key in common]
    return Comparison(
        before=before,
        after=after,
        margin_percent=margin_percent,
        ratios=tuple(sorted(found, key=_worst_first)),
        only_before=tuple(key for key in before.by_name if key not in after.by_name),
        only_after=tuple(key for key in after.by_name if key not in before.by_name),
        differences=_differences(before, after),
    )


def judge(before: Interval, after: Interval, better: Better) -> Change:
    """Noise where the intervals overlap, else by the side on which the later one lies."""
    if before.overlaps(after):
        return Change.NOISE
    is_lower = after.value < before.value
    return Change.BETTER if is_lower is (better is Better.LOWER) else Change.WORSE


def _compared(key: Key, before: KeptRatio, after: KeptRatio, margin_percent: float) -> Compared:
    change = judge(before.interval, after.interval, after.better)
    old, new = before.interval.value, after.interval.value
    # A ratio of 0 has no percentage: anything else beside it is all there can be.
    percent = (new / old - 1) * 100 if old else (0.0 if new == old else float("inf"))
    # Half as many a second is as bad as twice as long: what fails is measured the way in which it gets worse.
    loss = percent if after.better is Better.LOWER else (old / new - 1) * 100 if new else float("inf")
    fails = change is Change.WORSE and loss > margin_percent
    return Compared(key[0], key[1], before.interval, after.interval, after.better, change, percent, fails)


def _worst_first(each: Compared) -> tuple[int, float]:
    order = {Change.WORSE: 0, Change.BETTER: 1, Change.NOISE: 2}[each.change]
    return (order - each.fails, -abs(each.percent))


def _differences(before: Ratios, after: Ratios) -> tuple[Difference, ...]:
    pairs = [("profile", before.profile.value, after.profile.value)]
    pairs += [(fact, before.facts.get(fact, ""), after.facts.get(fact, "")) for fact in COMPARED_FACTS]
    return tuple(Difference(fact, old, new) for fact, old, new in pairs if old != new)


def describe_comparison(comparison: Comparison) -> str:
    """The verdict in one sentence."""
    failing = sum(each.fails for each in comparison.ratios)
    worse = comparison.count(Change.WORSE)
    parts = [
        f"{show_count(len(comparison.ratios), 'ratio')} compared",
        f"{comparison.count(Change.BETTER)} better",
        f"{worse} worse" + (f" ({failing} by more than {comparison.margin_percent:g} %)" if worse else ""),
        f"{comparison.count(Change.NOISE)} within the noise",
    ]
    lost = len(comparison.only_before)
    parts += [f"{lost} not measured any more"] if lost else []
    parts += ["an answer of the later run was wrong or it was broken off"] if not comparison.after.passed else []
    return ", ".join(parts)


def to_compare_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as a JSON document (harness/report/schema/bench-compare-1.json)."""
    return {
        "schema": SCHEMA,
        "harness_version": __version__,
        "passed": comparison.passed,
        "verdict": describe_comparison(comparison),
        "margin_percent": comparison.margin_percent,
        "before": _side(comparison.before),
        "after": _side(comparison.after),
        "differences": [
            {"fact": each.fact, "before": each.before, "after": each.after} for each in comparison.differences
        ],
        "ratios": [
            {
                "group": each.group,
                "name": each.name,
                "change": each.change.value,
                "percent": _percent(each.percent),
                "fails": each.fails,
                "better": each.better.value,
                "before": _interval(each.before),
                "after": _interval(each.after),
            }
            for each in comparison.ratios
        ],
        "only_before": [{"group": group, "name": name} for group, name in comparison.only_before],
        "only_after": [{"group": group, "name": name} for group, name in comparison.only_after],
    }


def _percent(value: float) -> float | None:
    return round(value, 3) if value != float("inf") else None


def _side(side: Ratios) -> Mapping[str, Any]:
    return {
        "file": without_surrogates(redact(str(side.place))),
        "profile": side.profile.value,
        "runs": side.runs,
        "passed": side.passed,
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def show_interval(interval: Interval) -> str:
    """A ratio with its interval."""
    return f"{interval.value:.3g} [{interval.low:.3g} to {interval.high:.3g}]"


def show_percent(value: float) -> str:
    """With its sign: ``+12 %``."""
    return f"{value:+.0f} %" if value != float("inf") else NOTHING


def compare_markdown(comparison: Comparison, command: str) -> str:
    """The comparison for a job's page; what is within the noise is counted and not listed."""
    shown = [each for each in comparison.ratios if each.change is not Change.NOISE]
    problems = [
        Problem(
            f"{show_percent(each.percent)}: {show_interval(each.before)}, now {show_interval(each.after)}",
            f"{each.group}: {each.name}",
            f"harness bench run {each.group} --profile {comparison.after.profile.value}",
        )
        for each in shown
        if each.fails
    ]
    columns = (
        Column("ratio", is_name=True),
        Column("verdict"),
        *(Column(name, is_number=True) for name in ("before", "now", "change")),
    )
    rows = tuple(_row(each) for each in shown)
    return render(
        Summary(
            title="harness bench compare",
            outcome="passed" if comparison.passed else "failed",
            verdict=describe_comparison(comparison),
            problems=tuple(problems),
            tables=(Table("Beyond the noise", columns, rows),) if rows else (),
            notes=tuple(_notes(comparison)),
            command=command,
        )
    )


def _row(each: Compared) -> tuple[str, ...]:
    name = f"{each.group}: {each.name}"
    return (name, each.change.value, show_interval(each.before), show_interval(each.after), show_percent(each.percent))


def _notes(comparison: Comparison) -> Sequence[str]:
    notes = [f"{each.fact}: {each.before or NOTHING}, now {each.after or NOTHING}" for each in comparison.differences]
    notes += [f"not measured any more: {group}: {name}" for group, name in comparison.only_before]
    return notes + [f"not measured before: {group}: {name}" for group, name in comparison.only_after]
