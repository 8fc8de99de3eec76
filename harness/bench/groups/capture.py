"""What the engine's own capture costs beside none: bulk statements of each kind, on a cluster and on one server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.bench.model import Better, Gathered, Goal, GroupResult, Profile, Ratio, Tell
from harness.bench.registry import choose_groups
from harness.bench.supply import Supply
from harness.bench.tables import SHARDS, make_table
from harness.bench.triggers.forms import Form
from harness.bench.triggers.making import Captured, captured_by_engine, make_captured
from harness.bench.workbench import Budget, Workbench, workbench
from harness.bench.writes import Operation, Write

NAME = "capture"
# The goal's size (issue 7).
BULK_ROWS = 100_000
GOAL = 1.6
# A capture that knows neither when nor in what order: the least that a second copy of each row takes.
_ONCE_MORE = Form(has_xid=False)


@dataclass(frozen=True)
class Case:
    """What is compared: a write to a table with the engine's capture, and to one without.

    Attributes:
        name: words separated by slashes.
        write: what is written.
        columns: of both tables.
        shards: of both tables, on Citus.
        goal: the name of the goal that it decides on Citus; ``_plain`` is added on one server.
    """

    name: str
    write: Write
    columns: int = 5
    shards: int = SHARDS
    goal: str = ""


def choose_cases(profile: Profile) -> tuple[Case, ...]:
    """The bulk insert always; in more time the other operations, in much of it wide tables and more shards."""
    bulk = Case("insert", Write.bulk(Operation.INSERT, BULK_ROWS), goal="bulk_insert")
    if profile is Profile.SMOKE:
        return (replace(bulk, shards=4),)
    rows = 20_000 if profile is Profile.STANDARD else BULK_ROWS
    others = [
        Case(operation.value, Write.bulk(operation, rows))
        for operation in (Operation.UPDATE, Operation.DELETE, Operation.COPY, Operation.UPSERT)
    ]
    if profile is Profile.STANDARD:
        return (bulk, *others)
    return (
        bulk,
        *others,
        Case("insert/20_columns", Write.bulk(Operation.INSERT, 50_000), columns=20),
        Case("insert/100_columns", Write.bulk(Operation.INSERT, 10_000), columns=100),
        Case("insert/32_shards", Write.bulk(Operation.INSERT, BULK_ROWS), shards=32),
        Case("insert/100_rows", Write(Operation.INSERT, 10_000, 100)),
        Case("insert/1_row", Write(Operation.INSERT, 500, 1)),
    )


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Measure it, on a cluster where there is one, and on one server."""
    begun = time.monotonic()
    gathered = Gathered()
    cases = choose_cases(profile)
    seconds = choose_groups((NAME,), profile)[0].seconds[profile]
    has_cluster = supply.provider is not None
    is_smoke = profile is Profile.SMOKE
    budget = Budget(seconds, parts=len(cases) * (2 if has_cluster else 1))
    if has_cluster:
        with supply.cluster() as place, workbench(place, gathered, budget, tell) as bench:
            _run_cases(bench, cases, is_smoke=is_smoke)
    else:
        gathered.goals.append(Goal("bulk_insert", GOAL, Better.LOWER, why=f"no cluster: {supply.missing}"))
    with supply.server() as place, workbench(place, gathered, budget, tell) as bench:
        _run_cases(bench, [case for case in cases if case.shards <= SHARDS], is_smoke=is_smoke)
    return gathered.result(NAME, "Capture against none", time.monotonic() - begun)


def _run_cases(bench: Workbench, cases: Sequence[Case], *, is_smoke: bool) -> None:
    for case in cases:
        shards = bench.shards(case.shards)
        none, engine = (
            make_table(bench.connection, bench.next_table(), columns=case.columns, shards=shards) for _ in range(2)
        )
        ways = {
            f"{case.name}/none": Captured(none, None),
            f"{case.name}/engine": captured_by_engine(bench.connection, engine),
        }
        if case.goal and not is_smoke:
            # The limit: each row is written once more, and nothing else.
            again = make_table(bench.connection, bench.next_table(), columns=case.columns, shards=shards)
            ways[f"{case.name}/by_hand"] = make_captured(bench.connection, again, _ONCE_MORE)
        found, *by_hand = bench.compare(ways, case.write)
        if case.goal:
            name = case.goal + ("_plain" if bench.is_plain else "")
            why = _why(found, by_hand[0] if by_hand else None)
            bench.gathered.goals.append(Goal(name, GOAL, Better.LOWER, interval=found.interval, why=why))


def _why(found: Ratio, by_hand: Ratio | None) -> str:
    if found.interval.value <= GOAL:
        return ""
    why = "each row is written a second time, one by one, where a COPY into the table itself writes pages"
    if by_hand is None:
        return why
    limit = by_hand.interval
    return (
        f"{why}: a statement trigger by hand that does this and nothing else takes {limit.value:.3g}x [{limit.low:.3g}"
        f" to {limit.high:.3g}] in the same rounds"
    )
