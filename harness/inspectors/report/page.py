"""The page of a report: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness import __version__
from harness.inspectors import registry
from harness.inspectors.contract import Severity, Status
from harness.inspectors.report.cells import columns, is_number, lines, show
from harness.inspectors.report.document import describe_report
from harness.inspectors.report.model import Look, Report
from harness.report.page import make_environment
from harness.report.text import show_ms, visible

# What a person can read; the JSON document beside the page holds all.
_MOST_ROWS = 200
_GOOD = {Status.OK: "passed", Status.PARTIAL: "skipped", Status.UNAVAILABLE: "skipped", Status.ERROR: "failed"}


@dataclass(frozen=True)
class Column:
    """A column's name, and whether it is aligned to the right."""

    name: str
    is_number: bool


@dataclass(frozen=True)
class Section:
    """One inspector as its section shows it."""

    look: Look
    summary: str
    css: str
    took: str
    columns: tuple[Column, ...]
    lines: tuple[list[str], ...]
    unlisted: int
    facts: tuple[tuple[str, str], ...]


def to_inspect_page(report: Report, command: str) -> str:
    """The report as one self-contained HTML page.

    Args:
        report: of one or more looks.
        command: the command that repeats it, without a password.

    Returns:
        HTML that loads nothing: the style is inside, there is no script, and its own content policy forbids the
        rest. Every text from outside is escaped, and its unseen characters are made visible.
    """
    return (
        make_environment()
        .get_template("inspect.html.j2")
        .render(
            report=report,
            version=__version__,
            command=visible(command),
            verdict=describe_report(report),
            title={0: "Fine", 1: "Findings"}.get(report.exit_code, "Could not look"),
            tiles=_tiles(report),
            sections=tuple(_sections(report)),
        )
    )


def _tiles(report: Report) -> tuple[tuple[str, str, str], ...]:
    answered = sum(look.envelope.status is Status.OK for look in report.looks)
    enforced = {look.envelope.readonly_enforced for look in report.looks}
    read_only = "no" if False in enforced else "yes" if True in enforced else "unknown"
    return (
        ("Errors", str(report.count(Severity.ERROR)), "broken, blocked or unsafe now"),
        ("Warnings", str(report.count(Severity.WARNING)), "will hurt, or hurts and goes on"),
        ("Infos", str(report.count(Severity.INFO)), "good to know"),
        ("Answered in full", f"{answered} of {len(report.looks)}", "inspectors; the others say why"),
        ("Read-only role", read_only, "on every node (harness inspect setup-role)"),
    )


def _sections(report: Report) -> Iterator[Section]:
    for look in report.looks:
        rows = look.envelope.rows
        names = columns(rows)
        yield Section(
            look,
            registry.get(look.envelope.name).summary,
            _GOOD[look.envelope.status],
            show_ms(look.elapsed_ms),
            tuple(Column(name, any(is_number(getattr(row, name)) for row in rows)) for name in names),
            tuple(lines(rows[:_MOST_ROWS], names)),
            max(len(rows) - _MOST_ROWS, 0),
            tuple(_facts(look.envelope.facts)),
        )


def _facts(facts: Any) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        yield visible(str(name)), show(value)
