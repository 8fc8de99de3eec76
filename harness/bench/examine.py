"""Looks at what a group answers before it is kept: every name once, every figure a number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from harness.bench.model import Check, GroupResult, Interval


def examined(result: GroupResult) -> GroupResult:
    """The same result without figures that are no numbers, and without the second of a name.

    What was left out is named by a check that failed: such a run does not pass.
    """
    measurements = [each for each in result.measurements if each.samples and all(map(math.isfinite, each.samples))]
    ratios = [each for each in result.ratios if _is_finite(each.interval)]
    goals = [each for each in result.goals if each.interval is None or _is_finite(each.interval)]
    lines = [each for each in result.series if all(math.isfinite(at.x) and _is_finite(at.y) for at in each.points)]
    wrong = [
        *_left_out("measurement", result.measurements, measurements),
        *_left_out("ratio", result.ratios, ratios),
        *_left_out("goal", result.goals, goals),
        *_left_out("series", result.series, lines),
    ]
    if not wrong:
        return result
    return replace(
        result,
        measurements=_once(measurements),
        ratios=_once(ratios),
        goals=_once(goals),
        series=_once(lines),
        checks=(*result.checks, Check("figures", passed=False, detail="; ".join(wrong))),
    )


def _is_finite(interval: Interval) -> bool:
    return all(map(math.isfinite, (interval.value, interval.low, interval.high)))


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Part = TypeVar("_Part", bound=_Named)


def _left_out(kind: str, all_of_them: Sequence[_Part], kept: Sequence[_Part]) -> list[str]:
    counts = Counter(part.name for part in all_of_them)
    wrong = [f"{kind} {name!r} is there {count} times" for name, count in counts.items() if count > 1]
    return wrong + [f"{kind} {part.name!r} has a figure that is no number" for part in all_of_them if part not in kept]


def _once(parts: Sequence[_Part]) -> tuple[_Part, ...]:
    return tuple({part.name: part for part in reversed(parts)}.values())[::-1]
