"""Beside the public extension, on one plain server: what is lost, capture, refreshes (docs/beside-pg-trickle.md)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.bench.model import Better, Check, Gathered, Goal, GroupResult, Measurement, Profile, Tell
from harness.bench.peer.capture import CaptureFound, make_cells, measure_capture, measure_single_rows
from harness.bench.peer.goals import make_goals
from harness.bench.peer.refresh import (
    OPERATORS,
    RefreshFound,
    make_sources,
    measure_refreshes,
)
from harness.bench.peer.sides import Sides, open_sides
from harness.bench.supply import Supply
from harness.engines.losses import cuts_beside_writers, open_transaction
from harness.errors import EnvironmentMissingError

NAME = "peer"
TITLE = "Beside the public extension, on one server"


@dataclass(frozen=True)
class _Scale:
    """What a profile measures.

    Attributes:
        budget_s: seconds; after them no further cell is begun.
        rows: sales.
        operators: what is kept, by its place in `OPERATORS`.
        shares: of the sales that change, in growing order.
        sizes: rows of a statement whose capture is measured.
        rounds: of each cell.
        slices: of single rows.
        slice_s: seconds of one.
        cuts: refreshes beside writers.
    """

    budget_s: float
    rows: int
    operators: tuple[int, ...]
    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    rounds: int
    slices: int
    slice_s: int
    cuts: int


_SCALES = {
    Profile.SMOKE: _Scale(15, 20_000, (0,), (0.01,), (100,), 3, 3, 1, 20),
    Profile.STANDARD: _Scale(150, 200_000, (0, 2, 4), (0.0, 0.001, 0.01), (1, 100, 10_000), 3, 5, 1, 40),
    Profile.FULL: _Scale(
        2_400, 1_000_000, tuple(range(len(OPERATORS))), (0.0, 0.0001, 0.001, 0.01, 0.1), (1, 100, 10_000, 100_000), 5,
        15, 2, 100,
    ),
}  # fmt: skip


def run(_supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Compare the engines.

    Args:
        profile: how long it may take. In full all the cells; else some of them, over fewer rows.
        tell: what is being done.

    Returns:
        What was found; skipped where no PostgreSQL has the extension.
    """
    begun = time.monotonic()
    scale = _SCALES[profile]
    gathered = Gathered()
    try:
        with open_sides() as sides:
            gathered.notes.append(
                f"pg_trickle {sides.version}, its scheduler off, beside this engine, both in mode AUTO: one server,"
                " a database each."
            )
            _measure(sides, scale, gathered, tell, begun)
    except EnvironmentMissingError as error:
        reason = f"environment: {error.message}"
        goals = tuple(
            Goal(goal.name, goal.goal, goal.better, why=reason) for goal in make_goals(CaptureFound(), RefreshFound())
        )
        return GroupResult(NAME, TITLE, goals=goals, skipped=reason)
    return gathered.result(NAME, TITLE, time.monotonic() - begun)


def _measure(sides: Sides, scale: _Scale, gathered: Gathered, tell: Tell, begun: float) -> None:
    def until(share: float) -> Callable[[], bool]:
        return lambda: time.monotonic() >= begun + scale.budget_s * share

    tell("what is lost")
    _measure_losses(sides, scale, gathered)
    captured = measure_capture(
        sides, make_cells(scale.sizes), gathered, rounds=scale.rounds, tell=tell, is_up=until(0.35)
    )
    measure_single_rows(sides, gathered, captured, rounds=scale.slices, seconds=scale.slice_s, tell=tell)
    tell(f"{scale.rows} rows")
    make_sources(sides, scale.rows)
    refreshed = measure_refreshes(
        sides,
        [OPERATORS[number] for number in scale.operators],
        scale.shares,
        gathered,
        rows=scale.rows,
        rounds=scale.rounds,
        tell=tell,
        is_up=until(1.0),
    )
    gathered.goals += make_goals(captured, refreshed)
    for cell, (ours, peer) in refreshed.actions.items():
        if "FULL" in ours or "FULL" in peer:
            gathered.notes.append(f"{cell.name}: AUTO did {ours} here, {peer or 'nothing in time'} in the extension.")


def _measure_losses(sides: Sides, scale: _Scale, gathered: Gathered) -> None:
    """Rows that each engine loses; the same function is a scenario (scenarios/beside/test_cuts.py)."""
    for side in sides.both:
        for loss in (
            open_transaction(side.engine, side.node),
            cuts_beside_writers(side.engine, side.node, cuts=scale.cuts),
        ):
            words = loss.name.replace(" ", "_")
            wrong = float(loss.missing + loss.extra)
            gathered.measurements.append(
                Measurement(f"lost/{words}/{side.name}", "rows", (wrong,), work=loss.committed, better=Better.LOWER)
            )
            gathered.notes.append(f"{loss.name}, {side.name}: {loss}.")
            if not side.is_peer:
                gathered.checks.append(Check(f"lost/{words}", loss.is_exact, str(loss)))
