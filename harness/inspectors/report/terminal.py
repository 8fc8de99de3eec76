"""What inspectors saw, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.inspectors.contract import Envelope, Finding, Severity, Status
from harness.inspectors.report.cells import columns, is_number, lines, show
from harness.inspectors.report.document import describe_report
from harness.inspectors.report.model import Look, Report
from harness.report.text import show_ms, visible

_STYLES = {Status.OK: "green", Status.PARTIAL: "yellow", Status.UNAVAILABLE: "yellow", Status.ERROR: "bold red"}
_SEVERITIES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


def show_look(look: Look) -> RenderableType:
    """One inspector's answer: its status if it is not ok, its facts, its rows, what to act on."""
    return Group(*_parts(look))


def _parts(look: Look) -> Iterator[RenderableType]:
    envelope = look.envelope
    yield from _status(envelope, look.elapsed_ms)
    if envelope.facts:
        facts = Table(show_header=False, box=None)
        for name, value in envelope.facts.items():
            facts.add_row(escape(visible(str(name))), escape(show(value)))
        yield facts
    if envelope.rows:
        yield _Rows(envelope.rows)
    elif envelope.status is Status.OK:
        yield Text("nothing there")
    if envelope.truncated:
        yield Text(f"there are more: --cursor {envelope.next_cursor}", style="yellow")
    yield from show_findings(look.findings)


class _Rows:
    """Rows as a table, or, where that is wider than the terminal, one below the other as psql's ``\\x auto`` has it."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows
        self._names = columns(rows)
        self._lines = list(lines(rows, self._names))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = (max(cell_len(text) for text in column) for column in zip(self._names, *self._lines, strict=True))
        if sum(width + len(" |  ") - 1 for width in widths) + 1 <= options.max_width:
            yield self._table()
            return
        for number, line in enumerate(self._lines, start=1):
            yield Text(f"row {number}", style="bold")
            record = Table(show_header=False, box=None, padding=(0, 1))
            record.add_column(no_wrap=True)
            record.add_column(overflow="fold")
            for name, text in zip(self._names, line, strict=True):
                record.add_row(name, escape(text))
            yield record

    def _table(self) -> Table:
        table = Table()
        for name in self._names:
            is_right = any(is_number(getattr(row, name)) for row in self._rows)
            table.add_column(name, justify="right" if is_right else "left", no_wrap=True)
        for line in self._lines:
            table.add_row(*(escape(text) for text in line))
        return table


def _status(envelope: Envelope[Any], elapsed_ms: float) -> Iterator[RenderableType]:
    words = f"{envelope.name}: {envelope.status.value}"
    words += f" ({envelope.reason.value})" if envelope.reason else ""
    words += f", {show_ms(elapsed_ms)}"
    yield Text(words, style=_STYLES[envelope.status])
    if envelope.message:
        yield Text(f"  {visible(envelope.message)}")
    for node in envelope.nodes.failed:
        yield Text(f"  {visible(node.node)}: {visible(node.reason)}", style="yellow")
    for warning in envelope.warnings:
        yield Text(f"  {visible(warning)}", style="yellow")


def show_findings(findings: Sequence[Finding]) -> Iterator[Text]:
    """A line each, and what to do about it."""
    for each in findings:
        line = Text(f"{each.severity.value} ", style=_SEVERITIES[each.severity])
        line.append(f"{each.rule} {visible(each.target)}: {visible(each.title)}", style="default")
        line.append(f" ({visible(each.evidence)})" if each.evidence else "", style="default")
        line.append(f"\n    {visible(each.suggestion)}" if each.suggestion else "", style="dim")
        yield line


def show_report(report: Report) -> RenderableType:
    """All looks, a line each; the findings; the verdict."""
    title = f"inspectors of {escape(visible(report.place))}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for name in ("inspector", "status", "reason", "rows", "took"):
        table.add_column(name, justify="right" if name in {"rows", "took"} else "left", no_wrap=True)
    told: list[Text] = []
    for look in report.looks:
        envelope = look.envelope
        silent = ", ".join(visible(node.node) for node in envelope.nodes.failed)
        table.add_row(
            envelope.name,
            Text(envelope.status.value, style=_STYLES[envelope.status]),
            envelope.reason.value if envelope.reason else "",
            f"{len(envelope.rows)}{'+' if envelope.truncated else ''}",
            show_ms(look.elapsed_ms),
        )
        if words := envelope.message or (f"no answer from {silent}" if silent else ""):
            told.append(Text(f"{envelope.name}: {visible(words)}", style=_STYLES[envelope.status]))
    for each in report.skipped:
        table.add_row(each.name, Text("not asked", style="dim"), "", "", "")
        told.append(Text(f"{each.name}: {visible(each.why)}", style="dim"))
    style = "bold green" if report.passed else "bold red"
    return Group(table, *told, *show_findings(report.findings), Text(describe_report(report), style=style))
