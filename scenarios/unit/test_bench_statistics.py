"""Medians, quartiles, intervals, and contestants by turns: what every figure of a benchmark rests on."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest

from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.model import Better, Measurement
from harness.bench.statistics import median_interval, quartiles, ratio_interval


def test_quartiles_are_those_of_the_book() -> None:
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("statistic", [quartiles, median_interval])
def test_no_sample_is_an_error_and_no_figure(statistic: Callable[[list[float]], object]) -> None:
    with pytest.raises(ValueError, match="no sample"):
        statistic([])


def test_interval_of_a_median_holds_it_and_narrows_with_the_samples() -> None:
    rng = random.Random(3)  # noqa: S311 - repeatable on purpose
    few, many = ([rng.gauss(100, 10) for _ in range(count)] for count in (8, 800))
    wide, narrow = median_interval(few), median_interval(many)
    for found, samples in ((wide, few), (narrow, many)):
        assert found.value == pytest.approx(statistics.median(samples))
        assert found.low <= found.value <= found.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3
    assert narrow.low < 100 < narrow.high


def test_interval_of_a_ratio_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
        to = [rng.gauss(1.0, 0.1) for _ in range(25)]
        of = [rng.gauss(2.0, 0.2) for _ in range(25)]
        found = ratio_interval(of, to)
        covered += found.low <= 2.0 <= found.high
    assert 88 <= covered <= 100


def test_noise_that_disturbs_a_whole_round_does_not_widen_the_ratio() -> None:
    rng = random.Random(5)  # noqa: S311 - repeatable on purpose
    disturbed = [rng.uniform(0.5, 2.0) for _ in range(31)]
    to = [load * rng.uniform(0.99, 1.01) for load in disturbed]
    of = [load * 2 * rng.uniform(0.99, 1.01) for load in disturbed]
    paired = ratio_interval(of, to)
    assert paired.high - paired.low < 0.15
    # The same samples with the rounds torn apart: what interleaving is for.
    torn = ratio_interval(of, sorted(to))
    assert torn.high - torn.low > 3 * (paired.high - paired.low)


def test_ratio_of_other_rounds_or_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not of the same rounds"):
        ratio_interval([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="denominator's median is 0"):
        ratio_interval([1, 2, 3], [0, 0, 1])


def test_same_samples_give_the_same_interval() -> None:
    assert ratio_interval([2, 3, 4, 5], [1, 1, 2, 2]) == ratio_interval([2, 3, 4, 5], [1, 1, 2, 2])


def test_contestants_run_once_a_round_in_orders_that_change() -> None:
    ran: list[str] = []
    contestants = [Contestant(name, lambda name=name: ran.append(name)) for name in "abc"]  # type: ignore[misc]
    found = measure(contestants, rounds=20, warmups=2)
    assert [each.name for each in found] == ["a", "b", "c"]
    assert {len(each.samples) for each in found} == {20}
    rounds = [tuple(ran[start : start + 3]) for start in range(0, len(ran), 3)]
    assert len(rounds) == 22
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 3


def test_what_stands_before_and_after_is_not_timed() -> None:
    clock = iter(range(1_000))
    marks: list[str] = []
    slow = Contestant(
        "slow",
        lambda: float(next(clock)),
        before=lambda: marks.append("before"),
        after=lambda: marks.append("after"),
        unit="rows/s",
        better=Better.HIGHER,
    )
    (found,) = measure([slow], rounds=3, warmups=1)
    # The warm-up ran and does not count; what run returns takes the place of the seconds.
    assert found.samples == (1.0, 2.0, 3.0)
    assert (found.unit, found.better) == ("rows/s", Better.HIGHER)
    assert marks == ["before", "after"] * 4


def test_a_deadline_ends_after_three_rounds_at_the_earliest() -> None:
    (found,) = measure([Contestant("a", lambda: 1.0)], rounds=50, deadline=lambda: True)
    assert len(found.samples) == 3


def test_two_contestants_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        measure([Contestant("a", lambda: None), Contestant("a", lambda: None)], rounds=1)


def test_ratio_is_named_and_judged_as_its_numerator() -> None:
    of = Measurement("capture", "rows/s", (8.0, 8.0, 8.0), better=Better.HIGHER)
    to = Measurement("none", "rows/s", (10.0, 10.0, 10.0), better=Better.HIGHER)
    found = ratio(of, to)
    assert (found.name, found.interval.value, found.better) == ("capture : none", 0.8, Better.HIGHER)
