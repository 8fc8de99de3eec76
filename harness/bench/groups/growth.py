"""What grows with sources, stream tables, shards, workers and captured rows; and the model that goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from harness.bench.growing import axes
from harness.bench.growing.axis import Pace
from harness.bench.growing.model import (
    Checked,
    Costs,
    Deployment,
    Machines,
    Observed,
    Split,
    breaks_from,
    check_costs,
    fit_costs,
    limits,
    on_machines,
)
from harness.bench.growing.processor import measure_split
from harness.bench.growing.sources import grow
from harness.bench.model import Gathered, GroupResult, Interval, Point, Profile, Series, Tell
from harness.bench.places import BenchPlace, open_cluster
from harness.bench.registry import GROUPS
from harness.bench.supply import Supply
from harness.chain.runner import upgrade
from harness.trickle import StreamTables

NAME = "growth"
TITLE = "What grows with sources, stream tables, shards, workers and captured rows"
# Workers that nobody has on one machine.
PREDICTED = (16, 32, 100)
# So that eight workers and more fit beside each other; nothing here is larger.
_SETTINGS = {"shared_buffers": "64MB"}
# Where no share could be measured.
_EVEN = Split(0.5)


@dataclass(frozen=True)
class _Plan:
    """Sizes of each axis, and rounds."""

    sources: tuple[int, ...]
    stream_tables: tuple[int, ...]
    shards: tuple[int, ...]
    workers: tuple[int, ...]
    rows: tuple[int, ...]
    rounds: int
    is_citus_everywhere: bool = False


_PLANS = {
    Profile.SMOKE: _Plan((1, 10), (1, 5), (4, 16), (1,), (1_000, 10_000), rounds=3),
    Profile.STANDARD: _Plan(
        (1, 10, 100),
        (1, 10, 30),
        (4, 16, 64),
        (1, 4, 8),
        (1_000, 10_000, 100_000),
        rounds=5,
    ),
    Profile.FULL: _Plan(
        (1, 10, 100, 300, 1_000),
        (1, 10, 100, 300),
        (4, 8, 16, 32, 64, 128),
        (1, 3, 4, 5, 6, 7, 8),
        (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
        rounds=9,
        is_citus_everywhere=True,
    ),
}


def run(supply: Supply, profile: Profile, tell: Tell) -> GroupResult:
    """Measure it (see `harness.bench.registry.Group`)."""
    begun = time.monotonic()
    plan = _PLANS[profile]
    gathered = Gathered()
    seconds = _seconds(profile)

    def by(share: float) -> Pace:
        """As many rounds as are wanted, and fewer once this share of the group's time is over."""
        return Pace(plan.rounds, begun + share * seconds)

    axes.sources(gathered, supply.server, plan.sources, by(0.15), prefix="plain/", tell=tell)
    axes.stream_tables(gathered, supply.server, plan.stream_tables, by(0.3), prefix="plain/", tell=tell)
    if supply.provider is None:
        with supply.server() as place:
            axes.buffer_rows(gathered, place, plan.rows, by(1.0), prefix="plain/", tell=tell)
        gathered.notes.append(f"Shards and workers were not measured: {supply.missing}.")
        return gathered.result(NAME, TITLE, time.monotonic() - begun)
    if plan.is_citus_everywhere:
        # A distributed source has four shards, each with triggers and a buffer: fewer of them take as long.
        few = tuple(size for size in plan.sources if size <= 100)
        axes.sources(gathered, supply.cluster, few, by(0.35), prefix="", tell=tell)
        few = tuple(size for size in plan.stream_tables if size <= 100)
        axes.stream_tables(gathered, supply.cluster, few, by(0.4), prefix="", tell=tell)
    _on_clusters(gathered, supply, plan, by, tell)
    return gathered.result(NAME, TITLE, time.monotonic() - begun)


def _seconds(profile: Profile) -> float:
    own = next(group for group in GROUPS if group.name == NAME)
    # Where it is asked for by name in a profile that leaves it out.
    return own.seconds.get(profile, 20.0)


def _on_clusters(gathered: Gathered, supply: Supply, plan: _Plan, by: Callable[[float], Pace], tell: Tell) -> None:
    with supply.cluster() as place:
        busy, idle = axes.shards(gathered, place, plan.shards, by(0.5), tell=tell)
        busy += axes.buffer_rows(gathered, place, plan.rows, by(0.75), prefix="", tell=tell)
        split = _split(place)
        with ExitStack() as stack:
            places = {len(place.site.workers): place}
            for count in plan.workers:
                tell(f"a cluster of 1+{count}")
                places[count] = _open(stack, supply, count)
            more = axes.workers(gathered, dict(sorted(places.items())), by(0.95), tell=tell)
    busy += more[0]
    idle += more[1]
    _model(gathered, busy, idle, split)


def _open(stack: ExitStack, supply: Supply, workers: int) -> BenchPlace:
    if supply.provider is None:
        raise RuntimeError(f"no cluster: {supply.missing}")
    place = stack.enter_context(open_cluster(supply.provider, workers=workers, settings=_SETTINGS))
    upgrade(place.dsn)
    return place


def _split(place: BenchPlace) -> Split | None:
    with place.connect() as connection, StreamTables(connection) as stream_tables:
        grown = grow(connection, stream_tables, place, "processor", shards=32)

        def once() -> None:
            grown.change(axes.ROWS)
            grown.refresh()

        once()
        return measure_split(place, once, times=20)


def _model(gathered: Gathered, busy: list[Observed], idle: list[Observed], measured: Split | None) -> None:
    costs, resting = fit_costs(busy), fit_costs(idle)
    split = measured or _EVEN
    checked = check_costs(busy)
    gathered.notes.append(
        f"The model of a refresh on this machine: {costs.fixed_ms:.1f} ms + {costs.worker_ms:.2f} a worker +"
        f" {costs.shard_ms:.2f} a shard + {costs.row_ms * 1000:.2f} microseconds a row; with nothing to do"
        f" {resting.fixed_ms:.1f} ms + {resting.worker_ms:.2f} a worker + {resting.shard_ms:.2f} a shard."
    )
    share = f"{split.coordinator:.0%}" if measured else "half (not measured)"
    gathered.notes.append(f"Of the processor time of a refresh the coordinator takes {share}.")
    gathered.notes.append(_check_note(checked))
    _predict(gathered, costs, split, [each.workers for each in busy if each.rows == axes.ROWS])


def _check_note(checked: tuple[Checked, ...]) -> str:
    if not checked:
        return "The model was not checked: there was one number of workers only."
    words = "; ".join(
        f"{each.observed.workers} workers: {each.predicted_ms:.1f} ms predicted, {each.observed.ms:.1f} measured"
        f" ({each.error:.0%} off)"
        for each in checked
    )
    return f"The model, each time fitted without the number of workers that it predicts: {words}."


def _predict(gathered: Gathered, costs: Costs, split: Split, measured: list[int]) -> None:
    machines, deployment = Machines(), Deployment()
    counts = sorted({*measured, *PREDICTED})

    def line(name: str, values: dict[int, float], note: str) -> Series:
        points = tuple(
            Point(count, Interval(value, value, value), is_predicted=True) for count, value in values.items()
        )
        return Series(name, "Growth: workers", "workers", "ms", points, is_log_x=True, is_log_y=True, note=note)

    here = {count: costs.refresh_ms(count, axes.SHARDS, axes.ROWS) for count in counts}
    apart = {
        count: on_machines(
            costs, split, machines, count, shards=deployment.shards_per_worker * count, rows=deployment.rows
        )
        for count in counts
    }
    gathered.series += [
        line("model/one_machine", here, f"{axes.SHARDS} shards, {axes.ROWS} rows, all nodes on this machine"),
        line(
            "model/own_machines",
            apart,
            f"{deployment.shards_per_worker} shards a worker, {deployment.rows:,} rows, a machine for each node",
        ),
    ]
    gathered.notes.append(
        f"Where each node has a machine of its own ({machines.round_trip_ms} ms away, {machines.cores} cores), a"
        f" refresh of {deployment.rows:,} rows takes "
        + ", ".join(f"{apart[count]:.0f} ms with {count} workers" for count in PREDICTED)
        + f" ({deployment.shards_per_worker} shards a worker)."
    )
    for count in PREDICTED:
        worst = [limit for limit in limits(costs, split, machines, deployment, count) if limit.pressure > 1]
        words = "; ".join(f"{limit.name} ({limit.demand:,.4g} of {limit.capacity:,.4g})" for limit in worst)
        gathered.notes.append(f"{count} workers: {f'breaks: {words}' if worst else 'nothing breaks'}.")
    breaking = {name: count for name, count in breaks_from(costs, split, machines, deployment).items() if count}
    words = "; ".join(f"{name}, from {count} workers" for name, count in breaking.items())
    gathered.notes.append(
        f"What breaks first ({deployment.stream_tables} stream tables over {deployment.sources} sources, each refreshed"
        f" every {deployment.interval_s:.0f} s by {deployment.schedulers} sessions, {deployment.clients} clients,"
        f" max_connections {deployment.max_connections}): {words or 'nothing up to 1,000 workers'}."
    )
