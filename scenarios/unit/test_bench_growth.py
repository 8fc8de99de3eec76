"""The arithmetic of growth: lines, the model of a refresh, its check, and what breaks first."""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest

from harness.bench.growing.lines import bends_at, describe, fit_line, is_flat
from harness.bench.growing.model import (
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

COSTS = Costs(fixed_ms=6.0, worker_ms=0.8, shard_ms=0.5, row_ms=0.002)
SPLIT = Split(0.25)


def observe(costs: Costs, *, noise: float = 0.0) -> list[Observed]:
    """What would be measured: shards and rows on two workers, and other numbers of workers."""
    rng = random.Random(7)  # noqa: S311 - noise
    places = [
        *((2, shards, 500) for shards in (4, 8, 16, 32, 64)),
        *((2, 8, rows) for rows in (1_000, 10_000, 100_000)),
        *((workers, 8, 500) for workers in (1, 4, 8)),
    ]
    return [Observed(*place, costs.refresh_ms(*place) * (1 + rng.uniform(-noise, noise))) for place in places]


def test_line_through_points_of_a_line_is_that_line() -> None:
    line = fit_line([1, 10, 100, 1_000], [3 + 0.5 * x for x in (1, 10, 100, 1_000)])
    assert (line.intercept, line.slope, line.r_squared) == pytest.approx((3, 0.5, 1))
    assert line.at(40) == pytest.approx(23)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_exponent_of_a_power_is_that_power(power: float) -> None:
    xs = [1.0, 10.0, 100.0]
    assert fit_line(xs, [4 * x**power for x in xs]).exponent == pytest.approx(power)


@pytest.mark.parametrize(("xs", "ys"), [([1], [1]), ([2, 2], [1, 2]), ([1, 2], [0, 1]), ([1, 2], [1])])
def test_line_through_what_is_none_is_refused(xs: list[float], ys: list[float]) -> None:
    with pytest.raises(ValueError, match="no line"):
        fit_line(xs, ys)


def test_flat_and_bent_costs_are_called_so() -> None:
    xs = [1.0, 10.0, 100.0]
    assert is_flat([4.0, 4.4, 4.1])
    assert not is_flat([4.0, 4.4, 5.1])
    assert bends_at(xs, [4.0, 9.0, 4.1]) is None  # one bad figure is no bend
    assert bends_at(xs, [4.0, 6.1, 7.0]) == 10
    assert describe("shards", "ms a refresh", xs, [4.0, 4.4, 4.1]).endswith("flat.")
    assert "half as much again from 10 on" in describe("shards", "ms a refresh", xs, [4.0, 7.0, 20.0])
    assert "not quite flat" in describe("shards", "ms a refresh", xs, [4.0, 4.4, 5.2])
    assert describe("rows", "us a row", xs, [400.0, 60.0, 8.0]).endswith("falls.")


def test_costs_come_back_from_what_they_predict() -> None:
    found = fit_costs(observe(COSTS))
    assert (found.fixed_ms, found.worker_ms, found.shard_ms, found.row_ms) == pytest.approx((6.0, 0.8, 0.5, 0.002))


def test_costs_from_noisy_figures_are_near_and_never_below_zero() -> None:
    free = Costs(fixed_ms=6.0, worker_ms=0.0, shard_ms=0.5, row_ms=0.002)
    found = fit_costs(observe(free, noise=0.1))
    assert found.worker_ms >= 0
    assert found.shard_ms == pytest.approx(0.5, rel=0.3)
    assert found.row_ms == pytest.approx(0.002, rel=0.3)


def test_costs_need_as_many_measurements() -> None:
    with pytest.raises(ValueError, match="four costs"):
        fit_costs(observe(COSTS)[:3])


def test_check_predicts_what_it_did_not_see() -> None:
    checked = check_costs(observe(COSTS))
    assert [each.observed.workers for each in checked] == [1, 4, 8]
    assert max(each.error for each in checked) < 1e-6
    # On eight workers something happens that the others do not tell.
    spoiled = [
        Observed(8, each.shards, each.rows, each.ms * 2) if each.workers == 8 else each for each in observe(COSTS)
    ]
    of_eight = next(each for each in check_costs(spoiled) if each.observed.workers == 8)
    assert of_eight.error == pytest.approx(0.5, abs=0.02)


def test_own_machines_divide_the_workers_share_alone() -> None:
    machines = Machines(round_trip_ms=1.0, rounds=5, cores=2)
    # The coordinator: 6 fixed, a quarter of 3.2 and of 8. One worker's messages. 6 + 2 among eight cores. Five rounds.
    found = on_machines(COSTS, SPLIT, machines, 4, shards=16, rows=1_000)
    assert found == pytest.approx(6 + 0.8 + 2 + 0.6 + (6 + 2) / 8 + 5)
    # Never among more cores than there are shards.
    few = on_machines(COSTS, SPLIT, machines, 4, shards=2, rows=1_000)
    assert few == pytest.approx(6 + 0.8 + 0.25 + 0.6 + (0.75 + 2) / 2 + 5)


def test_what_everybody_does_on_one_machine_is_never_faster_than_on_many() -> None:
    machines = Machines(round_trip_ms=0.0, rounds=0)
    for workers, shards in product((1, 8, 100), (8, 400)):
        apart = on_machines(COSTS, SPLIT, machines, workers, shards=shards, rows=1_000)
        assert apart <= COSTS.refresh_ms(workers, shards, 1_000)


def test_limits_are_counted_and_sorted() -> None:
    deployment = Deployment(stream_tables=50, interval_s=5, schedulers=2, clients=60, max_connections=100, pool=4)
    found = limits(COSTS, SPLIT, Machines(), deployment, 16)
    assert all(one.pressure >= other.pressure for one, other in pairwise(found))
    by_name = {limit.name: limit for limit in found}
    connections = by_name["max_connections of each worker"]
    assert (connections.demand, connections.capacity) == (60 + 2 * 5, 100)
    assert by_name["max_connections of each worker, were the same clients on every node"].demand == 16 * 60 + 10
    # 16 workers, 4 shards each: 10 refreshes a second of 6 + 0.25 * (12.8 + 32) ms on the coordinator.
    assert by_name["the coordinator's processor: one core for all refreshes"].demand == pytest.approx(0.172)


def test_first_to_break_is_the_one_with_the_fewest_workers() -> None:
    deployment = Deployment(clients=64, max_connections=100)
    found = breaks_from(COSTS, SPLIT, Machines(), deployment, most=200)
    first, workers = next(iter(found.items()))
    assert first == "max_connections of each worker, were the same clients on every node"
    assert workers == 2  # 84 of 100 with one worker, 148 with two
    broken = [count for count in found.values() if count is not None]
    assert broken == sorted(broken)
    assert found["numbers of groups in seq_id"] is None
    for name, count in found.items():
        for workers_then in (count - 1, count) if count else (200,):
            limit = next(
                each for each in limits(COSTS, SPLIT, Machines(), deployment, workers_then) if each.name == name
            )
            assert (limit.pressure > 1) == (workers_then == count)
