"""The JUnit file: every step and check a case, failures and skips with their reason, nothing that XML can't hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from harness.rehearsal.model import CheckResult, Verdict
from harness.report import to_junit
from scenarios.fixtures.reports import make_result


def parse(document: bytes) -> etree._Element:
    return etree.fromstring(document, etree.XMLParser(resolve_entities=False))


def test_each_step_and_check_is_a_case_and_the_counts_add_up() -> None:
    result = make_result(passed=False)
    root = parse(to_junit(result, "harness rehearse"))
    cases = root.findall("testsuite/testcase")
    assert len(cases) == len(result.steps) + len(result.checks) == int(root.attrib["tests"])
    assert int(root.attrib["failures"]) == len(root.findall(".//failure")) == 3
    assert int(root.attrib["skipped"]) == len(root.findall(".//skipped")) == 1
    for suite in root.findall("testsuite"):
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))


def test_failure_carries_its_detail_and_a_skip_its_reason() -> None:
    root = parse(to_junit(make_result(passed=False, detail="3 rows lost\nof 40"), "harness rehearse"))
    failure = root.find(".//testcase[@classname='rehearsal.check_up.captured_rows_once']/failure")
    assert failure is not None
    assert failure.attrib["message"] == "3 rows lost"
    assert failure.text == "3 rows lost\nof 40"
    skipped = root.find(".//skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "the copy has no such role"


def test_file_of_a_result_that_failed_without_naming_why_has_a_failure() -> None:
    root = parse(to_junit(replace(make_result(), passed=False), "harness rehearse"))
    assert int(root.attrib["failures"]) == 1


def test_file_of_a_passed_result_has_no_failure() -> None:
    assert not parse(to_junit(make_result(), "harness rehearse")).findall(".//failure")


def test_passwords_do_not_reach_the_file() -> None:
    leaky = make_result(passed=False, detail="postgresql://me:hunter2@host/db")
    assert b"hunter2" not in to_junit(leaky, "harness rehearse --dsn postgresql://me:hunter2@host/db")


@pytest.mark.parametrize("name", ["\x00", "\x0b", "\x1b[31m", "\ud800", "\ufffe", "\uffff", "\u202e", "a\nb", "]]>"])
def test_name_with_an_odd_character_gives_a_file_that_parses(name: str) -> None:
    check = CheckResult("captured_rows_once", "up", name, Verdict.FAILED, name)
    parse(to_junit(replace(make_result(), checks=(check,)), name))


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=20), detail=st.text(max_size=40))
def test_any_name_and_detail_give_a_file_that_parses(name: str, detail: str) -> None:
    result = replace(
        make_result(writes_per_s=0, source_count=1), checks=(CheckResult("c", "up", name, Verdict.FAILED, detail),)
    )
    assert len(parse(to_junit(result, "harness rehearse")).findall(".//failure")) == 1
