"""What AUTO goes by: what a change and what recomputing cost the last times."""

from __future__ import annotations

import pytest

from harness.trickle import costs
from harness.trickle.catalog import StreamTable


def known(us_per_change: float | None, last_full_ms: float | None) -> StreamTable:
    return StreamTable(
        pgt_id=1,
        relid=2,
        schema="public",
        name="totals",
        query="SELECT 1",
        original_query="SELECT 1",
        schedule=None,
        mode="AUTO",
        status="ACTIVE",
        placement="local",
        distribution_column=None,
        is_populated=True,
        needs_reinit=False,
        last_refresh_at=None,
        consecutive_errors=0,
        frontier=None,
        storage_format=1,
        version="1",
        dependencies=(),
        us_per_change=us_per_change,
        last_full_ms=last_full_ms,
    )


@pytest.mark.parametrize(
    ("us_per_change", "last_full_ms", "change_count"),
    [
        (None, 10.0, 1_000_000),  # nobody knows what a change costs
        (50.0, None, 1_000_000),  # nobody knows what recomputing costs
        (50.0, 10.0, 200),  # just as much
        (50.0, 10.0, 0),
        (1e9, 0.001, costs.FEWEST_TO_MEASURE - 1),  # too few to be a reason
    ],
)
def test_delta_is_taken_unless_recomputing_is_known_to_be_cheaper(
    us_per_change: float | None, last_full_ms: float | None, change_count: int
) -> None:
    table = known(us_per_change, last_full_ms)
    assert costs.reason_to_recompute(table, change_count) == ""
    assert str(change_count) in costs.reason_for_delta(table, change_count)


def test_recomputing_is_chosen_with_both_costs_in_the_reason() -> None:
    reason = costs.reason_to_recompute(known(50.0, 10.0), 1_000)
    assert "1000 changes" in reason
    assert "50 ms" in reason
    assert "10 ms" in reason


def test_delta_of_many_changes_says_what_it_is_held_to_cost() -> None:
    assert costs.reason_for_delta(known(50.0, 100.0), 1_000) == ("1000 changes, about 50 ms; recomputing took 100 ms")


def test_prediction_is_in_milliseconds_and_unknown_without_a_measure() -> None:
    assert costs.predicted_ms(known(50.0, None), 1_000) == pytest.approx(50.0)
    assert costs.predicted_ms(known(None, 10.0), 1_000) is None


def test_first_measure_is_taken_as_it_is_and_later_ones_by_half() -> None:
    elapsed_ms = 40.0 + costs.FIXED_MS
    assert costs.measured(known(None, None), 1_000, elapsed_ms, is_full=False) == pytest.approx(40.0)
    assert costs.measured(known(20.0, None), 1_000, elapsed_ms, is_full=False) == pytest.approx(30.0)


def test_small_refresh_does_not_make_a_change_look_dear() -> None:
    """100 changes took 8 ms, 5 of them for the refresh itself: 100,000 would not take 8 s."""
    us_per_change = costs.measured(known(None, None), 100, 8.0, is_full=False)
    assert us_per_change == pytest.approx(30.0)
    quick = costs.measured(known(None, None), 100, 2.0, is_full=False)
    assert quick == pytest.approx(2.0), "and a change is never held to cost nothing"


def test_few_changes_are_no_measure() -> None:
    few = costs.FEWEST_TO_MEASURE - 1
    assert costs.measured(known(20.0, None), few, 40.0, is_full=False) is None
    assert costs.measured(known(None, None), few, 40.0, is_full=False) is None


def test_recomputing_again_and_again_lets_the_delta_have_another_try() -> None:
    """A cost that was measured on a busy machine must not decide for ever."""
    table = known(1_000.0, 100.0)
    for _refresh in range(100):
        if not costs.reason_to_recompute(table, 500):
            break
        us_per_change = costs.measured(table, 500, 100.0, is_full=True)
        table = known(us_per_change, 100.0)
    else:
        pytest.fail("the delta never had another try")
    assert costs.measured(known(None, 100.0), 500, 100.0, is_full=True) is None
