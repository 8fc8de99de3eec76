"""The JSON document: its schema, its numbers, what it must not hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from harness.chain.revisions import REVISIONS
from harness.rehearsal.model import LatencySample, RehearsalResult, SourceStall
from harness.report import SCHEMA, load_schema, to_document
from harness.report.document import TIMELINE_POINTS, dump_document
from scenarios.fixtures.reports import make_result

COMMAND = "harness rehearse --seed 7"


def dump_and_load(result: RehearsalResult) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document: dict[str, Any] = json.loads(
        dump_document(to_document(result, COMMAND)).encode("utf-8"), parse_constant=refuse
    )
    return document


def test_schema_itself_is_valid_and_has_the_identity_of_the_document() -> None:
    schema = load_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == SCHEMA == to_document(make_result(), COMMAND)["schema"]


@pytest.mark.parametrize("passed", [True, False], ids=["passed", "failed"])
@pytest.mark.parametrize("writes_per_s", [0, 200], ids=["quiet", "writers"])
def test_document_of_a_result_follows_the_schema(passed: bool, writes_per_s: int) -> None:
    document = dump_and_load(make_result(passed=passed, writes_per_s=writes_per_s))
    Draft202012Validator(load_schema()).validate(document)
    assert document["passed"] is passed
    assert {"passed", "upgrade_s", "longest_stall_ms", "sources", "checks", "revisions"} <= document.keys()


def test_document_of_an_empty_result_follows_the_schema() -> None:
    empty = replace(
        make_result(), steps=(), revisions=(), checks=(), stalls=(), samples=(), facts={}, warnings=(), writes=0
    )
    document = dump_and_load(empty)
    Draft202012Validator(load_schema()).validate(document)
    assert document["longest_stall_ms"] is None
    assert "No check ran" in document["verdict"]


def test_schema_describes_every_field_of_the_document() -> None:
    document = to_document(make_result(), COMMAND)
    schema = load_schema()
    assert document.keys() == schema["properties"].keys() == set(schema["required"])
    for field in ("steps", "revisions", "checks", "stalls", "timeline"):
        assert document[field][0].keys() == schema["properties"][field]["items"]["properties"].keys()


def test_document_counts_what_the_result_holds() -> None:
    result = make_result(passed=False)
    document = to_document(result, COMMAND)
    counts = document["check_counts"]
    assert counts["failed"] == 2
    assert counts["wrong_before"] == 1
    assert counts["passed"] + counts["failed"] + counts["skipped"] == len(document["checks"]) == len(result.checks)
    assert len(document["revisions"]) == 3 * len(REVISIONS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_numbers_that_are_not_finite_become_null(value: float) -> None:
    result = make_result()
    odd = replace(
        result,
        longest_stall_ms=value,
        samples=(LatencySample(11.0, value, "a.b", 0), *result.samples),
        revisions=(replace(result.revisions[0], longest_stall_ms=value), *result.revisions[1:]),
    )
    document = dump_and_load(odd)
    assert document["longest_stall_ms"] is None
    assert document["revisions"][0]["longest_stall_ms"] is None
    assert document["write_latency_ms"]["max"] == pytest.approx(max(s.latency_ms for s in result.samples), abs=0.001)


def test_timeline_is_bounded_and_keeps_the_maximum() -> None:
    result = make_result(writes_per_s=2000)
    timeline = to_document(result, COMMAND)["timeline"]
    assert len(timeline) <= TIMELINE_POINTS < len(result.samples)
    assert max(point["max_ms"] for point in timeline) == pytest.approx(result.longest_stall_ms, abs=0.001)
    assert sum(point["writes"] for point in timeline) == len(result.samples)


def test_passwords_do_not_reach_the_document() -> None:
    secret = "hunter2"  # noqa: S105 - what must not be found
    leaky = replace(
        make_result(passed=False, detail=f"could not connect: password={secret}"),
        source_dsn=f"postgresql://me:{secret}@host/db",
        warnings=(f"host=x password='{secret}'",),
        facts={"conninfo": f"postgresql://me:{secret}@host/db"},
    )
    text = dump_document(to_document(leaky, f"harness rehearse --dsn 'host=x password={secret}'"))
    assert secret not in text
    assert "***" in text


def test_names_with_surrogates_and_controls_survive_as_json() -> None:
    result = replace(make_result(), stalls=(SourceStall('public."a\x00\x1b\udc80é\u202e"', 1.0, 12.0, None),))
    assert dump_and_load(result)["stalls"][0]["source"] == 'public."a\x00\x1b\ufffdé\u202e"'
