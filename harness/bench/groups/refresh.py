"""Refresh: placements, operators and shares changed, beside the best SQL by hand, beside recomputing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.bench.byhand import DISTINCT, FEW_GROUPS, FILTER, JOIN, JOIN_3, MANY_GROUPS, Connection, Home, Operator
from harness.bench.comparing import Compared, Turn, compare_operator, share_text
from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.model import (
    Better,
    Gathered,
    Goal,
    GroupResult,
    Interval,
    Measurement,
    Point,
    Profile,
    Series,
    Tell,
)
from harness.bench.places import BenchPlace
from harness.bench.sales import make_sales
from harness.bench.statistics import median_interval
from harness.bench.supply import Supply
from harness.trickle import StreamTables

TITLE = "Refresh against SQL by hand, and against recomputing"
BY_HAND_GOAL, NOTHING_GOAL_MS = 1.5, 5.0
# Against recomputing, after 1 % changes: for these operators, by the goal's name.
RECOMPUTE_GOALS = {FEW_GROUPS.name: ("recompute/aggregate", 8.0), JOIN.name: ("recompute/join", 5.0)}
# The shares for which the goal beside SQL by hand holds.
GOAL_SHARES = (0.001, 0.01)
_ALL = (FILTER, FEW_GROUPS, MANY_GROUPS, JOIN, JOIN_3, DISTINCT)
_LINE = (0.0001, 0.001, 0.01, 0.1, 0.5)
# One row of a million: what a refresh takes beside its delta.
_ONE_ROW = 0.000001


@dataclass(frozen=True)
class _Case:
    home: Home
    operator: Operator
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class _Scale:
    """What a profile measures.

    Attributes:
        budget_s: seconds; towards their end each comparison has fewer rounds, and after it there is no other.
        rows: sales.
        shards: numbers of shards, each on tables of its own.
        cases: what is measured on the first number of shards; on the others, `by_shards`.
    """

    budget_s: float
    rows: int
    shards: tuple[int, ...]
    cases: tuple[_Case, ...]
    by_shards: tuple[_Case, ...] = ()


def _turns(shares: Sequence[float], rounds: int, *, recomputing_at: float | None = None) -> tuple[Turn, ...]:
    """Recomputing takes seconds where a delta takes milliseconds: three rounds are enough for it."""
    turns = [Turn(share, rounds) for share in shares if share != recomputing_at]
    if recomputing_at is not None:
        turns.append(Turn(recomputing_at, 3, with_recomputing=True))
    return tuple(sorted(turns, key=lambda turn: turn.share))


def _scale(profile: Profile) -> _Scale:
    if profile is Profile.SMOKE:
        turns = (Turn(0.01, 5),)
        return _Scale(
            10,
            50_000,
            (4,),
            (
                *(_Case(Home.SERVER, operator, turns) for operator in (FEW_GROUPS, JOIN, FILTER)),
                *(_Case(Home.DISTRIBUTED, operator, turns) for operator in (FEW_GROUPS, JOIN)),
            ),
        )
    if profile is Profile.STANDARD:
        both = _turns(GOAL_SHARES, 5)
        # Group crossover has the large shares.
        line = _turns((_ONE_ROW, *_LINE[:-1]), 5, recomputing_at=0.01)
        beside = (MANY_GROUPS, JOIN, FILTER, JOIN_3, DISTINCT)
        return _Scale(
            140,
            1_000_000,
            (4,),
            (
                _Case(Home.SERVER, FEW_GROUPS, line),
                _Case(Home.SERVER, JOIN, _turns((_ONE_ROW, *GOAL_SHARES), 5, recomputing_at=0.01)),
                *(_Case(Home.SERVER, operator, both) for operator in (MANY_GROUPS, DISTINCT, FILTER)),
                _Case(Home.DISTRIBUTED, FEW_GROUPS, _turns((_ONE_ROW, 0.001, 0.01, 0.1), 5, recomputing_at=0.01)),
                *(_Case(Home.DISTRIBUTED, operator, both) for operator in beside),
                *(_Case(home, FEW_GROUPS, both) for home in (Home.REFERENCE, Home.LOCAL)),
            ),
        )
    every = _turns((0.0, _ONE_ROW, *_LINE), 9, recomputing_at=0.01)
    cases = [_Case(home, operator, every) for home in Home for operator in _ALL]
    by_shards = [
        _Case(Home.DISTRIBUTED, operator, _turns(GOAL_SHARES, 7)) for operator in (FEW_GROUPS, MANY_GROUPS, JOIN)
    ]
    return _Scale(1700, 1_000_000, (4, 1, 2, 8, 16, 32, 64), tuple(cases), tuple(by_shards))


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Measure refreshes.

    Args:
        supply: gives the servers.
        profile: how long it may take.
        tell: what is being done.

    Returns:
        What was found. Without Citus the one server alone.
    """
    return run_cases(supply, _scale(profile), tell)


def run_cases(supply: Supply, scale: _Scale, tell: Tell) -> GroupResult:
    """Measure some cases (see `run`)."""
    begun = time.monotonic()
    found = Gathered()
    clock = _Clock(begun + scale.budget_s)
    # Half of the time is the cluster's.
    on_server = [case for case in scale.cases if not case.home.has_citus]
    on_cluster = [case for case in scale.cases if case.home.has_citus]
    if on_server:
        has_both = bool(on_cluster) and supply.provider is not None
        with supply.server() as place:
            until = _Clock(begun + scale.budget_s / 2) if has_both else clock
            _measure(place, on_server, scale.rows, found, tell, clock=until)
    if on_cluster and supply.provider is None:
        found.notes.append(f"Nothing was measured on a cluster: {supply.missing}")
    elif on_cluster:
        for number, shards in enumerate(scale.shards):
            if number and clock.is_up():
                break
            with supply.cluster() as place:
                cases = on_cluster if number == 0 else list(scale.by_shards)
                _measure(place, cases, scale.rows, found, tell, clock=clock, shards=shards, is_further=number > 0)
    return found.result("refresh", TITLE, time.monotonic() - begun)


@dataclass(frozen=True)
class _Clock:
    """Says when the time is up."""

    until_s: float

    def is_up(self) -> bool:
        return time.monotonic() >= self.until_s


def _measure(
    place: BenchPlace,
    cases: Sequence[_Case],
    rows: int,
    found: Gathered,
    tell: Tell,
    *,
    clock: _Clock,
    shards: int = 4,
    is_further: bool = False,
) -> None:
    has_citus = cases[0].home.has_citus
    left_out = []
    with place.connect() as connection:
        tell(f"{rows} rows{f' in {shards} shards' if has_citus else ''}")
        make_sales(connection, rows=rows, has_citus=has_citus, shards=shards)
        if has_citus and not is_further:
            tell("nothing to do")
            _measure_nothing(connection, found, clock.is_up)
        for number, case in enumerate(cases):
            name = f"{case.home}/{case.operator.name}"
            # One at least, however slow the machine is: a group without an answer says nothing.
            if number and clock.is_up():
                left_out.append(name)
                continue
            tell(name)
            compared = compare_operator(
                connection, case.operator, case.home, case.turns, rows=rows, deadline=clock.is_up
            )
            _gather(compared, found, prefix=f"{shards}_shards/" if is_further else "")
    if left_out:
        found.notes.append(f"The time was up before {', '.join(left_out)}: on a quieter machine they are measured.")


def _gather(compared: Compared, found: Gathered, prefix: str) -> None:
    found.checks += [type(check)(prefix + check.name, check.passed, check.detail) for check in compared.checks]
    lines: dict[str, list[Point]] = {}
    for share, by_name in sorted(compared.by_share.items()):
        of = {name: type(m)(prefix + m.name, m.unit, m.samples, m.work, m.better) for name, m in by_name.items()}
        found.measurements += of.values()
        found.ratios += [ratio(of["engine"], measured) for name, measured in of.items() if name != "engine"]
        for name, measured in of.items():
            interval = median_interval(measured.samples)
            milliseconds = Interval(*(1000 * each for each in (interval.value, interval.low, interval.high)))
            if share:
                lines.setdefault(name, []).append(Point(share * 100, milliseconds))
        if share in GOAL_SHARES and not prefix:
            found.goals.append(
                Goal(
                    f"refresh_by_hand/{compared.name}/{share_text(share)}",
                    BY_HAND_GOAL,
                    Better.LOWER,
                    interval=ratio(of["engine"], of["by_hand"]).interval,
                    why=_why_slower(by_name, compared.by_share.get(_ONE_ROW)),
                )
            )
        if share == 0.01 and "recompute" in of and not prefix:
            _add_recompute_goal(compared, found, of)
    for name, points in lines.items():
        if len(points) > 1:
            found.series.append(
                Series(
                    f"{prefix}{compared.name}/{name}",
                    f"Refresh time by share changed: {prefix}{compared.name}",
                    "rows changed, %",
                    "ms",
                    tuple(points),
                    is_log_x=True,
                    is_log_y=True,
                    note=compared.strategy if name == "engine" else "",
                )
            )


def _why_slower(of: Mapping[str, Measurement], of_one: Mapping[str, Measurement] | None) -> str:
    """Where the time goes: what a refresh takes whatever changed, and what its statements take."""

    def ms(measured: Mapping[str, Measurement], name: str) -> float:
        return median_interval(measured[name].samples).value * 1000

    engine, hand = ms(of, "engine"), ms(of, "by_hand")
    if engine <= BY_HAND_GOAL * hand:
        return ""
    why = f"{engine:.1f} ms, by hand {hand:.1f} ms"
    if of_one is None:
        return why
    besides = ms(of_one, "engine") - ms(of_one, "by_hand")
    return (
        f"{why}; after one changed row {ms(of_one, 'engine'):.1f} and {ms(of_one, 'by_hand'):.1f} ms: lease, cut,"
        f" catalog and history take {besides:.1f} ms of each refresh, without which it would be"
        f" {(engine - besides) / hand:.2f}x"
    )


def _add_recompute_goal(compared: Compared, found: Gathered, of: Mapping[str, Measurement]) -> None:
    interval = ratio(of["recompute"], of["engine"]).interval
    by_hand = ratio(of["recompute"], of["by_hand"]).interval
    goal = RECOMPUTE_GOALS.get(compared.operator.name)
    if goal is not None:
        name, bound = goal
        if compared.home is not Home.SERVER:
            name = f"{name}/{compared.home}"
        why = f"the SQL by hand for the same delta reaches {by_hand.value:.3g}x in the same rounds: this is the limit"
        if interval.value >= bound:
            why = ""
        found.goals.append(Goal(name, bound, Better.HIGHER, interval=interval, why=why))


def _measure_nothing(connection: Connection, found: Gathered, is_up: Callable[[], bool]) -> None:
    """A refresh when nothing changed, of a distributed table of a distributed source."""

    def refresh() -> float:
        begun = time.perf_counter()
        done = stream_tables.refresh("kept")
        took_ms = (time.perf_counter() - begun) * 1000
        if done.action != "NO_DATA":
            raise AssertionError(f"there was something to do: {done.action}")
        return took_ms

    with StreamTables(connection) as stream_tables:
        stream_tables.create("kept", FEW_GROUPS.query, schedule=None, placement="distributed")
        measured = measure([Contestant("nothing_to_do", refresh, unit="ms")], rounds=21, warmups=3, deadline=is_up)
        stream_tables.drop("kept")
    found.measurements += measured
    interval = median_interval(measured[0].samples)
    found.goals.append(Goal("nothing_to_do_ms", NOTHING_GOAL_MS, Better.LOWER, unit="ms", interval=interval))
