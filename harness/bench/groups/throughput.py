"""Single rows by eight clients: what capture leaves of the rate, and what it does to latency."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.load.pgbench import Protocol
from harness.bench.load.samples import PERCENTILES, LoadResult, percentile
from harness.bench.load.scripts import workload
from harness.bench.load.sender import Sender, choose_sender
from harness.bench.load.tables import LoadTable, Strategy, check_captured, load_tables, row_count
from harness.bench.model import (
    Better,
    Check,
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
from harness.bench.statistics import median_interval
from harness.bench.supply import Supply
from harness.postgres.deadlines import DeadlineConnection

NAME = "throughput"
TITLE = "Single rows by several clients"
# Of F18; and of the goal.
CLIENTS = 8
GOAL = 0.80
# Each percentile of a plot, by its name in `PERCENTILES`.
_PLOTTED = ("p50", "p99", "p99.9")
_ALL = (Strategy.NONE, Strategy.EMPTY, Strategy.BY_HAND, Strategy.CAPTURE)
# Arrivals come by chance: of 500 that are due in a second, as few as 440 may be.
_KEEPS_UP = 0.88


@dataclass(frozen=True)
class _Plan:
    """How long a profile measures.

    Attributes:
        strategies: which are compared.
        rounds: slices of each strategy.
        slice_s: of a slice.
        transactions: by each client of a slice, instead of the seconds.
        protocols: of pgbench; the goal is by the first.
        shares: of the rate without capture: at which open loops run.
        rate_s: seconds of an open loop's slice.
        rate_rounds: slices of each.
        workloads: beside single rows, in a closed loop.
        is_plain_too: whether one server without Citus is measured as well.
    """

    strategies: tuple[Strategy, ...]
    rounds: int
    slice_s: int = 1
    transactions: int | None = None
    protocols: tuple[Protocol, ...] = ("simple",)
    shares: tuple[float, ...] = ()
    rate_s: int = 1
    rate_rounds: int = 1
    workloads: tuple[str, ...] = ()
    is_plain_too: bool = False


_PLANS = {
    Profile.SMOKE: _Plan((Strategy.NONE, Strategy.CAPTURE), rounds=4, transactions=400),
    Profile.STANDARD: _Plan(_ALL, rounds=5, slice_s=2, shares=(0.3, 0.6), rate_rounds=2),
    Profile.FULL: _Plan(
        _ALL,
        rounds=7,
        protocols=("simple", "prepared"),
        shares=(0.1, 0.25, 0.5, 0.7, 0.9),
        rate_rounds=2,
        workloads=("batch", "update", "mixed"),
        is_plain_too=True,
    ),
}


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Measure it (see `harness.bench.registry.Group`)."""
    begun = time.monotonic()
    plan = _PLANS[profile]
    gathered = Gathered()
    sender = choose_sender(CLIENTS)
    if sender.program is None:
        gathered.notes.append(
            f"The load came from threads of this process, which take some of the same cores: {sender.missing}."
        )
    if supply.provider is not None:
        with supply.cluster() as place:
            _measure(gathered, _Load(plan, sender, place, "", tell))
    if supply.provider is None or plan.is_plain_too:
        with supply.server() as place:
            _measure(gathered, _Load(plan, sender, place, "plain/", tell))
    if supply.provider is None:
        gathered.goals.append(Goal("single_row_rate", GOAL, Better.HIGHER, why=f"no Citus: {supply.missing}"))
    return gathered.result(NAME, TITLE, time.monotonic() - begun)


@dataclass(frozen=True)
class _Load:
    """What is measured where: the plan, who sends, the database, what stands before each name."""

    plan: _Plan
    sender: Sender
    place: BenchPlace
    prefix: str
    tell: Tell


def _measure(gathered: Gathered, load: _Load) -> None:
    """Rates, then latencies by rate, then whether all that was written was captured."""
    plan = load.plan
    with (
        load.place.connect() as connection,
        load_tables(connection, plan.strategies, is_distributed=load.place.site.has_citus) as tables,
    ):
        sent = _Sent(load, tables)
        base = median_interval(_rates(gathered, sent, "single", plan.protocols[0])[Strategy.NONE].samples).value
        _check_written(gathered, connection, sent)
        if load.sender.program is not None:
            for protocol in plan.protocols[1:]:
                _rates(gathered, sent, "single", protocol)
        for name in plan.workloads:
            _rates(gathered, sent, name, plan.protocols[0])
        if plan.shares:
            _latencies(gathered, sent, [max(round(base * share, -1), 10.0) for share in plan.shares])
        load.tell(f"{load.prefix}what was captured")
        checked = check_captured(connection, tables[Strategy.CAPTURE])
        gathered.checks.append(replace(checked, name=load.prefix + checked.name))


class _Sent:
    """A load, its tables, and how many statements were answered on each."""

    def __init__(self, load: _Load, tables: Mapping[Strategy, LoadTable]) -> None:
        self.load = load
        self.tables = tables
        self.answers = dict.fromkeys(tables, 0)

    def contestant(self, name: str, table: LoadTable, workload_name: str, protocol: Protocol) -> Contestant:
        """Slices of a closed loop on a table."""
        load = self.load

        def run_slice() -> float:
            found = load.sender.send(
                load.place.dsn,
                table.name,
                workload(workload_name),
                seconds=load.plan.slice_s,
                transactions=load.plan.transactions,
                protocol=protocol,
            )
            self.answers[table.strategy] += found.count
            return found.rate

        return Contestant(name, run_slice, unit="statements/s", better=Better.HIGHER)

    def at_rate(self, table: LoadTable, rate: float) -> LoadResult:
        """A slice of an open loop."""
        load = self.load
        return load.sender.send(load.place.dsn, table.name, workload("single"), seconds=load.plan.rate_s, rate=rate)


def _rates(gathered: Gathered, sent: _Sent, name: str, protocol: Protocol) -> dict[Strategy, Measurement]:
    load = sent.load
    load.tell(f"{load.prefix}{name}: {CLIENTS} clients, {load.sender.label}, {protocol}")
    is_first = protocol == load.plan.protocols[0]
    label = load.prefix + name + ("" if is_first else f"_{protocol}")
    # Every slice has sessions of its own, so that no round is warmer than another.
    contestants = [
        sent.contestant(f"{label}/{strategy}", table, name, protocol) for strategy, table in sent.tables.items()
    ]
    measured = dict(zip(sent.tables, measure(contestants, rounds=load.plan.rounds, warmups=0), strict=True))
    gathered.measurements.extend(measured.values())
    for strategy, each in measured.items():
        if strategy is Strategy.NONE:
            continue
        found = ratio(each, measured[Strategy.NONE])
        gathered.ratios.append(found)
        if strategy is Strategy.CAPTURE and label == "single":
            gathered.goals.append(_goal(found.interval, measured, load.sender))
    return measured


def _goal(interval: Interval, measured: Mapping[Strategy, Measurement], sender: Sender) -> Goal:
    rates = {strategy: median_interval(each.samples).value for strategy, each in measured.items()}

    def more_us(strategy: Strategy) -> float:
        """What a statement costs more, of the time that all cores give to one."""
        return (1 / rates[strategy] - 1 / rates[Strategy.NONE]) * 1e6 * (os.cpu_count() or 1)

    words = ", ".join(f"{strategy} {rate:,.0f}/s" for strategy, rate in rates.items())
    why = (
        f"{words} ({sender.label}, {CLIENTS} clients): capture takes {more_us(Strategy.CAPTURE):.0f} microseconds of a"
        " core for each statement"
    )
    if Strategy.EMPTY in rates:
        why += f", {more_us(Strategy.EMPTY):.0f} of them for a statement trigger that does nothing"
    if Strategy.BY_HAND in rates:
        share = rates[Strategy.BY_HAND] / rates[Strategy.NONE]
        why += (
            "; a row trigger by hand, which writes the change once more and does nothing else, keeps"
            f" {share:.3f} of the rate: this is the limit"
        )
    return Goal("single_row_rate", GOAL, Better.HIGHER, interval=interval, why=why)


def _check_written(gathered: Gathered, connection: DeadlineConnection, sent: _Sent) -> None:
    """Each statement so far wrote one row: the tables hold as many as the client counted."""
    for strategy, table in sent.tables.items():
        rows = row_count(connection, table) - table.before[0]
        answers = sent.answers[strategy]
        gathered.checks.append(
            Check(
                f"{sent.load.prefix}{strategy}: written rows",
                rows == answers,
                f"the client counted {answers} answers, the table has {rows} rows more",
            )
        )


def _latencies(gathered: Gathered, sent: _Sent, rates: Sequence[float]) -> None:
    """Open loops at rates that the bare table reaches, strategies by turns."""
    load = sent.load
    samples: dict[tuple[Strategy, float], list[LoadResult]] = {}
    for rate in rates:
        load.tell(f"{load.prefix}latency at {rate:,.0f} statements a second")
        for turn in range(load.plan.rate_rounds):
            order = list(sent.tables.values())
            for table in order if turn % 2 == 0 else reversed(order):
                samples.setdefault((table.strategy, rate), []).append(sent.at_rate(table, rate))
    for strategy in sent.tables:
        of_strategy = {rate: samples[strategy, rate] for rate in rates}
        note = _kept_up(strategy, of_strategy)
        gathered.notes.append(f"{load.prefix}{note}")
        gathered.series.extend(
            Series(
                f"{load.prefix}latency/{strategy}/{word}",
                f"{load.prefix}Latency by rate, single rows, {CLIENTS} clients",
                "statements a second that are due",
                "ms from when a statement was due",
                tuple(Point(rate, _over_slices(found, word)) for rate, found in of_strategy.items()),
                is_log_y=True,
                note=note,
            )
            for word in _PLOTTED
        )


def _over_slices(results: Sequence[LoadResult], word: str) -> Interval:
    """Of all samples; its interval goes from the lowest of a slice to the highest."""
    share = PERCENTILES[word]
    slices = [percentile(result.latencies_ms, share) for result in results if result.count]
    value = percentile([ms for result in results for ms in result.latencies_ms], share)
    return Interval(value, min(*slices, value), max(*slices, value))


def _kept_up(strategy: Strategy, found: Mapping[float, Sequence[LoadResult]]) -> str:
    """Which rates the server did not keep up with: there a latency is a queue's, and grows with the run."""
    missed = [
        f"{rate:,.0f}"
        for rate, results in found.items()
        if sum(one.count for one in results) < _KEEPS_UP * rate * sum(one.elapsed_s for one in results)
    ]
    if missed:
        return f"{strategy}: does not keep up with {', '.join(missed)} statements a second."
    return f"{strategy}: keeps up with {', '.join(f'{rate:,.0f}' for rate in found)} statements a second."
