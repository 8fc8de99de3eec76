"""A run's document: its published schema, the way back, and files that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.bench.answer import answer_plan
from harness.bench.document import describe_bench, load_result, to_document
from harness.bench.keep import load_ratios
from harness.bench.model import Better, Check, Goal, Interval, Ratio, Refusal, Verdict
from harness.errors import BadInputError
from harness.report.document import dump_document, load_schema
from scenarios.fixtures.bench import COMMAND, interval, make_bench, make_growth, make_positions, write_bench

HOSTILE = 'a <b>"x"</b> \ud800 postgresql://me:hunter2@h/d \x1b[31m'


def test_document_follows_its_schema_and_says_what_is_promised() -> None:
    document = json.loads(dump_document(to_document(make_bench(), COMMAND)))
    jsonschema.validate(document, load_schema("bench-1"))
    assert (document["schema"], document["passed"]) == ("harness/bench/1", True)
    assert [(goal["name"], goal["value"], goal["goal"], goal["met"]) for goal in document["goals"]] == [
        ("bulk_insert", 1.55, 1.6, True),
        ("single_row_rate", 0.7, 0.8, False),
        ("matrix_s", None, 60.0, None),
    ]
    assert [group["skipped"] for group in document["groups"]] == ["", "", "environment: no Citus"]
    assert document["command"] == COMMAND


def test_document_of_texts_that_nobody_chose_is_clean() -> None:
    group = replace(
        make_positions(), refusals=(Refusal(HOSTILE, HOSTILE),), notes=(HOSTILE,), checks=(Check(HOSTILE, True),)
    )
    text = dump_document(to_document(make_bench(group, error=HOSTILE), HOSTILE))
    jsonschema.validate(json.loads(text), load_schema("bench-1"))
    assert "hunter2" not in text
    text.encode()


def test_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    result = make_bench(make_positions(), make_growth(), error="refresh: a node died")
    path = write_bench(tmp_path / "result.json", result)
    back, command = load_result(path)
    assert command == COMMAND
    assert to_document(back, command) == to_document(result, COMMAND)
    assert (back.profile, back.error, back.passed) == (result.profile, result.error, False)
    assert [goal.verdict for goal in back.goals] == [Verdict.MET, Verdict.NOT_MET, Verdict.NOT_MEASURED]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON document"),
        ("{", "no JSON document"),
        ("[" * 100_000, "no JSON document"),
        ("[]", "it has no schema"),
        ("{}", "it has no schema"),
        ('{"schema": 7}', "it has no schema"),
        ('{"schema": "harness/chaos/1"}', "its schema is 'harness/chaos/1'"),
        ('{"schema": "harness/bench/x"}', "its schema is 'harness/bench/x'"),
        ('{"schema": "harness/bench/2"}', "this harness knows harness/bench/1 at most"),
        ('{"schema": "harness/bench/1"}', "is broken: goals is not there"),
        ('{"schema": "harness/bench/1", "goals": {}}', "is broken: goals is not a list"),
        ('{"schema": "harness/bench/1", "goals": [1]}', r"is broken: goals\[0\] is not an object"),
    ],
)
def test_file_that_holds_no_result_is_refused_by_its_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=said) as caught:
        load_result(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["missing", "directory", "bytes"])
def test_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match=str(path)):
        load_ratios(path)


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, part in inner for path in paths_in(part, (*at, key)))]


def complaint_about(path: Path) -> str:
    try:
        load_result(path)
    except BadInputError as error:
        return error.message
    return ""


def test_every_broken_place_of_a_document_is_an_error_for_people(tmp_path: Path) -> None:
    whole = to_document(make_bench(), COMMAND)
    path = tmp_path / "broken.json"
    harmless = {"passed", "verdict", "answer", "harness_version", "value", "met"}
    refused = 0
    for place in paths_in(whole)[1:]:
        document = json.loads(json.dumps(whole))
        holder = document
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = {"nobody": "wrote this"}
        path.write_text(json.dumps(document), encoding="utf-8")
        # Nothing but BadInputError may come out, and only what is not read passes.
        if complaint := complaint_about(path):
            refused += 1
            assert str(path) in complaint
        else:
            assert place[-1] in harmless or place == ("facts",), place
    assert refused > 300


@pytest.mark.parametrize("wrong", ["NaN", "Infinity", "-1e999", "true", '"1"'])
def test_figure_that_is_no_number_is_refused(tmp_path: Path, wrong: str) -> None:
    text = dump_document(to_document(make_bench(make_growth()), COMMAND))
    path = tmp_path / "wrong.json"
    path.write_text(text.replace('"goal": 1.6', f'"goal": {wrong}'), encoding="utf-8")
    with pytest.raises(BadInputError, match=r"goals\[0\]\.goal is not a number"):
        load_result(path)


def test_verdict_claims_nothing_that_did_not_run() -> None:
    words = describe_bench(make_bench())
    assert "2 groups ran (smoke), 1 skipped, 6 ratios, 1 of 1 answer right" in words
    assert "1 of 3 goals met, 1 not measured" in words
    assert describe_bench(make_bench(error="x")).startswith("broken off; ")


def test_wrong_answer_unexpected_refusal_and_error_fail_a_run_and_a_missed_goal_does_not() -> None:
    good = make_positions()
    assert make_bench(good, make_growth()).passed
    assert not make_bench(replace(good, checks=(Check("xid", passed=False),))).passed
    assert not make_bench(replace(good, refusals=(Refusal("x", "y", was_expected=False),))).passed
    assert not make_bench(good, error="gone").passed


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        (Better.LOWER, 1.6, Verdict.MET),
        (Better.LOWER, 1.61, Verdict.NOT_MET),
        (Better.HIGHER, 1.6, Verdict.MET),
        (Better.HIGHER, 1.59, Verdict.NOT_MET),
    ],
)
def test_goal_is_met_up_to_its_bound(better: Better, value: float, verdict: Verdict) -> None:
    assert Goal("g", 1.6, better, interval=interval(value)).verdict is verdict


def test_answer_says_yes_where_the_coordinator_is_asked_and_gives_both_figures() -> None:
    words = answer_plan(make_bench(make_positions()))
    assert "Yes, where a worker fetches each value from the coordinator" in words
    group = make_positions()
    for name in ("coordinator/dblink", "nextval/cache_1", "nextval/cache_10000", "xid", "empty_trigger"):
        figure = next(ratio.interval.value for ratio in group.ratios if ratio.of == name)
        assert f"{figure:.3g}x [" in words, name
    assert "A smoke run" in words


def test_answer_has_single_rows_too_and_no_figure_of_one_server() -> None:
    group = make_positions()
    single = Ratio("s", "single/coordinator/dblink", "single/none", interval(1.77), Better.LOWER)
    plain = Ratio("p", "plain/nextval/cache_1", "plain/none", interval(3.33), Better.LOWER)
    words = answer_plan(make_bench(replace(group, ratios=(*group.ratios, single, plain))))
    assert "Statements of one row: 1.77x [" in words
    assert "3.33" not in words


def test_answer_says_no_where_it_costs_no_more_and_claims_nothing_of_noise_or_of_what_was_not_measured() -> None:
    group = make_positions()
    cheap = [
        replace(each, interval=Interval(2.0, 1.9, 2.1)) if each.of == "coordinator/dblink" else each
        for each in group.ratios
    ]
    assert "Not here" in answer_plan(make_bench(replace(group, ratios=tuple(cheap))))
    noisy = [
        replace(each, interval=Interval(87.0, 3.4, 179.0)) if each.of == "coordinator/dblink" else each
        for each in group.ratios
    ]
    assert "too noisy" in answer_plan(make_bench(replace(group, ratios=tuple(noisy))))
    assert "Not answered by this run" in answer_plan(make_bench(make_growth()))
    local: tuple[Ratio, ...] = tuple(each for each in group.ratios if each.of != "coordinator/dblink")
    assert "Not answered by this run" in answer_plan(make_bench(replace(group, ratios=local)))
