"""The page: it needs nothing beside it, escapes what strangers named, says what matters first, can be read by all."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from lxml import etree, html

from harness.chain.revisions import REVISIONS
from harness.rehearsal.model import CheckResult, RehearsalResult, Verdict
from harness.report import to_page
from scenarios.fixtures.reports import make_result

COMMAND = "harness rehearse --seed 7"
HOSTILE = (
    'public."<script>alert(1)</script>"',
    "public.\"' onmouseover='alert(1)\"",
    'public."</style><img src=x onerror=alert(1)>"',
    'public."{{ 7*7 }}"',
    'public."\u202egnp.exe"',
    'public."a\x1b[31mb\nc"',
)


def parse(result: RehearsalResult) -> html.HtmlElement:
    return html.document_fromstring(to_page(result, COMMAND))


def select(element: html.HtmlElement, path: str) -> list[Any]:
    found = element.xpath(path)
    assert isinstance(found, list)
    return found


def text_of(element: html.HtmlElement) -> str:
    return re.sub(r"\s+", " ", element.text_content())


@pytest.mark.parametrize("passed", [True, False], ids=["passed", "failed"])
def test_page_loads_nothing_and_runs_nothing(passed: bool) -> None:
    page = to_page(make_result(passed=passed), COMMAND)
    root = html.document_fromstring(page)
    assert not select(
        root, "//script | //iframe | //img | //object | //embed | //link[not(starts-with(@href, 'data:'))]"
    )
    assert not select(root, "//@*[starts-with(name(), 'on')]")
    assert all(href.startswith(("#", "data:")) for href in select(root, "//@href"))
    assert not select(root, "//@src | //@srcset")
    style = "".join(select(root, "//style/text()"))
    assert "@import" not in style
    assert "url(" not in style
    assert "default-src 'none'" in page


def test_verdict_in_words_comes_first() -> None:
    root = parse(make_result(passed=False))
    first = select(root, "//main/*")[0]
    assert first.get("id") == "verdict"
    assert "Failed" in text_of(first)
    assert "2 of" in text_of(first)
    assert root.findtext(".//title", "").startswith("Failed: ")
    assert "Passed" in text_of(select(parse(make_result()), "//main/*")[0])


def test_hostile_names_are_shown_and_change_nothing() -> None:
    plain = parse(make_result(passed=False, source_count=len(HOSTILE)))
    hostile = parse(make_result(passed=False, sources=HOSTILE, source_count=len(HOSTILE), detail="<b>x</b>"))
    assert [node.tag for node in hostile.iter(etree.Element)] == [node.tag for node in plain.iter(etree.Element)]
    shown = text_of(hostile)
    assert "<script>alert(1)</script>" in shown
    assert "{{ 7*7 }}" in shown
    assert r"\u202egnp.exe" in shown
    assert r"a\x1b[31mb\nc" in shown
    assert "\u202e" not in shown


def test_failed_checks_come_before_wrong_ones_and_passed_ones_are_collapsed() -> None:
    section = parse(make_result(passed=False)).get_element_by_id("checks")
    shown = text_of(section)
    assert shown.index("captured_rows_once") < shown.index("Wrong before") < shown.index("Skipped")
    assert shown.index("Skipped") < shown.index("Checks that held")
    held = [details for details in select(section, "./details") if "held" in details.findtext("summary", "")]
    assert len(held) == 1
    assert held[0].get("open") is None


def test_each_way_has_a_panel_with_a_band_a_revision() -> None:
    root = parse(make_result())
    drawings = select(root, "//figure/*[local-name()='svg']")
    assert [figure.findtext("figcaption/strong") for figure in select(root, "//figure")] == ["Up", "Down", "Up again"]
    for drawing in drawings:
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label")
        assert len(select(drawing, ".//*[starts-with(@class, 'band')]")) == len(REVISIONS)


def test_tables_have_headers_and_scrolling_regions_have_names_and_focus() -> None:
    root = parse(make_result(passed=False))
    ids = select(root, "//@id")
    assert len(ids) == len(set(ids))
    assert root.get("lang") == "en"
    for table in select(root, "//table"):
        assert select(table, "./thead//th[@scope='col']")
    for region in select(root, "//*[@role='region']"):
        assert region.get("tabindex") == "0"
        assert region.get("aria-label") or region.get("aria-labelledby") in ids
    for target in select(root, "//a/@href"):
        assert target.removeprefix("#") in ids


def test_page_of_a_rehearsal_without_writers_claims_no_stall() -> None:
    root = parse(make_result(writes_per_s=0))
    assert "no stall was measured" in text_of(root.get_element_by_id("verdict"))
    assert "Not measured" in text_of(root.get_element_by_id("stalls"))


def test_page_of_an_empty_result_is_whole() -> None:
    empty = replace(
        make_result(passed=False, writes_per_s=0), steps=(), revisions=(), checks=(), facts={}, warnings=(), rows=0
    )
    shown = text_of(parse(empty))
    assert "No revision ran" in shown
    assert "No step ran" in shown


def test_page_of_a_thousand_sources_stays_small_enough_to_open() -> None:
    result = make_result(source_count=1000, writes_per_s=3000)
    failed = [CheckResult("captured_rows_once", "up", f"s.t{n}", Verdict.FAILED, "x" * 200) for n in range(3000)]
    page = to_page(replace(result, passed=False, checks=(*result.checks, *failed)), COMMAND)
    assert len(page) < 2_000_000
    assert "2,500 more" in page


def test_passwords_do_not_reach_the_page() -> None:
    leaky = replace(make_result(passed=False, detail="password=hunter2"), source_dsn="postgresql://me:hunter2@host/db")
    assert "hunter2" not in to_page(leaky, "harness rehearse --dsn 'password=hunter2'")


def test_seed_and_command_are_on_the_page() -> None:
    facts = text_of(parse(make_result(seed=4242)).get_element_by_id("facts"))
    assert "4242" in facts
    assert COMMAND in facts
