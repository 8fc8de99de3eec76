"""A load's own arithmetic: scripts, slices, arrivals, percentiles, thresholds, agreement, and who may be loaded."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from harness.bench.load.agreement import Agreement, compare_clients
from harness.bench.load.clients import Arrivals
from harness.bench.load.document import SliceResult, read_slices, summary_rows, to_csv, write_slices
from harness.bench.load.loopback import require_loopback
from harness.bench.load.pgbench import read_log
from harness.bench.load.samples import LoadResult, percentile, percentiles, together
from harness.bench.load.scripts import WORKLOADS, pick, workload
from harness.bench.load.slices import Due, Slices
from harness.bench.load.tables import Strategy
from harness.bench.load.thresholds import measured, parse_threshold
from harness.errors import BadInputError, RefusedError

TABLE = sql.Identifier("bench_load", "load_none")


@pytest.mark.parametrize("name", WORKLOADS)
def test_scripts_say_the_same_to_both_clients(name: str) -> None:
    for script in workload(name):
        lines = script.for_pgbench(TABLE).splitlines()
        drawn = script.draw(random.Random(1))  # noqa: S311 - draws rows
        assert [line.split()[1] for line in lines[:-1]] == [draw.name for draw in script.draws] == list(drawn)
        statement = script.for_psycopg(TABLE).as_string()
        for variable in drawn:
            assert f"%({variable})s" in statement
            statement = statement.replace(f"%({variable})s", f":{variable}")
        assert lines[-1] == statement + ";"
        for draw in script.draws:
            assert draw.low <= drawn[draw.name] <= draw.high


def test_picks_follow_the_weights() -> None:
    scripts, rng = workload("mixed"), random.Random(3)  # noqa: S311 - draws rows
    found = Counter(pick(scripts, rng).name for _ in range(10_000))
    assert {name: round(count / 1_000) for name, count in found.items()} == {
        "insert": 5,
        "update": 3,
        "upsert": 1,
        "delete": 1,
    }


def test_unknown_workload_is_refused() -> None:
    with pytest.raises(BadInputError, match="no workload 'nothing'"):
        workload("nothing")


def test_slices_give_each_strategy_its_turn_in_every_round() -> None:
    slices = Slices(tuple(Strategy), slice_s=1.0, rounds=20, pause_s=0.5)
    count = 20 * len(Strategy)
    found = [slices.number(number) for number in range(count)]
    assert slices.number(count) is None
    assert all(each is not None for each in found)
    orders = set()
    for turn in range(20):
        own = [each for each in found if each is not None and each.round == turn]
        assert {each.strategy for each in own} == set(Strategy)
        orders.add(tuple(each.strategy for each in own))
    assert len(orders) > 1
    assert slices.at(0.0) == found[0]
    assert slices.at(0.99) == found[0]
    assert slices.at(1.2) == found[1]  # the pause leads to the next
    assert slices.at(1.5) == found[1]
    assert slices.at(1000.0) is None


def test_open_loop_is_due_at_its_rate_whatever_the_clients_do() -> None:
    due = Due(Slices((Strategy.NONE, Strategy.CAPTURE), slice_s=2.0, rounds=3, pause_s=0.5), rate=7.0)
    taken = []
    # They come late, all of them: nothing is left out for that.
    while (found := due.take(elapsed_s=1_000.0)) is not None:
        taken.append(found)
    assert Counter(its_slice.strategy for _, its_slice in taken) == {Strategy.NONE: 42, Strategy.CAPTURE: 42}
    assert all(its_slice.begin <= at_s < its_slice.end for at_s, its_slice in taken)
    assert taken == sorted(taken, key=lambda each: each[0])
    first = [at_s for at_s, its_slice in taken if its_slice.begin == 0]
    assert first == pytest.approx([number / 7 for number in range(14)])


def test_closed_loop_is_due_at_once_but_not_in_a_pause() -> None:
    due = Due(Slices((Strategy.NONE,), slice_s=1.0, rounds=2, pause_s=0.5), rate=None)
    assert [at_s for at_s, _ in filter(None, (due.take(0.3), due.take(1.2), due.take(1.6)))] == [0.3, 1.5, 1.6]
    assert due.take(2.6) is None


def test_arrivals_of_threads_are_evenly_spaced_up_to_the_end() -> None:
    arrivals = Arrivals(10, begin=5.0, end=5.95)
    found = []
    while (due := arrivals.take()) is not None:
        found.append(due)
    assert found == pytest.approx([5 + number / 10 for number in range(10)])


def test_percentiles_are_latencies_that_were_measured() -> None:
    latencies = [float(number) for number in range(1, 1_001)]
    random.Random(5).shuffle(latencies)  # noqa: S311 - any order
    assert percentiles(latencies) == {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999}
    assert percentile([7.0], 0.999) == 7.0
    assert percentiles([]) == {}
    with pytest.raises(ValueError, match="no sample"):
        percentile([], 0.5)


def test_slices_together_are_their_sums() -> None:
    found = together([LoadResult(2, 1.0, [1.0, 2.0], {"23505": 1}), LoadResult(4, 2.0, [3.0], {"23505": 2})])
    assert (found.count, found.rate, found.latencies_ms, found.failures) == (6, 2.0, [1.0, 2.0, 3.0], {"23505": 3})


def test_log_of_pgbench_is_read_and_what_failed_is_left_out() -> None:
    # With a rate there is a seventh column, the lag; the third has it already.
    text = "0 199 2241 0 1175850568 995598 120\n1 200 skipped 0 1175850568 995600 9\n1 201 1500 0 1175850569 1\n"
    assert read_log(text) == [2.241, 1.5]


RESULTS = {
    Strategy.NONE: LoadResult(1_000, 1.0, [1.0] * 1_000),
    Strategy.CAPTURE: LoadResult(800, 1.0, [2.0] * 792 + [30.0] * 8, {"40P01": 2}),
}


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("capture.p99<=20", 2.0, True),
        ("capture.p99.9<=20", 30.0, False),
        ("capture/none>=0.7", 0.8, True),
        ("capture/none >= 0.85", 0.8, False),
        ("none.rate>=1000", 1_000.0, True),
        ("failures<=0", 2.0, False),
    ],
)
def test_thresholds_hold_or_not(text: str, value: float, holds: bool) -> None:
    threshold = parse_threshold(text)
    assert measured(threshold.what, RESULTS) == pytest.approx(value)
    assert threshold.holds(measured(threshold.what, RESULTS)) is holds


def test_threshold_of_what_was_not_measured_is_missed() -> None:
    for text in ("empty.p99<=1000", "empty.rate>=0", "empty/none>=0"):
        threshold = parse_threshold(text)
        assert not threshold.holds(measured(threshold.what, RESULTS))


@pytest.mark.parametrize(
    "text", ["", "p99<=20", "capture.p42<=1", "capture/all>=1", "capture.p99=20", "capture.p99<=-1"]
)
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="no threshold"):
        parse_threshold(text)


def test_clients_that_differ_by_more_than_a_tenth_are_told() -> None:
    assert Agreement("x", 109, 100).is_close
    assert not Agreement("x", 111, 100).is_close
    assert not Agreement("x", 1, 0).is_close
    other = {Strategy.NONE: LoadResult(2_000, 1.0), Strategy.CAPTURE: LoadResult(1_610, 1.0)}
    found = compare_clients(RESULTS, other)
    assert [each.is_close for each in found] == [False, False, True]
    assert [each.is_close for each in compare_clients(RESULTS, RESULTS, is_open=True)] == [True, True, True]
    slow = {strategy: LoadResult(10, 1.0, [4.0] * 10) for strategy in RESULTS}
    # Medians of 1 and 2 ms beside 4 and 4: twice as much with capture, and as much.
    assert [each.difference for each in compare_clients(RESULTS, slow, is_open=True)] == [0.75, 0.5, 1.0]
    assert "THEY DIFFER" in str(found[0])
    assert "they agree" in str(found[2])


def test_slices_go_through_a_file_and_into_a_table(tmp_path: Path) -> None:
    slices = [SliceResult("locust", 8, strategy, 0, result) for strategy, result in RESULTS.items()]
    write_slices(tmp_path / "slices.json", slices)
    found = read_slices(tmp_path / "slices.json")
    assert found == slices
    assert summary_rows(found)[1][:5] == ("locust", "8", "capture", "800", "800.0")
    assert len(to_csv(found).splitlines()) == 3


@pytest.mark.parametrize(
    "dsn",
    [
        "host=127.0.0.1 dbname=x",
        "host=localhost",
        "postgresql://u:secret@127.0.0.1:5433/x",
        "host=::1",
        "host=127.0.0.1,127.0.0.2 port=1,2",
    ],
)
def test_this_machine_may_be_loaded(dsn: str) -> None:
    found = conninfo_to_dict(require_loopback(dsn))
    assert str(found["hostaddr"]).split(",")[0] in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("dsn", "named"),
    [
        ("host=db.example.org user=u password=secret", "db.example.org"),
        ("postgresql://u:secret@10.0.0.7/x", "10.0.0.7"),
        ("host=127.0.0.1 hostaddr=10.0.0.7 password=secret", "10.0.0.7"),
        ("host=127.0.0.1,10.0.0.7 password=secret", "10.0.0.7"),
        ("host=127.0.0.1.example.org password=secret", "127.0.0.1.example.org"),
        ("dbname=x password=secret", "no host"),
        ("host=127.0.0.1 service=prod password=secret", "service=prod"),
        ("host=0.0.0.0 password=secret", "0.0.0.0"),  # noqa: S104 - it is refused
    ],
)
def test_other_machines_are_refused_by_name(dsn: str, named: str) -> None:
    with pytest.raises(RefusedError, match=named.replace(".", r"\.")) as caught:
        require_loopback(dsn)
    assert "secret" not in caught.value.message + caught.value.hint


def test_what_is_no_dsn_is_refused_without_its_words() -> None:
    with pytest.raises(BadInputError) as caught:
        require_loopback("pasword=secret host 127.0.0.1")
    assert "secret" not in caught.value.message
