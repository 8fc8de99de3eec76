"""The page, the JUnit file, the job's page and the terminal of a run say the same, and nobody's text breaks them."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
from lxml import etree, html
from rich.console import Console

from harness.bench.junit import bench_markdown, to_bench_junit
from harness.bench.model import BenchResult, Check, Refusal
from harness.bench.page import to_bench_page
from harness.bench.plots import MOST_BARS, draw_group, nice
from harness.bench.results import to_results
from harness.bench.terminal import print_bench
from scenarios.fixtures.bench import COMMAND, make_bench, make_growth, make_positions

HOSTILE = 'x <b>"y"</b> & ]]> $\\frac{1}{0}$ \x1b[31m \u202e {{ 7 * 7 }} postgresql://me:hunter2@h/d'


def found(root: Any, expression: str) -> list[Any]:
    """What an XPath that names elements or attributes leads to."""
    return cast("list[Any]", root.xpath(expression))


def text_of(page: str) -> str:
    return " ".join(str(text) for text in html.fromstring(page).itertext())


def printed(result: BenchResult) -> str:
    out = io.StringIO()
    print_bench(result, "The answer.", (), Console(file=out, width=200))
    return out.getvalue()


@pytest.fixture(scope="module")
def page() -> str:
    return to_bench_page(make_bench(), COMMAND)


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    root = html.fromstring(page)
    assert found(root, "//script | //iframe | //object | //embed | //img | //link[@rel != 'icon']") == []
    assert not re.search(r"@import|url\((?!#)", page)
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not str(name).startswith("on")
            if str(name).endswith(("href", "src")):
                assert str(value).startswith(("#", "data:,")), value
    policy = found(root, "//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_page_shows_ratios_lines_the_model_goals_refusals_facts_and_the_answer(page: str) -> None:
    root = html.fromstring(page)
    labels = found(root, "//*[local-name()='svg']/@aria-label")
    assert labels == [
        "The position that a captured change gets: ratios",
        "a refresh by workers",
        "by share",
    ]
    text = text_of(page)
    for words in (
        "Yes, where a worker fetches each value",
        "nextval/cache_10000 : none",
        "1 to 8 workers (model)",
        "share changed (log)",
        "single_row_rate",
        "fsync of two nodes",
        "cannot execute a distributed query from a query on a shard",
        "14.0-1",
        COMMAND,
        "Skipped: environment: no Citus",
    ):
        assert words in text, words
    verdicts = found(root, "//section[@id='goals']//td[@class='passed' or @class='failed' or @class='skipped']")
    assert [cell.text_content().strip()[2:] for cell in verdicts] == ["met", "not met", "not measured"]


def test_page_has_each_id_once_and_every_link_leads_somewhere(page: str) -> None:
    root = html.fromstring(page)
    ids = Counter(found(root, "//@id"))
    assert [name for name, count in ids.items() if count > 1] == []
    inside = {str(link)[1:] for link in found(root, "//@href | //@*[local-name()='href']") if str(link).startswith("#")}
    inside |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert inside - {""} <= set(ids)


def test_page_of_the_same_result_is_the_same_page(page: str) -> None:
    assert to_bench_page(make_bench(), COMMAND) == page


def test_drawings_have_the_colours_of_the_page(page: str) -> None:
    drawn = "".join(re.findall(r"<svg class=\"plot\".*?</svg>", page, re.DOTALL))
    assert "var(--line-0)" in drawn
    assert re.findall(r"#0[1-4]0[1-4]0\d", drawn) == []


def test_many_ratios_are_drawn_in_several_drawings() -> None:
    group = make_positions()
    many = [replace(ratio, name=f"{ratio.name} {number}") for number in range(7) for ratio in group.ratios]
    drawings = draw_group(replace(group, ratios=tuple(many)))
    assert len(drawings) == -(-len(many) // MOST_BARS) == 2
    assert "ratios (2 of 2)" in drawings[1].title


@pytest.mark.parametrize("form", ["page", "terminal", "markdown", "results", "junit"])
def test_what_is_wrong_is_in_every_form_and_no_text_breaks_it(form: str) -> None:
    group = replace(
        make_positions(),
        checks=(Check(HOSTILE, passed=False, detail=f"99,999 of 100,000 rows {HOSTILE}"),),
        refusals=(Refusal(HOSTILE, HOSTILE, was_expected=False),),
        notes=(HOSTILE,),
    )
    result = make_bench(group, make_growth(HOSTILE), error=f"refresh: a node died {HOSTILE}")
    made = {
        "page": lambda: to_bench_page(result, HOSTILE),
        "terminal": lambda: printed(result),
        "markdown": lambda: bench_markdown(result, HOSTILE),
        "results": lambda: to_results(result, HOSTILE),
        "junit": lambda: to_bench_junit(result, HOSTILE).decode(),
    }[form]()
    assert "99,999 of 100,000 rows" in made
    assert "a node died" in made
    assert "hunter2" not in made
    assert "\x1b" not in made
    assert "\u202e" not in made
    if form == "results":
        # Every < of it has lost its meaning.
        assert "<" not in re.sub(r"\\<", "", made)
    if form in {"page", "junit"}:
        assert "<b>" not in made
    if form == "page":
        assert "{{ 7 * 7 }}" in text_of(made)


def test_junit_has_a_case_an_answer_and_no_failure_for_a_goal() -> None:
    root = etree.fromstring(to_bench_junit(make_bench(), COMMAND))
    assert (root.attrib["failures"], root.attrib["skipped"]) == ("0", "1")
    goal = root.find(".//testcase[@name='goal single_row_rate']")
    assert goal is not None
    assert "not met" in (goal.findtext("system-out") or "")
    wrong = make_bench(replace(make_positions(), checks=(Check("xid", passed=False, detail="99,999 rows"),)))
    failure = etree.fromstring(to_bench_junit(wrong, COMMAND)).find(".//testcase[@name='answer of xid']/failure")
    assert failure is not None
    assert failure.attrib["message"] == "99,999 rows"
    broken = etree.fromstring(to_bench_junit(make_bench(error="gone"), COMMAND))
    assert broken.attrib["failures"] == "1"


def test_terminal_says_goals_and_verdict() -> None:
    text = printed(make_bench())
    assert re.search(r"single_row_rate +0.7 \[0.665 to 0.735\] +>= 0.8 x +not met", text)
    assert "why single_row_rate: fsync of two nodes" in text
    assert "PASSED" in text
    assert "skipped: environment: no Citus" in text
    assert "FAILED" in printed(make_bench(error="gone"))


def test_results_hold_every_ratio_goal_and_point() -> None:
    result = make_bench()
    text = to_results(result, COMMAND)
    for group in result.groups:
        assert text.count("\n| ") >= len(group.ratios)
    assert "| bulk\\_insert | 1.55 [1.47 to 1.63] | \\<= 1.6 x | met |" in text
    assert text.count("| the model |") == 3
    assert "Skipped: environment: no Citus" in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.00012345, "0.000123"), (1.0, "1"), (1234.6, "1,235"), (2e7, "20,000,000")]
)
def test_figures_of_tables_have_three_digits(value: float, shown: str) -> None:
    assert nice(value) == shown
