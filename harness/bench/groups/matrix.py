"""The plan's ten rows as ``harness matrix`` runs them: how long, the start of their cluster included."""

from __future__ import annotations

import statistics
import time

from harness.bench.interleaved import Contestant, measure
from harness.bench.model import Better, Check, Gathered, Goal, GroupResult, Measurement, Profile, Tell
from harness.bench.statistics import median_interval
from harness.bench.supply import Supply
from harness.matrix.model import MatrixResult
from harness.matrix.rows import ROWS
from harness.matrix.run import run_matrix
from harness.rehearsal.model import Verdict

NAME = "matrix"
TITLE = "The plan's ten rows"
GOAL_S = 60.0
_ROUNDS = {Profile.SMOKE: 1, Profile.STANDARD: 1, Profile.FULL: 3}


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Run the whole matrix on a cluster of its own, once or several times."""
    if supply.provider is None:
        goal = Goal("matrix_s", GOAL_S, Better.LOWER, "s", why=supply.missing)
        return GroupResult(NAME, TITLE, goals=(goal,), skipped=supply.missing)
    begun = time.monotonic()
    kind = supply.provider.kind
    results: list[MatrixResult] = []

    def play() -> None:
        results.append(run_matrix(cluster=kind, on_row=lambda row: tell(f"row {row.number} of {len(ROWS)}")))

    (whole,) = measure([Contestant("matrix", play, work=len(ROWS))], rounds=_ROUNDS[profile], warmups=0)
    gathered = Gathered(measurements=[whole])
    gathered.checks += [
        Check(f"round {number}: row {row.number}", row.verdict is Verdict.PASSED, row.reason or row.title)
        for number, result in enumerate(results, 1)
        for row in result.rows
    ]
    for row in ROWS:
        took = tuple(each.elapsed_s for result in results for each in result.rows if each.number == row.number)
        gathered.measurements.append(Measurement(f"row {row.number:02} {row.name}", "s", took))
    rows = sorted(gathered.measurements[1:], key=lambda each: -statistics.median(each.samples))
    slowest = ", ".join(f"{each.name} {statistics.median(each.samples):.1f} s" for each in rows[:3])
    start_s = statistics.median(result.start_s for result in results)
    gathered.notes.append(f"Longest: {slowest}; the cluster's start {start_s:.1f} s.")
    interval = median_interval(whole.samples)
    why = "" if interval.value <= GOAL_S else f"longest are {slowest}"
    gathered.goals.append(Goal("matrix_s", GOAL_S, Better.LOWER, "s", interval, why))
    return gathered.result(NAME, TITLE, time.monotonic() - begun)
