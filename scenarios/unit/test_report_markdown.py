"""The page of a job: what it says first, and that no name of a database can make a link, a row or a tag of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.cli import main
from harness.cli import matrix as matrix_command
from harness.cli import rehearse as rehearse_command
from harness.errors import BinariesNotFoundError, Finding, HarnessError, PreflightError, ServerGoneError
from harness.matrix.model import Claim, MatrixResult, RowResult
from harness.rehearsal.model import Verdict
from harness.report.markdown import (
    MOST_BYTES,
    Column,
    Problem,
    Summary,
    Table,
    code,
    error_markdown,
    escape,
    matrix_markdown,
    rehearsal_markdown,
    render,
)
from harness.settings import load_settings
from scenarios.fixtures.reports import make_result

HOSTILE = [
    "a|b",
    "`code` ``two``",
    "line\none\r\ntwo\u2028three",
    "<script>alert(1)</script>",
    "</code></td></table><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://x/y.png)",
    "https://evil.example/ www.evil.example",
    "@everyone #1 :tada: $x^2$ ~~gone~~ **bold** _under_ \\| \\",
    "1. list",
    "2) list",
    "- item",
    "# heading",
    "> quote",
    "    indented",
    "--- | ---",
    "&lt;b&gt; &#124;",
    "\u202egnp.exe\x00\x1b[31m",
    "password=hunter2",
]


def page_of(markdown: str) -> lxml.html.HtmlElement:
    """What a site makes of it."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").render(markdown)
    return lxml.html.fromstring(f"<div>{html}</div>")


def summary_with(text: str) -> Summary:
    columns = (Column(text), Column("name", is_name=True), Column("n", is_number=True))
    return Summary(
        title="harness rehearse",
        outcome="failed",
        verdict=text,
        advice=text,
        problems=(Problem(text, subject=text, hint=text), Problem(f"one\n\n{text}|", subject=text)),
        tables=(Table(text, columns, ((text,) * 3,)),),
        notes=(text,),
        command=text,
    )


def shown(text: str) -> str:
    """What a reader is to see of a text: nothing unseen, no password."""
    return str(page_of(escape(text)).text_content()).strip()


def assert_keeps_its_shape(text: str) -> None:
    page = page_of(render(summary_with(text)))
    tags = {element.tag for element in page.iter()}
    assert tags <= {
        *("div", "strong", "h2", "h3", "p", "ul", "li", "code", "pre", "br", "details", "summary"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert len(page.findall(".//table")) == 1
    assert [len(row) for row in page.iter("tr")] == [3, 3]
    has_lines = "\n" in text.strip()
    assert len(page.findall(".//pre")) == 1 + has_lines
    # A problem of one line, and a note.
    assert len(page.findall(".//li")) == 2 - has_lines
    assert page.findall(".//*[@onerror]") == []


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_is_shown_and_makes_nothing_of_itself(text: str) -> None:
    assert_keeps_its_shape(text)
    page = page_of(render(summary_with(text)))
    cells = [cell.text_content() for cell in page.iter("td")]
    assert cells == [shown(text)] * 3
    assert "hunter2" not in page.text_content()


@given(st.text(max_size=60))
def test_any_text_keeps_the_page_in_its_shape(text: str) -> None:
    assert_keeps_its_shape(text)


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isprintable() and "hunter2" not in text], ids=ascii)
def test_printable_text_is_read_as_it_was_written(text: str) -> None:
    assert page_of(escape(text)).text_content().strip() == text.strip()
    assert page_of(code(text)).text_content().strip() == text.strip()


def test_rehearsal_that_failed_says_so_first_and_then_what_to_do() -> None:
    result = make_result(passed=False, sources=('public."a|b"',), detail="2 rows lost")
    markdown = rehearsal_markdown(result, "harness rehearse --seed 7")
    page = page_of(markdown)
    assert page[0].text_content() == "\u274c harness rehearse: failed"
    assert "2 of 220 checks failed" in (page[1].text_content())
    problems = [item.text_content() for item in page.findall(".//li")]
    assert any('public."a|b": captured_rows_once after check_up: 2 rows lost' in problem for problem in problems)
    assert any("--keep" in problem for problem in problems)
    headings = [heading.text_content() for heading in page.iter("h3")]
    assert headings == ["What is wrong", "Figures", "Steps", "Revisions"]
    assert "Again: harness rehearse --seed 7" in page.text_content()


def test_rehearsal_that_passed_has_its_figures_and_no_problem() -> None:
    page = page_of(rehearsal_markdown(make_result(), "harness rehearse"))
    assert page[0].text_content() == "\u2705 harness rehearse: passed"
    assert "What is wrong" not in page.text_content()
    rows = {row[0].text_content(): [cell.text_content() for cell in row[1:]] for row in page.iter("tr")}
    assert rows["Checks"] == ["217 of 218", "held; 1 skipped"]
    assert rows["copy"][0] == "passed"


def test_ten_thousand_failures_make_a_page_that_is_still_shown() -> None:
    result = make_result(passed=False, detail="\U0001f4a5|" * 5000)
    failed = tuple(check for check in result.checks if check.verdict is Verdict.FAILED)
    many = dataclasses.replace(result, checks=failed * 5000, warnings=("|" * 9999,) * 9999)
    markdown = rehearsal_markdown(many, "harness rehearse")
    assert len(markdown.encode()) < MOST_BYTES
    assert "more, all in the report" in markdown


def test_page_beyond_the_limit_is_cut_between_blocks() -> None:
    row = ("|" * 400,) * 8
    table = Table("wide", tuple(Column("|" * 400) for _ in row), (row,) * 60)
    markdown = render(Summary("harness bench", "passed", "all", tables=(table, table, table)))
    assert len(markdown.encode()) < MOST_BYTES + 100
    page_of(markdown)


def row_result(number: int, verdict: Verdict, reason: str = "") -> RowResult:
    return RowResult(
        number=number,
        name=f"row_{number}",
        title="Local -> local | one",
        verdict=verdict,
        claim="MERGE",
        reality="MERGE",
        finding=Claim.HOLDS,
        topology={"cluster": "1+2", "tables": "shards on every worker"} if verdict is Verdict.PASSED else {},
        counts={"orders": 1200} if verdict is Verdict.PASSED else {},
        elapsed_s=1.5,
        reason=reason,
    )


def matrix_result(*rows: RowResult, missing: str = "") -> MatrixResult:
    return MatrixResult(rows, "2026-11-21T04:00:00+00:00", 12.0, 0.7, missing, {"PostgreSQL": "18.6"})


def test_matrix_names_the_row_that_failed_with_its_traceback() -> None:
    reason = "Traceback:\n  File <x>\n\nKeyError: 'a|b'"
    result = matrix_result(row_result(1, Verdict.PASSED), row_result(2, Verdict.FAILED, reason))
    page = page_of(matrix_markdown(result, "harness matrix"))
    assert page[0].text_content() == "\u274c harness matrix: failed"
    assert page.findall(".//pre")[0].text_content() == reason
    assert "harness matrix --row 2" in page.text_content()
    cells = [[cell.text_content() for cell in row] for row in page.findall(".//tbody/tr")]
    assert cells[0] == ["1", "Local -> local | one", "1+2: shards on every worker", "orders 1,200", "passed", "1.50 s"]


def test_matrix_without_citus_says_what_is_missing_and_is_not_called_passed() -> None:
    missing = "environment: no PostgreSQL with Citus"
    page = page_of(matrix_markdown(matrix_result(row_result(2, Verdict.SKIPPED, missing), missing=missing), "x"))
    assert page[0].text_content().endswith("harness matrix: skipped")
    assert "harness doctor" in page.text_content()
    passed = row_result(1, Verdict.PASSED)
    page = page_of(matrix_markdown(matrix_result(passed, row_result(2, Verdict.SKIPPED), missing=missing), "x"))
    assert page[0].text_content().endswith("harness matrix: passed")
    assert missing in page.text_content()


def test_refusal_lists_each_finding_with_what_to_do() -> None:
    error = PreflightError("two things", [Finding("half_catalog", "a|b", "is half", "restore it")], hint="see each")
    page = page_of(error_markdown("harness rehearse", error))
    assert page[0].text_content() == "\u26d4 harness rehearse: refused"
    items = [item.text_content().strip() for item in page.findall(".//li")]
    assert items == ["a|b: half_catalog: is halfrestore it"]
    assert page[2].text_content() == "What to do: see each"
    page = page_of(error_markdown("harness rehearse", ServerGoneError("password=hunter2 died", node="worker_1")))
    assert page[0].text_content() == "\u274c harness rehearse: failed"
    assert "hunter2" not in page.text_content()
    assert "[worker_1]" in page.text_content()


# ------------------------------------------------------------------------------------------------------- --summary


@pytest.fixture(autouse=True)
def _fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HARNESS_REHEARSE_DSN", "HARNESS_REQUIRE_CITUS"):
        monkeypatch.delenv(name, raising=False)
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *arguments])
    try:
        main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    return 0


def test_rehearse_writes_the_page_of_a_result_and_of_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "summary.md"
    monkeypatch.setattr(rehearse_command, "run_rehearsal", lambda *_args, **_options: make_result(writes_per_s=5))
    assert run(monkeypatch, "rehearse", "--json", "--report", str(tmp_path / "r"), "--summary", str(file)) == 0
    assert json.loads(capfd.readouterr().out)["passed"] is True
    assert file.read_text(encoding="utf-8").startswith("## \u2705 harness rehearse: passed\n")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PreflightError("not this one", [])

    monkeypatch.setattr(rehearse_command, "run_rehearsal", refuse)
    assert run(monkeypatch, "rehearse", "--report", str(tmp_path / "r"), "--summary", str(file)) == 2
    assert "not this one" in file.read_text(encoding="utf-8")
    assert run(monkeypatch, "rehearse", "--rows", "-1", "--summary", str(file)) == 2
    assert page_of(file.read_text(encoding="utf-8"))[1].text_content() == "Refused: --rows -1 is out of range"


def test_matrix_writes_the_page_of_a_result_and_of_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "summary.md"
    result = matrix_result(row_result(1, Verdict.FAILED, "no"))
    monkeypatch.setattr(matrix_command, "run_matrix", lambda *_args, **_options: result)
    assert run(monkeypatch, "matrix", "--summary", str(file)) == 1
    assert file.read_text(encoding="utf-8").startswith("## \u274c harness matrix: failed\n")

    def fail(*_arguments: object, **_options: object) -> None:
        error: HarnessError = BinariesNotFoundError("no PostgreSQL", hint="install one")
        raise error

    monkeypatch.setattr(matrix_command, "run_matrix", fail)
    assert run(monkeypatch, "matrix", "--summary", str(file)) == 3
    assert "install one" in file.read_text(encoding="utf-8")
    capfd.readouterr()


@pytest.mark.parametrize("command", ["rehearse", "matrix"])
def test_place_that_cannot_be_written_is_refused_before_anything_runs(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path / "nowhere" / "summary.md", tmp_path):
        assert run(monkeypatch, command, "--summary", str(place)) == 2
        assert f"--summary {place}" in capfd.readouterr().err.replace("\n", "")
