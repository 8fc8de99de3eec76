"""The goals beside the extension, from figures that are given; and the group where nobody has the extension."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.bench.byhand import FEW_GROUPS, JOIN
from harness.bench.groups import peer as group
from harness.bench.model import Interval, Profile, Ratio, Verdict
from harness.bench.peer.capture import CaptureFound, make_cells
from harness.bench.peer.goals import make_goals
from harness.bench.peer.refresh import Cell, RefreshFound
from harness.bench.supply import Supply
from harness.bench.writes import Operation
from harness.postgres.installations import wheel_bindir
from harness.settings import load_settings


def _ratio(value: float) -> Ratio:
    return Ratio("of : to", "of", "to", Interval(value, value / 2, value * 2))


FAST = Cell(FEW_GROUPS, 0.01)
SLOW = Cell(JOIN, 0.001)


def _refreshed() -> RefreshFound:
    found = RefreshFound()
    found.over_peer = {FAST: _ratio(0.1), SLOW: _ratio(0.3)}
    found.over_recompute = {FAST: _ratio(0.5), SLOW: _ratio(2.0)}
    found.actions = {FAST: ("DIFFERENTIAL", "FULL"), SLOW: ("DIFFERENTIAL", "DIFFERENTIAL")}
    return found


def _captured() -> CaptureFound:
    found = CaptureFound()
    for cell in make_cells((1, 100_000)):
        found.over_none[cell] = _ratio(1.9 if cell.operation is Operation.UPDATE and cell.rows > 1 else 1.2)
        found.over_peer[cell] = _ratio(0.5)
    found.rate = {"ours": _ratio(0.69), "pg_trickle": _ratio(0.41)}
    return found


def test_goals_are_those_of_the_figures() -> None:
    goals = {goal.name: goal for goal in make_goals(_captured(), _refreshed())}
    assert len(goals) == 8
    met = {name for name, goal in goals.items() if goal.verdict is Verdict.MET}
    assert met == {
        "peer/refresh/slowest_cell",
        "peer/capture/slowest_cell",
        "peer/refresh/times_faster",
        "peer/refresh/over_recomputing",
        "peer/capture/insert_100000",
        "peer/capture/delete_100000",
    }
    mean = goals["peer/refresh/times_faster"].interval
    assert mean is not None
    assert mean.value == pytest.approx(math.sqrt(10 / 0.3))
    assert mean.low < mean.value < mean.high
    assert "capture/update/100000/key 1.90x" in goals["peer/capture/update_100000"].why
    assert "keeps 0.410" in goals["peer/single_row_rate"].why


def test_cells_that_fall_short_are_named() -> None:
    refreshed = _refreshed()
    refreshed.over_peer[FAST] = _ratio(1.25)
    refreshed.over_recompute[FAST] = _ratio(1.5)
    goals = {goal.name: goal for goal in make_goals(_captured(), refreshed)}
    slowest = goals["peer/refresh/slowest_cell"]
    assert slowest.verdict is Verdict.NOT_MET
    assert slowest.why == f"1 of 2 cells are slower than the extension: {FAST.name} 1.25x"
    assert goals["peer/refresh/times_faster"].verdict is Verdict.NOT_MET
    assert f"{FAST.name} 0.8x" in goals["peer/refresh/times_faster"].why
    assert goals["peer/refresh/over_recomputing"].why == f"slower than recomputing: {FAST.name} 1.50x"


def test_cell_that_auto_recomputes_is_said_and_not_counted() -> None:
    refreshed = _refreshed()
    other = Cell(JOIN, 0.01)
    refreshed.over_recompute[other] = _ratio(1.3)
    refreshed.actions[other] = ("FULL", "FULL")
    goal = {goal.name: goal for goal in make_goals(_captured(), refreshed)}["peer/refresh/over_recomputing"]
    assert goal.verdict is Verdict.MET
    assert goal.why == f"AUTO recomputes, and says so: {other.name}"


def test_all_cells_that_auto_recomputes_decide_nothing() -> None:
    refreshed = _refreshed()
    refreshed.actions[FAST] = ("FULL", "FULL")
    goal = {goal.name: goal for goal in make_goals(_captured(), refreshed)}["peer/refresh/over_recomputing"]
    assert (goal.verdict, goal.why) == (Verdict.NOT_MEASURED, "AUTO recomputes in every cell, and says so")


def test_cell_that_auto_recomputed_in_some_rounds_counts() -> None:
    refreshed = _refreshed()
    refreshed.over_recompute[FAST] = _ratio(1.2)
    refreshed.actions[FAST] = ("DIFFERENTIAL and FULL", "FULL")
    goal = {goal.name: goal for goal in make_goals(_captured(), refreshed)}["peer/refresh/over_recomputing"]
    assert goal.verdict is Verdict.NOT_MET


def test_limit_is_said_beside_what_falls_short() -> None:
    captured = _captured()
    captured.limit = {cell: _ratio(1.7) for cell in captured.over_none if cell.rows > 1}
    captured.rate["by_hand"] = _ratio(0.8)
    goals = {goal.name: goal for goal in make_goals(captured, _refreshed())}
    assert "key 1.90x (a trigger by hand that writes the same rows and no more 1.70x)" in (
        goals["peer/capture/update_100000"].why
    )
    assert goals["peer/single_row_rate"].why.endswith("a row trigger by hand that writes the row once more 0.800")


def test_cells_without_an_answer_are_named_beside_the_mean() -> None:
    refreshed = _refreshed()
    refreshed.too_slow.append(Cell(JOIN, 0.01))
    goal = {goal.name: goal for goal in make_goals(_captured(), refreshed)}["peer/refresh/times_faster"]
    assert "refresh/join/1%" in goal.why


def test_nothing_measured_is_said_of_every_goal() -> None:
    goals = make_goals(CaptureFound(), RefreshFound())
    assert {goal.verdict for goal in goals} == {Verdict.NOT_MEASURED}
    assert all(replace(goal, why="") != goal for goal in goals)


def test_group_is_skipped_by_name_where_nobody_has_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_bindir()
    assert wheel is not None
    monkeypatch.setenv("HARNESS_PG_BINDIR", str(wheel))
    load_settings.cache_clear()
    try:
        result = group.run(Supply(None, "none"), Profile.SMOKE, lambda _words: None)
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()
    assert result.skipped.startswith("environment: no PostgreSQL with pg_trickle was found (without: ")
    assert {goal.verdict for goal in result.goals} == {Verdict.NOT_MEASURED}
    assert all(goal.why == result.skipped for goal in result.goals)
