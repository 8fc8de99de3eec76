"""At which share of changed rows recomputing becomes cheaper than the delta, and whether AUTO finds it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.bench.byhand import FEW_GROUPS, JOIN, MANY_GROUPS, Connection, Home, Operator
from harness.bench.comparing import share_text
from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.model import Check, Gathered, GroupResult, Interval, Measurement, Point, Profile, Series, Tell
from harness.bench.sales import change_sales, make_sales
from harness.bench.statistics import median_interval
from harness.bench.supply import Supply
from harness.trickle import StreamTables
from harness.trickle.oracle import compare

TITLE = "Where recomputing is cheaper, and whether AUTO finds it"
# What AUTO may lose by its choice before it counts as wrong: near the crossing both cost the same.
_TOLERANCE = 1.25
_MODES = ("DIFFERENTIAL", "FULL", "AUTO")


@dataclass(frozen=True)
class _Scale:
    rows: int
    shares: tuple[float, ...]
    rounds: int
    cases: tuple[tuple[Home, Operator], ...]


def _scale(profile: Profile) -> _Scale:
    if profile is Profile.FULL:
        shares = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
        cases = [
            (home, operator) for home in (Home.SERVER, Home.DISTRIBUTED) for operator in (FEW_GROUPS, MANY_GROUPS, JOIN)
        ]
        return _Scale(1_000_000, shares, 5, tuple(cases))
    cases = [(Home.SERVER, FEW_GROUPS), (Home.SERVER, JOIN), (Home.DISTRIBUTED, FEW_GROUPS)]
    return _Scale(200_000, (0.01, 0.1, 0.5), 3, tuple(cases))


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Measure both ways and AUTO at several shares.

    Args:
        supply: gives the servers.
        profile: how long it may take.
        tell: what is being done.

    Returns:
        What was found. Without Citus the one server alone.
    """
    begun = time.monotonic()
    scale = _scale(profile)
    found = Gathered()
    for has_citus in (False, True):
        cases = [case for case in scale.cases if case[0].has_citus is has_citus]
        if not cases:
            continue
        if has_citus and supply.provider is None:
            found.notes.append(f"Nothing was measured on a cluster: {supply.missing}")
            continue
        with supply.cluster() if has_citus else supply.server() as place, place.connect() as connection:
            tell(f"{scale.rows} rows")
            make_sales(connection, rows=scale.rows, has_citus=has_citus)
            for home, operator in cases:
                tell(f"{home}/{operator.name}")
                _measure(connection, home, operator, scale, found)
    return found.result("crossover", TITLE, time.monotonic() - begun)


def _measure(connection: Connection, home: Home, operator: Operator, scale: _Scale, found: Gathered) -> None:
    name = f"{home}/{operator.name}"
    lines: dict[str, list[Point]] = {mode: [] for mode in _MODES}
    with StreamTables(connection) as stream_tables:
        placement = "local" if home is Home.SERVER else str(home)
        stream_tables.create("kept", operator.query, schedule=None, placement=placement)
        number = 0
        for share in scale.shares:
            chosen: list[str] = []

            def change(share: float = share) -> None:
                nonlocal number
                number += 1
                change_sales(connection, share, number)
                connection.execute("VACUUM kept")

            def refresh(mode: str, chosen: list[str] = chosen) -> Callable[[], None]:
                def run() -> None:
                    done = stream_tables.refresh("kept", mode=None if mode == "AUTO" else mode)
                    if mode == "AUTO":
                        chosen.append(done.action)

                return run

            contestants = [Contestant(f"{name}/{share_text(share)}/{mode}", refresh(mode), change) for mode in _MODES]
            measured = measure(contestants, rounds=scale.rounds)
            by_mode = dict(zip(_MODES, measured, strict=True))
            found.measurements += measured
            found.ratios.append(ratio(by_mode["FULL"], by_mode["DIFFERENTIAL"]))
            found.ratios.append(ratio(by_mode["AUTO"], _cheaper(by_mode)))
            for mode, one in by_mode.items():
                interval = median_interval(one.samples)
                scaled = Interval(*(1000 * each for each in (interval.value, interval.low, interval.high)))
                lines[mode].append(Point(share * 100, scaled))
            found.notes.append(_judged(name, share, by_mode, chosen[-scale.rounds :]))
        difference = compare(connection, "kept")
        found.checks.append(Check(name, difference.is_equal, str(difference)))
        stream_tables.drop("kept")
    crossing = find_crossing(lines["DIFFERENTIAL"], lines["FULL"])
    where = "at none of these shares" if crossing is None else f"from {crossing:.2g} % of the rows on"
    found.notes.append(f"{name}: recomputing is cheaper {where}.")
    for mode, points in lines.items():
        found.series.append(
            Series(
                f"{name}/{mode}",
                f"Delta or recomputing: {name}",
                "rows changed, %",
                "ms",
                tuple(points),
                is_log_x=True,
                is_log_y=True,
                note=f"crossing at {crossing:.2g} %" if crossing is not None and mode == "FULL" else "",
            )
        )


def _cheaper(by_mode: dict[str, Measurement]) -> Measurement:
    return min((by_mode[mode] for mode in _MODES[:2]), key=lambda one: median_interval(one.samples).value)


def _judged(name: str, share: float, by_mode: dict[str, Measurement], chosen: Sequence[str]) -> str:
    """What AUTO chose, and whether that was right."""
    times = {mode: median_interval(by_mode[mode].samples).value for mode in _MODES[:2]}
    best = min(times.values())
    right = [action for action in chosen if times.get(action, best) <= best * _TOLERANCE]
    ways = ", ".join(f"{mode} {1000 * seconds:.0f} ms" for mode, seconds in times.items())
    return (
        f"{name}, {share_text(share)} changed ({ways}): AUTO chose {', '.join(chosen)};"
        f" right {len(right)} of {len(chosen)} times."
    )


def find_crossing(delta: Sequence[Point], full: Sequence[Point]) -> float | None:
    """Where one line comes to lie above the other, between points by straight lines on log axes.

    Args:
        delta: the line that is below at first.
        full: the other one, at the same places.

    Returns:
        The place; the first point where it is above from the start; None where it never is.
    """
    gaps = [(math.log(d.x), math.log(d.y.value / f.y.value)) for d, f in zip(delta, full, strict=True)]
    before: tuple[float, float] | None = None
    for x, gap in gaps:
        if gap >= 0:
            if before is None:
                return math.exp(x)
            return math.exp(before[0] + (x - before[0]) * -before[1] / (gap - before[1]))
        before = (x, gap)
    return None
