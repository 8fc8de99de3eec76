"""Reports of inspectors without a cluster: verdicts, exit codes, cells, schemas, the page."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import jsonschema
import pytest
from lxml import etree
from rich.console import Console

from harness.inspectors import registry
from harness.inspectors.contract import Envelope, FailedNode, Finding, Nodes, Reason, Severity, Status
from harness.inspectors.report import Look, Report, Skipped, to_document
from harness.inspectors.report.cells import show
from harness.inspectors.report.page import to_inspect_page
from harness.inspectors.report.shapes import envelope_schema, schema_of, to_json
from harness.inspectors.report.terminal import show_look, show_report
from harness.report import load_schema
from harness.report.text import NOTHING

HOSTILE = "<b>\x1b[31m\u202e'; drop \ud800"


@dataclass(frozen=True)
class Part:
    number: int
    word: str | None = None


@dataclass(frozen=True)
class Row:
    name: str
    count: int | None
    share: float
    is_good: bool | None = None
    parts: tuple[Part, ...] = ()
    state: Status = Status.OK
    kind: Literal["a", "b"] = "a"
    pair: tuple[str, int] = ("x", 1)
    by_node: dict[str, int | None] = field(default_factory=dict)
    late: bool | None = None


ROWS = (Row("one", 1, 0.5, True, (Part(1, "w"), Part(2)), by_node={"n": None}), Row(HOSTILE, None, 1e-7))


def make_look(
    status: Status = Status.OK, *findings: Finding, name: str = "list_nodes", reason: Reason | None = None
) -> Look:
    given = None if status is Status.OK else reason or Reason.GUC_OFF
    return Look(Envelope(name, status, given, "" if given is None else "why", row_limit=100), 1.5, findings)


def finding(severity: Severity, rule: str = "r", target: str = "t") -> Finding:
    return Finding(rule, severity, "node", target, "title", "evidence", "suggestion")


@pytest.mark.parametrize(
    ("looks", "code"),
    [
        ([make_look()], 0),
        ([make_look(Status.PARTIAL)], 0),
        ([make_look(Status.UNAVAILABLE)], 3),
        ([make_look(Status.ERROR)], 3),
        ([], 3),
        ([make_look(), make_look(Status.UNAVAILABLE)], 0),
        ([make_look(), make_look(Status.ERROR)], 3),
        ([make_look(Status.UNAVAILABLE), make_look(Status.UNAVAILABLE)], 3),
        ([make_look(Status.OK, finding(Severity.WARNING), finding(Severity.INFO))], 0),
        ([make_look(Status.OK, finding(Severity.ERROR))], 1),
        ([make_look(Status.PARTIAL, finding(Severity.ERROR)), make_look(Status.ERROR)], 1),
    ],
)
def test_exit_code_follows_findings_then_what_could_not_be_looked_at(looks: list[Look], code: int) -> None:
    report = Report(tuple(looks))
    assert (report.exit_code, report.passed) == (code, code == 0)


def test_findings_are_listed_once_and_the_worst_first() -> None:
    twice = finding(Severity.WARNING, "b", "x")
    report = Report(
        (
            make_look(Status.OK, finding(Severity.INFO, "a"), twice),
            make_look(Status.OK, twice, finding(Severity.ERROR, "z"), finding(Severity.WARNING, "b", "a")),
        )
    )
    assert [(each.severity, each.rule, each.target) for each in report.findings] == [
        (Severity.ERROR, "z", "t"),
        (Severity.WARNING, "b", "a"),
        (Severity.WARNING, "b", "x"),
        (Severity.INFO, "a", "t"),
    ]
    assert [report.count(each) for each in Severity] == [1, 2, 1]


def make_report() -> Report:
    envelope: Envelope[Any] = Envelope(
        "list_nodes",
        Status.PARTIAL,
        Reason.NODE_UNREACHABLE,
        "host:1 cannot be reached, password=hidden7",
        ROWS,
        truncated=True,
        row_limit=2,
        next_cursor="abc",
        nodes=Nodes(("host:0", "host:1"), ("host:0",), (FailedNode(2, "host:1", "node_unreachable: no"),)),
        warnings=(HOSTILE,),
        ordering=("name",),
        facts={"total": 2, HOSTILE: [HOSTILE]},
    )
    bad = finding(Severity.ERROR, "node_unreachable", HOSTILE)
    looks = (Look(envelope, 12.0, (bad,)), make_look(Status.UNAVAILABLE, name="citus_tenant_hotspots"))
    return Report(looks, (Skipped("list_shards", "it needs table"),), "host=x password=hidden7", "2026-01-01T00:00:00Z")


def test_document_follows_the_schema_and_holds_no_password_of_its_own_words() -> None:
    document = to_document(make_report(), "harness inspect --all --dsn password=hidden7")
    jsonschema.validate(document, load_schema("inspect-1"), cls=jsonschema.Draft202012Validator)
    text = json.dumps(document, allow_nan=False)
    text.encode()
    assert "hidden7" not in document["place"] + document["command"]
    assert document["verdict"].startswith("1 error, 0 warnings, 0 infos; 0 of 2 inspectors answered in full")
    assert document["inspectors"][0]["rows"][1]["name"] == HOSTILE.replace("\ud800", "\ufffd")
    jsonschema.validate(document["inspectors"][0], envelope_schema(Row), cls=jsonschema.Draft202012Validator)


def test_schema_refuses_a_status_without_its_reason() -> None:
    document = to_document(make_report(), "")
    document["inspectors"][1]["reason"] = None
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, load_schema("inspect-1"), cls=jsonschema.Draft202012Validator)


def test_page_escapes_shows_and_loads_nothing() -> None:
    text = to_inspect_page(make_report(), "harness inspect --all")
    page = etree.HTML(text.encode())
    assert "hidden7" not in text
    assert "<b>\\x1b" not in text
    assert "\u202e" not in text
    for path in (
        "//script",
        "//img",
        "//link[not(starts-with(@href, 'data:'))]",
        "//@onclick",
        "//b[contains(., 'drop')]",
    ):
        assert page.xpath(path) == [], path
    assert page.xpath("string(//section[@id='verdict']/h1)") == "✗ Findings"
    assert page.xpath("string(//*[@id='list_nodes']/following::table[1]/tbody/tr[1]/td[1])") == "one"


def test_terminal_shows_records_where_a_table_is_too_wide() -> None:
    def text(width: int) -> str:
        console = Console(width=width, force_terminal=False, color_system=None)
        with console.capture() as capture:
            console.print(show_look(make_report().looks[0]))
            console.print(show_report(make_report()))
        return capture.get()

    wide, narrow = text(400), text(60)
    assert "row 2" in narrow
    assert "row 2" not in wide
    for shown in (wide, narrow):
        assert "\x1b" not in shown
        assert "hidden7" not in shown
        assert "there are more: --cursor abc" in shown
    assert "late" not in wide  # None in every row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NOTHING),
        (True, "yes"),
        (False, "no"),
        (1234567, "1234567"),
        (0.5, "0.5"),
        (12345678.0, "12345678"),
        ("a\nb", "a\\nb"),
        ((), NOTHING),
        (("a", 1), "a, 1"),
        (tuple(range(10)), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
        ({"a": 1, "b": None}, f"a=1; b={NOTHING}"),
        (Part(3, "x"), "number=3; word=x"),
        ((Part(3),), f"(number=3; word={NOTHING})"),
        (Status.OK, "ok"),
    ],
)
def test_cell_shows_a_value_as_text(value: object, text: str) -> None:
    assert show(value) == text


def test_schema_of_a_row_takes_what_the_row_becomes_and_nothing_else() -> None:
    schema = schema_of(Row)
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = to_json(ROWS[0])
    for row in ROWS:
        jsonschema.validate(to_json(row), schema, cls=jsonschema.Draft202012Validator)
    for name, value in (
        ("count", "1"),
        ("share", None),
        ("state", "fine"),
        ("kind", "c"),
        ("pair", ["x"]),
        ("pair", ["x", 1, 2]),
        ("parts", [{"number": 1}]),
        ("by_node", {"n": "1"}),
        ("more", 1),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(valid | {name: value}, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_that_json_does_not_have_is_null(value: float) -> None:
    assert to_json({"a": value}) == {"a": None}


def test_what_has_no_json_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="set has no JSON"):
        to_json({1, 2})
    with pytest.raises(TypeError, match="has no JSON schema"):
        schema_of(set[int])


@pytest.mark.parametrize("name", registry.names())
def test_every_row_has_a_schema_and_its_ordering_is_made_of_fields(name: str) -> None:
    inspector = registry.get(name)
    schema = schema_of(inspector.row)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {each.removeprefix("-") for each in inspector.ordering} <= set(schema["properties"])
    assert inspector.ordering
