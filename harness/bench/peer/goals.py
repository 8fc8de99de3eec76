"""The goals beside the extension, each with the cells in which it falls short."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from harness.bench.model import Better, Goal, Interval, Ratio, Verdict
from harness.bench.peer import capture, refresh
from harness.bench.writes import Operation

NEVER_SLOWER, TIMES_FASTER, CAPTURE_MOST, RATE_LEAST = 1.0, 5.0, 1.8, 0.7
FASTER_SHARES = (0.001, 0.01)
_ONE_PERCENT = 0.01


def make_goals(captured: capture.CaptureFound, refreshed: refresh.RefreshFound) -> list[Goal]:
    """All of them; those that nothing was measured for say so."""
    return [
        _never_slower("refresh", {cell.name: found for cell, found in refreshed.over_peer.items()}),
        _never_slower("capture", {cell.name: found for cell, found in captured.over_peer.items()}),
        _geometric_mean(refreshed),
        _recompute(refreshed),
        *(_bulk(captured, operation) for operation in (Operation.INSERT, Operation.UPDATE, Operation.DELETE)),
        _rate(captured),
    ]


def _never_slower(what: str, found: Mapping[str, Ratio]) -> Goal:
    name = f"peer/{what}/slowest_cell"
    if not found:
        return Goal(name, NEVER_SLOWER, Better.LOWER, why="nothing was measured")
    worst = max(found.values(), key=lambda each: each.interval.value)
    short = [f"{cell} {each.interval.value:.2f}x" for cell, each in found.items() if each.interval.value > NEVER_SLOWER]
    why = f"{len(short)} of {len(found)} cells are slower than the extension: {', '.join(short)}" if short else ""
    return Goal(name, NEVER_SLOWER, Better.LOWER, interval=worst.interval, why=why)


def _geometric_mean(refreshed: refresh.RefreshFound) -> Goal:
    name = "peer/refresh/times_faster"
    ratios = [found.interval for cell, found in refreshed.over_peer.items() if cell.share in FASTER_SHARES]
    if not ratios:
        return Goal(name, TIMES_FASTER, Better.HIGHER, why="nothing was measured")
    # The quotient the other way round: its low end is this one's high one.
    value, high, low = (
        math.exp(sum(-math.log(each) for each in ends) / len(ratios))
        for ends in zip(*((each.value, each.low, each.high) for each in ratios), strict=True)
    )
    slow = [cell.name for cell in refreshed.too_slow if cell.share in FASTER_SHARES]
    once = [
        cell.name
        for cell in refreshed.over_peer
        if cell.share in FASTER_SHARES and cell in refreshed.ours_s and len(refreshed.ours_s[cell].samples) == 1
    ]
    said = (
        [f"without {', '.join(slow)}, where the extension gave no answer within {refresh.LIMIT_S:.0f} s"]
        if slow
        else []
    )
    said += [f"measured once, since the extension takes so long: {', '.join(once)}"] if once else []
    why = "; ".join(said)
    goal = Goal(name, TIMES_FASTER, Better.HIGHER, interval=Interval(value, low, high), why=why)
    return goal if goal.verdict is Verdict.MET or why else _with_cells(goal, refreshed)


def _with_cells(goal: Goal, refreshed: refresh.RefreshFound) -> Goal:
    cells = ", ".join(
        f"{cell.name} {1 / found.interval.value:.2g}x"
        for cell, found in refreshed.over_peer.items()
        if cell.share in FASTER_SHARES
    )
    return Goal(goal.name, goal.goal, goal.better, goal.unit, goal.interval, f"times faster by cell: {cells}")


def _recompute(refreshed: refresh.RefreshFound) -> Goal:
    """At 1 %, where ours did not recompute by its own choice."""
    name = "peer/refresh/over_recomputing"
    cells = {cell: found for cell, found in refreshed.over_recompute.items() if cell.share == _ONE_PERCENT}
    if not cells:
        return Goal(name, NEVER_SLOWER, Better.LOWER, why="nothing was measured")
    said = [cell for cell in cells if refreshed.actions[cell][0] == "FULL"]
    counted = {cell: found for cell, found in cells.items() if cell not in said}
    if not counted:
        return Goal(name, NEVER_SLOWER, Better.LOWER, why="AUTO recomputes in every cell, and says so")
    worst = max(counted.values(), key=lambda each: each.interval.value)
    short = _short((cell.name, found) for cell, found in counted.items())
    parts = [f"slower than recomputing: {short}"] if short else []
    parts += [f"AUTO recomputes, and says so: {', '.join(cell.name for cell in said)}"] if said else []
    return Goal(name, NEVER_SLOWER, Better.LOWER, interval=worst.interval, why="; ".join(parts))


def _short(found: Iterable[tuple[str, Ratio]]) -> str:
    return ", ".join(f"{name} {each.interval.value:.2f}x" for name, each in found if each.interval.value > NEVER_SLOWER)


def _bulk(captured: capture.CaptureFound, operation: Operation) -> Goal:
    """The worse of with a key and without."""
    name = f"peer/capture/{operation}_{capture.BULK_ROWS}"
    found = {
        cell: each
        for cell, each in captured.over_none.items()
        if cell.operation is operation and cell.rows == capture.BULK_ROWS
    }
    if not found:
        return Goal(name, CAPTURE_MOST, Better.LOWER, why="nothing was measured")
    if {cell.has_key for cell in found} != {True, False}:
        return Goal(
            name, CAPTURE_MOST, Better.LOWER, why="the time was up before it was measured with a key and without"
        )
    worst = max(found.values(), key=lambda each: each.interval.value)
    words = ", ".join(f"{cell.name} {each.interval.value:.2f}x{_limit(captured, cell)}" for cell, each in found.items())
    why = words if worst.interval.value > CAPTURE_MOST else ""
    return Goal(name, CAPTURE_MOST, Better.LOWER, interval=worst.interval, why=why)


def _limit(captured: capture.CaptureFound, cell: capture.Cell) -> str:
    limit = captured.limit.get(cell)
    if limit is None:
        return ""
    return f" (a trigger by hand that writes the same rows and no more {limit.interval.value:.2f}x)"


def _rate(captured: capture.CaptureFound) -> Goal:
    name = "peer/single_row_rate"
    ours, theirs = captured.rate.get("ours"), captured.rate.get("pg_trickle")
    if ours is None:
        return Goal(name, RATE_LEAST, Better.HIGHER, why="nothing was measured")
    why = ""
    if ours.interval.value < RATE_LEAST and theirs is not None:
        why = f"{capture.CLIENTS} clients; the extension keeps {theirs.interval.value:.3f} of the rate"
        if (limit := captured.rate.get(capture.BY_HAND)) is not None:
            why += f", a row trigger by hand that writes the row once more {limit.interval.value:.3f}"
    return Goal(name, RATE_LEAST, Better.HIGHER, interval=ours.interval, why=why)
