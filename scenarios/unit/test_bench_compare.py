"""Comparing results: what is worse is found, noise is not called worse, and what fails is beyond the margin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from harness.bench.compare import Change, Comparison, compare, compare_markdown, judge, to_compare_document
from harness.bench.keep import STORE, KeptRatio, Ratios, find_place, keep_ratios, load_ratios, named_place, ratios_of
from harness.bench.model import BenchResult, Better, Check, Interval, Profile
from harness.bench.registry import choose_groups
from harness.errors import BadInputError
from harness.report.document import dump_document, load_schema
from scenarios.fixtures.bench import make_bench, make_positions, write_bench

CACHE_1 = ("positions", "nextval/cache_1 : none")


def compared(before: BenchResult, after: BenchResult, margin: float = 10.0) -> Comparison:
    return compare(ratios_of(before, Path("a")), ratios_of(after, Path("b")), margin_percent=margin)


def of(comparison: Comparison, change: Change) -> set[tuple[str, str]]:
    return {(each.group, each.name) for each in comparison.ratios if each.change is change}


@pytest.mark.parametrize(
    ("before", "after", "better", "expected"),
    [
        ((1.5, 1.4, 1.6), (1.7, 1.6, 1.8), Better.LOWER, Change.NOISE),
        ((1.5, 1.4, 1.6), (1.8, 1.7, 1.9), Better.LOWER, Change.WORSE),
        ((1.5, 1.4, 1.6), (1.2, 1.1, 1.3), Better.LOWER, Change.BETTER),
        ((0.8, 0.78, 0.82), (0.7, 0.68, 0.72), Better.HIGHER, Change.WORSE),
        ((0.8, 0.78, 0.82), (0.9, 0.88, 0.92), Better.HIGHER, Change.BETTER),
    ],
)
def test_intervals_that_do_not_overlap_decide_by_what_is_better(
    before: tuple[float, float, float], after: tuple[float, float, float], better: Better, expected: Change
) -> None:
    assert judge(Interval(*before), Interval(*after), better) is expected


def test_what_got_half_as_slow_again_is_found_and_nothing_else() -> None:
    found = compared(make_bench(make_positions(seed=1)), make_bench(make_positions(seed=2, slower=1.5)))
    assert of(found, Change.WORSE) == {CACHE_1}
    assert not found.passed
    assert found.ratios[0].fails
    assert (found.ratios[0].group, found.ratios[0].name) == CACHE_1
    assert found.ratios[0].percent == pytest.approx(50, abs=8)


def test_two_runs_of_the_same_are_noise() -> None:
    calls_worse = 0
    for seed in range(20):
        found = compared(make_bench(make_positions(seed=seed)), make_bench(make_positions(seed=seed + 100)))
        calls_worse += found.count(Change.WORSE)
        assert found.passed
    # Six ratios in each: beyond their intervals now and then, and then within the margin.
    assert calls_worse <= 6


def test_what_got_faster_is_better_and_passes() -> None:
    found = compared(make_bench(make_positions()), make_bench(make_positions(seed=4, slower=0.6)))
    assert of(found, Change.BETTER) == {CACHE_1}
    assert found.passed


def test_worse_within_the_margin_is_said_and_does_not_fail() -> None:
    before, after = make_bench(make_positions(noise=0.002)), make_bench(make_positions(noise=0.002, slower=1.05))
    narrow, wide = compared(before, after, margin=2), compared(before, after, margin=10)
    assert of(narrow, Change.WORSE) == of(wide, Change.WORSE) == {CACHE_1}
    assert (narrow.passed, wide.passed) == (False, True)


def test_half_the_rate_fails_as_twice_the_time_does() -> None:
    def side(value: float) -> Ratios:
        kept = KeptRatio(Interval(value, value, value), Better.HIGHER)
        return Ratios(Path("x"), Profile.SMOKE, 1, passed=True, facts={}, by_name={("throughput", "rate"): kept})

    # 0.8 to 0.5 is 60 % more time for the same rows, and 37.5 % fewer rows in the same time.
    assert not compare(side(0.8), side(0.5), margin_percent=55).passed
    assert compare(side(0.8), side(0.5), margin_percent=65).passed


def test_a_fast_wrong_answer_fails() -> None:
    wrong = make_positions(slower=0.5)
    wrong = replace(wrong, checks=(Check("nextval", passed=False, detail="99,999 of 100,000 rows"),))
    found = compared(make_bench(make_positions()), make_bench(wrong))
    assert found.count(Change.WORSE) == 0
    assert not found.passed


def test_other_machines_versions_and_profiles_are_named_and_what_one_side_lacks() -> None:
    before = make_bench(make_positions())
    less = replace(make_positions(), ratios=make_positions().ratios[1:])
    after = replace(make_bench(less, profile=Profile.STANDARD), facts={**before.facts, "Citus": "13.2.0", "cpus": "64"})
    found = compared(before, after)
    assert {(each.fact, each.before, each.after) for each in found.differences} == {
        ("profile", "smoke", "standard"),
        ("Citus", "14.0-1", "13.2.0"),
        ("cpus", "2", "64"),
    }
    assert found.only_before == (("positions", "empty_trigger : none"),)
    assert found.only_after == ()
    page = compare_markdown(found, "harness bench compare a b")
    assert "13.2.0" in page
    assert "not measured any more" in page


def test_document_of_a_comparison_follows_its_schema() -> None:
    found = compared(make_bench(make_positions()), make_bench(make_positions(slower=2)))
    document = json.loads(dump_document(to_compare_document(found)))
    jsonschema.validate(document, load_schema("bench-compare-1"))
    assert document["passed"] is False
    assert [each["change"] for each in document["ratios"] if each["fails"]] == ["worse"]


def test_results_without_a_common_ratio_or_with_a_negative_margin_are_refused() -> None:
    result = make_bench(make_positions())
    empty = make_bench(replace(make_positions(), ratios=()))
    with pytest.raises(BadInputError, match="no ratio in common"):
        compared(result, empty)
    for margin in (-1.0, float("nan")):
        with pytest.raises(BadInputError, match="--margin"):
            compared(result, result, margin=margin)


def test_kept_ratios_hold_the_spread_of_runs_and_judge_another_run(tmp_path: Path) -> None:
    runs = [
        write_bench(tmp_path / f"{seed}.json", make_bench(make_positions(seed=seed, noise=0.1))) for seed in range(10)
    ]
    document = keep_ratios(runs, "harness bench keep")
    jsonschema.validate(document, load_schema("bench-kept-1"))
    values = sorted(load_ratios(run).by_name[CACHE_1].interval.value for run in runs)
    kept_file = tmp_path / "kept.json"
    kept_file.write_text(dump_document(document), encoding="utf-8")
    kept = load_ratios(kept_file)
    assert (kept.runs, kept.profile) == (10, Profile.SMOKE)
    spread = kept.by_name[CACHE_1].interval
    assert (spread.low, spread.high) == (values[0], values[-1])
    assert values[4] <= spread.value <= values[5]

    same = ratios_of(make_bench(make_positions(seed=99, noise=0.1)), Path("b"))
    worse = ratios_of(make_bench(make_positions(seed=99, noise=0.1, slower=1.6)), Path("b"))
    assert compare(kept, same).passed
    failing = [each.name for each in compare(kept, worse).ratios if each.fails]
    assert failing == [CACHE_1[1]]


def test_runs_that_do_not_belong_together_are_not_kept(tmp_path: Path) -> None:
    good = [write_bench(tmp_path / f"{seed}.json", make_bench(make_positions(seed=seed))) for seed in range(3)]
    with pytest.raises(BadInputError, match="2 runs"):
        keep_ratios([*good[:2], good[0]], "")
    other = write_bench(tmp_path / "standard.json", make_bench(make_positions(), profile=Profile.STANDARD))
    with pytest.raises(BadInputError, match="standard"):
        keep_ratios([*good, other], "")
    broken = write_bench(tmp_path / "broken.json", make_bench(make_positions(), error="positions: gone"))
    with pytest.raises(BadInputError, match="did not pass"):
        keep_ratios([*good, broken], "")
    elsewhere = replace(make_bench(make_positions()), facts={"cpus": "64"})
    with pytest.raises(BadInputError, match="PostgreSQL is None"):
        keep_ratios([*good, write_bench(tmp_path / "elsewhere.json", elsewhere)], "")


def test_a_name_leads_to_what_was_kept_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="'before' is no file"):
        find_place("before")
    STORE.mkdir(parents=True)
    write_bench(named_place("before"), make_bench())
    assert find_place("before") == STORE / "before.json"
    with pytest.raises(BadInputError) as caught:
        find_place("bevore")
    assert "before" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x", "a b", "x" * 200])
def test_a_name_that_is_none_for_a_file_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="is no name to keep a result under"):
        named_place(name)


def test_ratios_that_are_kept_in_the_repository_are_of_ten_runs_of_the_smoke_profile() -> None:
    for path in (Path(__file__).parents[2] / "benchmarks" / "kept").glob("*.json"):
        jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), load_schema("bench-kept-1"))
        kept = load_ratios(path)
        assert (path.stem, kept.runs >= 10) == (kept.profile.value, True), path
        known = {group.name for group in choose_groups([], kept.profile)}
        assert {group for group, _ in kept.by_name} == known, path
