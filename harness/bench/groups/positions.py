"""What it costs to give each captured change a position: the plan's first risk, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from harness.bench.interleaved import ratio
from harness.bench.model import Gathered, GroupResult, Measurement, Profile, Refusal, Tell
from harness.bench.registry import choose_groups
from harness.bench.supply import Supply
from harness.bench.tables import SHARDS, Table, make_table
from harness.bench.triggers import positions
from harness.bench.triggers.forms import Dispatch, Form, Level, Position
from harness.bench.triggers.helpers import make_helpers
from harness.bench.triggers.making import Captured, make_captured, make_empty_trigger
from harness.bench.triggers.refusals import try_buffer_by_position
from harness.bench.workbench import Budget, Workbench, workbench
from harness.bench.writes import Operation, Write, Writer

NAME = "positions"


@dataclass(frozen=True)
class Sizes:
    """How much is written.

    Attributes:
        bulk: rows of the one statement.
        slow: rows of the one statement where a row costs a round trip.
        single: statements of one row.
        shards: of each table, on Citus.
    """

    bulk: int
    slow: int
    single: int
    shards: int


_SIZES = {
    Profile.SMOKE: Sizes(bulk=20_000, slow=200, single=0, shards=4),
    Profile.STANDARD: Sizes(bulk=30_000, slow=300, single=40, shards=SHARDS),
    Profile.FULL: Sizes(bulk=100_000, slow=2_000, single=500, shards=SHARDS),
}
# A smoke test has no time for each.
_SMOKE = (positions.WAL_LSN, positions.CACHE_100, positions.ONCE)
_FAST = (
    positions.WAL_LSN,
    positions.CACHE_1,
    positions.CACHE_100,
    positions.CACHE_10000,
    positions.ONCE,
    positions.NODE_CLOCK,
    positions.TRANSACTION_CLOCK,
)


@dataclass(frozen=True)
class Way:
    """A way to capture, with what it writes to.

    Attributes:
        name: of the position.
        captured: its table.
        is_slow: whether fewer rows are written.
    """

    name: str
    captured: Captured
    is_slow: bool = False


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Measure it, on a cluster where there is one, and on one server in the full profile or where there is none."""
    begun = time.monotonic()
    gathered = Gathered()
    sizes = _SIZES[profile]
    seconds = choose_groups((NAME,), profile)[0].seconds[profile]
    has_cluster = supply.provider is not None
    has_server = not has_cluster or profile is Profile.FULL
    budget = Budget(seconds, parts=(2 if sizes.single else 1) * (has_cluster + has_server))
    if has_cluster:
        with supply.cluster() as place, workbench(place, gathered, budget, tell) as bench:
            _run_place(bench, profile, sizes)
            refusal = try_buffer_by_position(bench.connection, shards=sizes.shards)
            gathered.refusals.append(refusal)
            gathered.notes.append(f"A buffer distributed by seq_id (the plan's P4.3) is refused: {refusal.error}")
    else:
        gathered.notes.append(f"The positions of a cluster were not measured: {supply.missing}.")
    if has_server:
        with supply.server() as place, workbench(place, gathered, budget, tell) as bench:
            _run_place(bench, profile, sizes)
    return gathered.result(NAME, "The position that a captured change gets", time.monotonic() - begun)


def _run_place(bench: Workbench, profile: Profile, sizes: Sizes) -> None:
    bench.tell(bench.name("tables"))
    ways = _make_ways(bench, profile, sizes)
    bench.tell(bench.name(f"{sizes.bulk} rows in one statement"))
    _measure_bulk(bench, ways, sizes)
    if sizes.single:
        singles = {f"single/{way.name}": way.captured for way in ways}
        bench.compare(singles, Write(Operation.INSERT, sizes.single, 1))


def _make_ways(bench: Workbench, profile: Profile, sizes: Sizes) -> list[Way]:
    connection = bench.connection
    without_dblink = make_helpers(connection)

    def table() -> Table:
        return make_table(connection, bench.next_table(), shards=bench.shards(sizes.shards))

    ways = [
        Way("none", Captured(table(), None)),
        Way("empty_trigger", make_empty_trigger(connection, table())),
        Way("xid", make_captured(connection, table(), Form())),
    ]
    for position in _SMOKE if profile is Profile.SMOKE else _FAST:
        if not (position.needs_citus and bench.is_plain):
            way = Way(position.name, make_captured(connection, table(), Form(position=position)))
            _keep_if_it_works(bench, way, position, ways)
    if bench.is_plain:
        return ways
    if without_dblink:
        bench.gathered.refusals.append(Refusal("coordinator/dblink", without_dblink))
    else:
        form = Form(position=positions.DBLINK)
        ways.append(Way("coordinator/dblink", make_captured(connection, table(), form), is_slow=True))
    if profile is not Profile.SMOKE:
        form = Form(level=Level.ROW, dispatch=Dispatch.SHELL, position=positions.DEFAULT)
        ways.append(Way("coordinator/default", make_captured(connection, table(), form), is_slow=True))
    return ways


def _keep_if_it_works(bench: Workbench, way: Way, position: Position, ways: list[Way]) -> None:
    """A trigger on a shard may be refused a clock of the cluster; that is a finding, and nothing to time."""
    try:
        Writer(bench.connection, way.captured, Write.bulk(Operation.INSERT, 100)).run()
    except psycopg.Error as error:
        expected = position is positions.TRANSACTION_CLOCK
        bench.gathered.refusals.append(Refusal(position.name, error.diag.message_primary or str(error), expected))
    else:
        ways.append(way)


def _measure_bulk(bench: Workbench, ways: Sequence[Way], sizes: Sizes) -> None:
    bulk, few = (Write.bulk(Operation.INSERT, rows) for rows in (sizes.bulk, sizes.slow))
    names = {way.name: bench.name(way.name) + (f"/{sizes.slow}_rows" if way.is_slow else "") for way in ways}
    writers = {way.name: Writer(bench.connection, way.captured, few if way.is_slow else bulk) for way in ways}
    contestants = [writer.contestant(names[name]) for name, writer in writers.items()]
    none_of_few = f"none/{sizes.slow}_rows"
    has_slow = any(way.is_slow for way in ways)
    if has_slow:
        contestants.append(Writer(bench.connection, ways[0].captured, few).contestant(none_of_few))
    measured = bench.time(contestants)
    none = measured[names[ways[0].name]]
    for way in ways[1:]:
        found = measured[names[way.name]]
        if way.is_slow:
            found = scale_up(bench.name(way.name), found, measured[none_of_few], none)
            bench.gathered.measurements.append(found)
        bench.gathered.ratios.append(ratio(found, none))
    bench.gathered.checks += [
        writers[way.name].check(bench.name(way.name)) for way in ways if way.captured.buffer is not None
    ]
    if has_slow:
        bench.gathered.notes.append(
            f"What needs a round trip a row was timed with {sizes.slow} rows a statement: what each row cost more than"
            f" without a trigger, times {sizes.bulk}, is added to the {sizes.bulk} rows without a trigger."
        )


def scale_up(name: str, few: Measurement, few_without: Measurement, many_without: Measurement) -> Measurement:
    """What many rows would have cost: their time without it, and for each what a row of few cost more.

    Args:
        name: of the answer.
        few: a few rows, in the way that is asked about.
        few_without: as many rows without it, in the same rounds.
        many_without: many rows without it, in the same rounds.
    """
    factor = many_without.work / few.work
    samples = tuple(
        max(many + (slow - fast) * factor, 0.0)
        for slow, fast, many in zip(few.samples, few_without.samples, many_without.samples, strict=True)
    )
    return Measurement(name, many_without.unit, samples, work=many_without.work, better=many_without.better)
