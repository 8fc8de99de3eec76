"""The matrix's report without a server: every form says the same, and nobody's text breaks it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import jsonschema
import pytest
from lxml import etree, html
from rich.console import Console

from harness.matrix.model import MatrixResult, RowReport, RowResult
from harness.matrix.rows import ROWS
from harness.rehearsal.model import Verdict
from harness.report.document import dump_document, load_schema
from harness.report.matrix import print_matrix, to_matrix_document, to_matrix_junit, to_matrix_page

HOSTILE = 'row <b>"x"</b> & ]]> \x00\x1b[31m \u202e {{ 7 * 7 }} password=hunter2\nsecond line'
REPORT = RowReport({"cluster": "1+2", "tables": "orders 2+2 shards; totals local"}, {"orders": 528})


def make_result(*, failed: bool = False, missing: str = "") -> MatrixResult:
    rows = [
        RowResult(
            row.number, row.name, row.title, Verdict.PASSED, row.claim, row.reality, row.finding,
            REPORT.topology, REPORT.counts, 0.8,
        )
        for row in ROWS
    ]  # fmt: skip
    if failed:
        rows[6] = replace(rows[6], verdict=Verdict.FAILED, topology={}, counts={}, reason=HOSTILE)
    if missing:
        skipped = {"verdict": Verdict.SKIPPED, "reason": missing, "topology": {}, "counts": {}, "elapsed_s": 0.0}
        rows = [rows[0], *(replace(row, **skipped) for row in rows[1:])]  # type: ignore[arg-type]
    return MatrixResult(tuple(rows), "2026-11-21T07:00:00+00:00", 9.5, 0.6, missing, {"Citus": "14.0-1"})


def text_of(page: str) -> str:
    return " ".join(str(text) for text in html.fromstring(page).itertext())


def printed(result: MatrixResult) -> str:
    out = io.StringIO()
    print_matrix(result, Console(file=out, width=160))
    return out.getvalue()


def test_passed_matrix_is_green_in_every_form() -> None:
    result = make_result()
    document = to_matrix_document(result, "harness matrix")
    jsonschema.validate(document, load_schema("matrix-1"))
    assert document["passed"] is True
    assert [row["number"] for row in document["rows"]] == list(range(1, 11))
    assert document["rows"][4]["topology"] == REPORT.topology
    suite = etree.fromstring(to_matrix_junit(result, "harness matrix"))
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["skipped"]) == ("10", "0", "0")
    page = text_of(to_matrix_page(result, "harness matrix"))
    for text in (page, printed(result)):
        assert "10 of 10 rows passed" in text
        assert "orders 2+2 shards; totals local" in text


def test_failed_row_fails_the_matrix_and_its_words_break_nothing() -> None:
    result = make_result(failed=True)
    text = dump_document(to_matrix_document(result, "harness matrix"))
    document = json.loads(text)
    jsonschema.validate(document, load_schema("matrix-1"))
    assert document["passed"] is False
    assert document["rows"][6]["verdict"] == "failed"
    suite = etree.fromstring(to_matrix_junit(result, "harness matrix"))
    failure = suite.find(".//testcase[@name='row_07_concurrent_writes']/failure")
    assert failure is not None
    assert str(failure.attrib["message"]).startswith('row <b>"x"</b> & ]]> ')
    page = to_matrix_page(result, "harness matrix")
    assert "<b>&#34;x&#34;</b>" not in page
    assert '<b>"x"' not in page
    assert "{{ 7 * 7 }}" in text_of(page)
    for form in (text, failure.text or "", page, printed(result)):
        assert "hunter2" not in form
        assert "second line" in form
    for form in (page, printed(result)):
        assert "\x1b[31m" not in form
        assert "\u202e" not in form


def test_skipped_rows_say_what_is_missing_and_do_not_fail() -> None:
    result = make_result(missing="environment: no PostgreSQL with Citus was found")
    assert result.passed
    document = to_matrix_document(result, "harness matrix")
    jsonschema.validate(document, load_schema("matrix-1"))
    assert [row["verdict"] for row in document["rows"]] == ["passed", *["skipped"] * 9]
    assert {row["reason"] for row in document["rows"][1:]} == {result.missing}
    assert "1 of 10 rows passed, 9 skipped (environment: no PostgreSQL with Citus was found)" in document["verdict"]


@pytest.mark.parametrize("verdict", [Verdict.SKIPPED, Verdict.FAILED])
def test_matrix_in_which_nothing_passed_has_not_passed(verdict: Verdict) -> None:
    result = make_result()
    assert not replace(result, rows=tuple(replace(row, verdict=verdict) for row in result.rows)).passed
