"""A rehearsed update of the extension as a JSON document, a JUnit file, a page, Markdown, and a terminal's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET  # written here, never parsed

from rich.console import Console
from rich.panel import Panel
from rich.table import Table as TerminalTable
from rich.text import Text

from harness import __version__
from harness.logs import redact
from harness.rehearsal.extension.model import (
    EVERY,
    SCHEMA,
    StepRun,
    UpdateResult,
    VersionFindings,
    after_failed,
    arrived,
)
from harness.rehearsal.model import CheckResult, Verdict
from harness.report.document import dump_document
from harness.report.extension_versions import COLUMNS, version_rows
from harness.report.figures import count_checks
from harness.report.junit_parts import add_outcome, counted, seconds, written, xml_text
from harness.report.markdown import Column, Problem, Summary, Table, render
from harness.report.page import make_environment
from harness.report.text import finite, show_count, visible, without_surrogates
from harness.report.write import ReportPaths, prepare_directory, write_file

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim"}
_MOST_SHOWN = 20


def describe_update(result: UpdateResult) -> str:
    """The verdict in words: one or two sentences that claim nothing that was not checked."""
    failed = [step for step in result.steps if step.verdict is Verdict.FAILED]
    if result.start == EVERY:
        return _describe_every(result, failed)
    span = f"pg_trickle {visible(result.start)} to {visible(result.target)} in {show_count(len(result.steps), 'step')}"
    if result.passed:
        counts = count_checks(result.checks)
        return f"{span}: every step passed, and {show_count(counts.passed, 'check')} held at or on the way to it."
    if failed:
        step = failed[0]
        return f"{span}: the step to {visible(step.target)} failed: {visible(step.detail)}."
    return f"{span}: every step passed, and {_first_deciding(result)}."


def _describe_every(result: UpdateResult, failed: Sequence[StepRun]) -> str:
    span = f"pg_trickle {visible(result.target)} from each of {show_count(len(result.steps), 'version')}"
    if result.passed:
        return f"{span}: every update passed, and all that decides held."
    phases = {check.phase for check in result.deciding}
    ends = [
        step
        for step in result.steps
        if step in failed
        or phases & {step.start, arrived(step.start, step.target), after_failed(step.start, step.target)}
    ]
    said = [f"{show_count(len(ends), 'version')} of them do not end well"]
    if failed:
        step = failed[0]
        said.append(
            f"{show_count(len(failed), 'update')} failed, first from {visible(step.start)}: {visible(step.detail)}"
        )
    if result.deciding:
        said.append(_first_deciding(result))
    return f"{span}: {'; '.join(said)}."


def _first_deciding(result: UpdateResult) -> str:
    deciding = result.deciding
    first = deciding[0]
    return (
        f"{show_count(len(deciding), 'check')} failed, first {visible(first.name)} of {visible(first.subject)}"
        f" at {visible(first.phase)}: {visible(first.detail)}"
    )


def to_update_document(result: UpdateResult, command: str) -> dict[str, Any]:
    """The result as a JSON document, which follows ``harness/report/schema/extension-update-1.json``.

    Args:
        result: of one rehearsed update.
        command: the command that repeats it, without a password.
    """
    counts = count_checks(result.checks)
    return {
        "schema": SCHEMA,
        "harness_version": __version__,
        "passed": result.passed,
        "verdict": _text(describe_update(result)),
        "source_dsn": _text(result.source_dsn),
        "from_version": result.start,
        "to_version": result.target,
        "library_version": result.library_version,
        "seed": result.seed,
        "command": _text(command),
        "started_at": result.started_at,
        "elapsed_s": finite(result.elapsed_s),
        "rows": result.rows,
        "writes": result.writes,
        "steps": [_step(step) for step in result.steps],
        "versions": [_version(found) for found in result.versions],
        "check_counts": {
            "passed": counts.passed,
            "failed": counts.failed,
            "skipped": counts.skipped,
            "deciding": len(result.deciding),
        },
        "checks": [_check(check) for check in result.checks],
        "stalls": [
            {"source": _text(one.source), "stall_ms": finite(one.stall_ms, 3), "during": one.revision}
            for one in result.stalls
        ],
        "warnings": [_text(warning) for warning in result.warnings],
        "facts": {name: _text(value) for name, value in result.facts.items()},
    }


def _step(step: StepRun) -> dict[str, Any]:
    return {
        "from_version": step.start,
        "to_version": step.target,
        "verdict": step.verdict.value,
        "started_s": finite(step.started_s),
        "elapsed_s": finite(step.elapsed_s),
        "longest_stall_ms": finite(step.longest_stall_ms, 3),
        "detail": _text(step.detail),
    }


def _version(found: VersionFindings) -> dict[str, Any]:
    return {
        "version": found.version,
        "fresh": _text(found.fresh),
        "differences": None if found.differences is None else [_text(line) for line in found.differences],
        "functions": [
            {
                "identity": _text(one.identity),
                "state": one.state.value,
                "sqlstate": one.sqlstate,
                "message": _text(one.message),
                "fails_in_fresh": one.identity in found.failing_in_fresh,
            }
            for one in found.functions
        ],
        "new_stream_table": _text(found.new_stream_table),
        "stream_tables": found.stream_tables,
        "refreshed": found.refreshed,
    }


def _check(check: CheckResult) -> dict[str, Any]:
    return {
        "name": check.name,
        "version": check.phase,
        "subject": _text(check.subject),
        "verdict": check.verdict.value,
        "detail": _text(check.detail),
        "was_wrong_before": check.was_wrong_before,
    }


def _text(text: str) -> str:
    return without_surrogates(redact(text))


def to_update_junit(result: UpdateResult, command: str) -> bytes:
    """The result as a JUnit XML document in UTF-8.

    Each step is a case, and each check of the last version and of writers and rows; a check in between that failed
    without deciding is skipped with its reason, since nobody stays at that version.
    """
    root = ET.Element("testsuites", name="harness rehearse --extension-update", time=seconds(result.elapsed_s))
    suite = ET.Element("testsuite", name="steps", time=seconds(result.elapsed_s), timestamp=xml_text(result.started_at))
    properties = ET.SubElement(suite, "properties")
    for name, value in (("command", command), ("source", result.source_dsn), *result.facts.items()):
        ET.SubElement(properties, "property", name=xml_text(name), value=xml_text(value))
    for step in result.steps:
        case = ET.SubElement(
            suite,
            "testcase",
            classname="extension.steps",
            name=xml_text(f"{step.start}..{step.target}"),
            time=seconds(step.elapsed_s),
        )
        add_outcome(case, step.verdict, step.detail, kind="step")
    suites = [counted(suite)]
    deciding = {(check.name, check.phase, check.subject) for check in result.deciding}
    for version in dict.fromkeys(check.phase for check in result.checks):
        checks = ET.Element("testsuite", name=xml_text(f"checks at {version}"), time="0")
        for check in (one for one in result.checks if one.phase == version):
            case = ET.SubElement(
                checks, "testcase", classname=f"extension.{check.name}", name=xml_text(check.subject), time="0"
            )
            decides = check.verdict is not Verdict.FAILED or (check.name, check.phase, check.subject) in deciding
            detail = check.detail if decides else f"between two versions, does not decide: {check.detail}"
            add_outcome(case, check.verdict if decides else Verdict.SKIPPED, detail, kind=check.name)
        suites.append(counted(checks))
    return written(root, suites)


def to_update_page(result: UpdateResult, command: str) -> str:
    """The result as one self-contained HTML page (as `harness.report.to_page`: it loads nothing, and escapes all)."""
    return (
        make_environment()
        .get_template("extension_update.html.j2")
        .render(
            result=result,
            version=__version__,
            command=visible(command),
            verdict=describe_update(result),
            columns=COLUMNS,
            rows=version_rows(result),
            failed=[check for check in result.checks if check.verdict is Verdict.FAILED],
            deciding=result.deciding,
        )
    )


def update_markdown(result: UpdateResult, command: str) -> str:
    """The result for a job's page: the verdict, what decides, and the table of versions."""
    columns = tuple(Column(name) for name in COLUMNS)
    steps = [Problem(step.detail, f"{step.start}..{step.target}") for step in result.steps if step.verdict == "failed"]
    checks = [Problem(f"{one.name} at {one.phase}: {one.detail}", one.subject) for one in result.deciding]
    return render(
        Summary(
            title="harness rehearse --extension-update",
            outcome="passed" if result.passed else "failed",
            verdict=describe_update(result),
            problems=(*steps, *checks),
            tables=(Table("Versions", columns, version_rows(result)),),
            notes=result.warnings,
            command=command,
        )
    )


def write_update_report(result: UpdateResult, directory: Path, command: str) -> ReportPaths:
    """Write ``report.html``, ``report.json`` and ``junit.xml``; files of those names are replaced.

    Raises:
        BadInputError, DiskFullError: they cannot be written.
    """
    directory = prepare_directory(directory)
    paths = ReportPaths(directory / "report.html", directory / "report.json", directory / "junit.xml")
    write_file(paths.document, dump_document(to_update_document(result, command)).encode())
    write_file(paths.junit, to_update_junit(result, command))
    write_file(paths.page, to_update_page(result, command).encode())
    return paths


def print_update(result: UpdateResult, paths: ReportPaths, command: str, console: Console) -> None:
    """The table of versions, what decides, the verdict, and where the report is."""
    table = TerminalTable(title="Versions", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in COLUMNS:
        table.add_column(name, header_style="dim", overflow="fold")
    for row in version_rows(result):
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(table)
    for warning in result.warnings:
        console.print(Text.assemble(("warning ", "yellow"), visible(warning)), soft_wrap=True)
    for check in result.deciding[:_MOST_SHOWN]:
        told = f"{check.name} at {visible(check.phase)}, {visible(check.subject)}: {visible(check.detail)}"
        console.print(Text.assemble(("failed ", _STYLES[Verdict.FAILED]), told), soft_wrap=True)
    if len(result.deciding) > _MOST_SHOWN:
        console.print(f"and {len(result.deciding) - _MOST_SHOWN:,} more, all in the report")
    word, style = ("PASSED", "green") if result.passed else ("FAILED", "red")
    console.print(Panel(Text.assemble((word, f"bold {style}"), "\n", describe_update(result)), border_style=style))
    for name, value in (("report", str(paths.page)), ("again", command)):
        console.print(Text.assemble((f"{name:7}", "dim"), visible(value)), soft_wrap=True)
