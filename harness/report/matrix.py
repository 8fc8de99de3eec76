"""A run of the matrix as a JSON document, a JUnit file, a page, and a table for the terminal."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET  # written here, never parsed

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness import __version__
from harness.logs import redact
from harness.matrix.model import SCHEMA, MatrixResult, RowResult
from harness.rehearsal.model import Verdict
from harness.report.junit_parts import add_outcome, counted, seconds, written, xml_text
from harness.report.page import make_environment
from harness.report.text import finite, show_count, show_s, visible, without_surrogates

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "yellow"}


def describe_matrix(result: MatrixResult) -> str:
    """The verdict in one sentence that claims nothing that was not run."""
    total = len(result.rows)
    failed, skipped = result.count(Verdict.FAILED), result.count(Verdict.SKIPPED)
    parts = [f"{result.count(Verdict.PASSED)} of {show_count(total, 'row')} passed"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{skipped} skipped ({visible(result.missing)})"] if skipped else []
    return f"{', '.join(parts)}; {show_s(result.elapsed_s)} in all, {show_s(result.start_s)} of it the servers' start."


def to_matrix_document(result: MatrixResult, command: str) -> dict[str, Any]:
    """The result as a JSON document.

    Args:
        result: of one run.
        command: the command that repeats it.

    Returns:
        Only dicts, lists, texts that UTF-8 can hold, booleans and finite numbers.
    """
    return {
        "schema": SCHEMA,
        "harness_version": __version__,
        "passed": result.passed,
        "verdict": describe_matrix(result),
        "started_at": result.started_at,
        "elapsed_s": finite(result.elapsed_s),
        "start_s": finite(result.start_s),
        "missing": _text(result.missing),
        "command": _text(command),
        "facts": {name: _text(value) for name, value in result.facts.items()},
        "rows": [_row_document(row) for row in result.rows],
    }


def _row_document(row: RowResult) -> dict[str, Any]:
    return {
        "number": row.number,
        "name": row.name,
        "title": row.title,
        "verdict": row.verdict.value,
        "claim": row.claim,
        "reality": row.reality,
        "finding": row.finding.value,
        "topology": {_text(fact): _text(seen) for fact, seen in row.topology.items()},
        "counts": dict(row.counts),
        "elapsed_s": finite(row.elapsed_s),
        "reason": _text(row.reason),
    }


def _text(text: str) -> str:
    return without_surrogates(redact(text))


def to_matrix_junit(result: MatrixResult, command: str) -> bytes:
    """The result as a JUnit XML document in UTF-8: each row a test case, its topology in ``system-out``.

    Args:
        result: of one run.
        command: the command that repeats it.
    """
    root = ET.Element("testsuites", name="harness matrix", time=seconds(result.elapsed_s))
    suite = ET.Element(
        "testsuite", name="matrix", time=seconds(result.elapsed_s), timestamp=xml_text(result.started_at)
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (("command", command), *result.facts.items()):
        ET.SubElement(properties, "property", name=xml_text(name), value=xml_text(value))
    for row in result.rows:
        case = ET.SubElement(
            suite, "testcase", classname="matrix", name=f"row_{row.number:02}_{row.name}", time=seconds(row.elapsed_s)
        )
        add_outcome(case, row.verdict, row.reason, kind="matrix")
        if row.topology:
            lines = "\n".join(f"{fact}: {seen}" for fact, seen in row.topology.items())
            ET.SubElement(case, "system-out").text = xml_text(lines, multiline=True)
    return written(root, [counted(suite)])


def to_matrix_page(result: MatrixResult, command: str) -> str:
    """The result as one self-contained HTML page (as `harness.report.to_page`: it loads nothing, and escapes all).

    Args:
        result: of one run.
        command: the command that repeats it.
    """
    return (
        make_environment()
        .get_template("matrix.html.j2")
        .render(result=result, version=__version__, command=visible(command), verdict=describe_matrix(result))
    )


def print_matrix(result: MatrixResult, console: Console) -> None:
    """A table of the rows, why rows failed or were skipped, and the verdict."""
    table = Table(
        title="The plan's matrix (P7.2)", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("row", justify="right", header_style="dim")
    for name in ("sources and stream table", "topology proven", "verdict"):
        table.add_column(name, header_style="dim", overflow="fold")
    table.add_column("time", justify="right", header_style="dim", no_wrap=True)
    for row in result.rows:
        time = show_s(row.elapsed_s) if row.verdict is not Verdict.SKIPPED else ""
        verdict = Text(row.verdict.value, style=_STYLES[row.verdict])
        table.add_row(str(row.number), Text(row.title), Text(describe_topology(row)), verdict, time)
    console.print(table)
    for row in result.rows:
        if row.verdict is Verdict.FAILED:
            head = (f"row {row.number} failed: ", "bold red")
            console.print(Text.assemble(head, visible(row.reason, multiline=True)), soft_wrap=True)
    if result.missing:
        console.print(Text.assemble(("missing: ", "yellow"), visible(result.missing)), soft_wrap=True)
    word, style = ("PASSED", "green") if result.passed else ("FAILED", "red")
    console.print(Panel(Text.assemble((word, f"bold {style}"), "\n", describe_matrix(result)), border_style=style))


def describe_topology(row: RowResult) -> str:
    """Where the tables were proven to be, in a line; empty for a row that did not pass."""
    parts = [row.topology[key] for key in ("cluster", "tables") if key in row.topology]
    return visible(": ".join(parts))
