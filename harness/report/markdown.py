"""A result as Markdown: what a pipeline shows on its own page, beside the files of the report.

GitHub, GitLab and others each have a dialect. What is written here is the part that they share: headings, tables of
pipes, and HTML's ``code``, ``pre`` and ``details``. A name in a database may hold anything: every character that means
something in any of the dialects is written as its number (CommonMark 0.31, 2.5: a character reference never makes
structure), so that no name opens a link, a row or a tag.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError, PreflightError, RefusedError
from harness.matrix.model import MatrixResult, RowResult
from harness.rehearsal.model import RehearsalResult, RevisionRun, Verdict
from harness.report.figures import (
    count_checks,
    describe_verdict,
    failed_checks,
    failed_steps,
    longest_stall,
    summarise_sources,
)
from harness.report.matrix import describe_matrix, describe_topology
from harness.report.text import NOTHING, show_count, show_ms, show_s, visible

# What stands before a verdict: a job's page is skimmed, not read.
_SIGNS = {"passed": "\u2705", "failed": "\u274c", "refused": "\u26d4", "skipped": "\u26a0\ufe0f"}
# GitHub refuses a job's summary of more than 1 MiB (docs.github.com, "Workflow commands", job summaries). Each text is
# clipped and each list ends, which makes some 50 kB at most as a rule; what is beyond this is cut between two blocks.
MOST_BYTES = 1_000_000
# The table of the public extension's 71 versions, neighbours together, has 61 (docs/upgrading-pg-trickle.md).
_MOST_ROWS = 80
_MOST_PROBLEMS = 20
_MOST_CHARACTERS = 400
_MOST_LINES_CHARACTERS = 4000
# Markup, mentions, formulas, pictures by name and bare links; a number with . or ) may begin a list.
_MEANS_SOMETHING = re.compile(r"[!#$&*+:<>@\[\\\]^_`{|}~-]|(?<=\d)[.)](?=\s)|(?<=[wW])\.")


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand at the right, names from a database in ``code``."""

    name: str
    is_number: bool = False
    is_name: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a title; a cell is any text, and is escaped where it is written."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong, with what (a name from a database, perhaps), and what to do about it.

    Attributes:
        message: what is wrong; of several lines, such as a traceback, it is shown as it is.
        subject: what it is about; may be empty.
        hint: what to do; may be empty.
    """

    message: str
    subject: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Summary:
    """What a job's page says, in this order.

    Attributes:
        title: what ran, such as ``harness rehearse``.
        outcome: ``passed``, ``failed``, ``refused`` or ``skipped``.
        verdict: one or two sentences.
        advice: what to do about all of it; may be empty.
        problems: what is wrong; listed before the figures.
        tables: steps, rows, figures.
        notes: what one should know beside it; folded away.
        command: what repeats it; may be empty.
    """

    title: str
    outcome: str
    verdict: str
    advice: str = ""
    problems: tuple[Problem, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""


def escape(text: str) -> str:
    """A text on one line, with every character that Markdown or HTML would read written as its number."""
    short = _clipped(visible(text.strip()), _MOST_CHARACTERS)
    return _MEANS_SOMETHING.sub(lambda match: f"&#{ord(match[0])};", short)


def code(text: str) -> str:
    """A name or command as ``code``: no mention, no picture and no formula is made of what is in it."""
    return f"<code>{escape(text)}</code>" if text else ""


def render(summary: Summary) -> str:
    """The whole page, the verdict first.

    Returns:
        Markdown of at most `MOST_BYTES` bytes in UTF-8, with a line end at its end.
    """
    sign = _SIGNS.get(summary.outcome, "")
    blocks = [f"## {sign} {escape(summary.title)}: {escape(summary.outcome)}", escape(summary.verdict)]
    if summary.advice:
        blocks.append(f"**What to do:** {escape(summary.advice)}")
    if summary.problems:
        blocks.append("### What is wrong")
        blocks += [_problem(problem) for problem in summary.problems[:_MOST_PROBLEMS]]
        blocks += _more(len(summary.problems) - _MOST_PROBLEMS, "more, all in the report")
    for table in summary.tables:
        blocks += [f"### {escape(table.title)}", _table(table)]
        blocks += _more(len(table.rows) - _MOST_ROWS, "more, all in the report")
    if summary.notes:
        listed = [f"- {escape(note)}" for note in summary.notes[:_MOST_ROWS]]
        listed += _more(len(summary.notes) - _MOST_ROWS, "more, all in the report")
        title = show_count(len(summary.notes), "note")
        blocks.append("\n".join([f"<details><summary>{title}</summary>", "", *listed, "", "</details>"]))
    if summary.command:
        blocks.append(f"Again: {code(summary.command)}")
    return _bounded(blocks)


def _more(count: int, words: str) -> list[str]:
    return [f"and {count:,} {words}"] if count > 0 else []


def _bounded(blocks: Iterable[str]) -> str:
    """The blocks, as many as fit: a page that is too long is not shown at all."""
    kept: list[str] = []
    size = 0
    for block in blocks:
        size += len(block.encode()) + 2
        if size > MOST_BYTES:
            kept.append("The rest is in the report.")
            break
        kept.append(block)
    return "\n\n".join(kept) + "\n"


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _problem(problem: Problem) -> str:
    subject = code(problem.subject)
    if "\n" in problem.message.strip():
        # An HTML block of this kind ends at its closing tag only, empty lines included (CommonMark 0.31, 4.6).
        lines = _clipped(visible(problem.message.strip(), multiline=True), _MOST_LINES_CHARACTERS)
        parts = [subject, f"<pre>{html.escape(lines)}</pre>", escape(problem.hint)]
        return "\n\n".join(part for part in parts if part)
    told = f"- {subject}{': ' if subject else ''}{escape(problem.message)}"
    return f"{told}<br>{escape(problem.hint)}" if problem.hint else told


def _table(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [
        line(escape(column.name) for column in table.columns),
        line("---:" if column.is_number else "---" for column in table.columns),
    ]
    for row in table.rows[:_MOST_ROWS]:
        pairs = zip(table.columns, row, strict=True)
        lines.append(line(code(cell) if column.is_name else escape(cell) for column, cell in pairs))
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------- what ran


def rehearsal_markdown(result: RehearsalResult, command: str) -> str:
    """A rehearsal for a job's page: the verdict, what failed and what to do, the figures, steps and revisions.

    Args:
        result: of one rehearsal.
        command: the command that repeats it, without a password.
    """
    counts = count_checks(result.checks)
    stall = longest_stall(result)
    figures = (
        ("Upgrade", show_s(result.upgrade_s), f"of {show_count(result.sources, 'source')}"),
        ("Longest stall", show_ms(stall), "of one write during a revision" if stall is not None else "nobody wrote"),
        ("Checks", f"{counts.passed:,} of {counts.total:,}", f"held; {counts.skipped:,} skipped"),
        ("Written meanwhile", f"{result.writes:,}", "transactions of live writers"),
        ("Data", f"{result.rows:,}", f"rows; {show_count(result.stream_tables, 'stream table')}"),
        ("Whole rehearsal", show_s(result.elapsed_s), f"from {result.source_dsn}"),
    )
    steps = tuple((step.name, step.verdict.value, show_s(step.elapsed_s), step.detail) for step in result.steps)
    tables = [
        Table("Figures", (Column(""), Column("", is_number=True), Column("")), figures),
        Table("Steps", (Column("step"), Column("verdict"), Column("took", is_number=True), Column("")), steps),
    ]
    if result.revisions:
        tables.append(_revisions(result.revisions))
    summary = Summary(
        title="harness rehearse",
        outcome="passed" if result.passed else "failed",
        verdict=describe_verdict(result),
        problems=_rehearsal_problems(result),
        tables=tuple(tables),
        notes=result.warnings,
        command=command,
    )
    return render(summary)


def _rehearsal_problems(result: RehearsalResult) -> tuple[Problem, ...]:
    look = "repeat it with the command below and --keep, and look at this object in the copy"
    steps = [Problem(step.detail or "it failed", subject=step.name) for step in failed_steps(result)]
    checks = [
        Problem(f"{check.name} after {check.phase}: {check.detail or 'no detail was given'}", check.subject, hint=look)
        for check in failed_checks(result)
    ]
    return (*steps, *checks)


def _revisions(runs: Sequence[RevisionRun]) -> Table:
    names = ("took", "sources", "ms a source (median / most)", "retries", "pending", "longest stall")
    rows = []
    for run in runs:
        times = summarise_sources(run)
        rows.append(
            (
                f"{run.revision} {run.direction}",
                show_s(run.ended_s - run.started_s),
                f"{run.sources_moved:,}",
                f"{times.median_ms:.1f} / {times.max_ms:.1f}" if times else NOTHING,
                f"{run.lock_retries:,}",
                f"{run.pending_rows:,}",
                show_ms(run.longest_stall_ms),
            )
        )
    return Table("Revisions", (Column("revision"), *(Column(name, is_number=True) for name in names)), tuple(rows))


def matrix_markdown(result: MatrixResult, command: str) -> str:
    """A run of the matrix for a job's page: the verdict, what failed and what to do, and the rows.

    Args:
        result: of one run.
        command: the command that repeats it.
    """
    problems = [_row_problem(row) for row in result.rows if row.verdict is Verdict.FAILED]
    if result.missing:
        problems.append(Problem(result.missing, hint="harness doctor says what is here and how to get the rest"))
    columns = (
        Column("row", is_number=True),
        Column("sources and stream table"),
        Column("topology proven"),
        Column("rows"),
        Column("verdict"),
        Column("took", is_number=True),
    )
    rows = tuple(
        (
            str(row.number),
            row.title,
            describe_topology(row),
            ", ".join(f"{name} {count:,}" for name, count in row.counts.items()),
            row.verdict.value,
            show_s(row.elapsed_s) if row.verdict is not Verdict.SKIPPED else NOTHING,
        )
        for row in result.rows
    )
    nothing_ran = not result.passed and not result.count(Verdict.FAILED)
    summary = Summary(
        title="harness matrix",
        outcome="passed" if result.passed else "skipped" if nothing_ran else "failed",
        verdict=describe_matrix(result),
        problems=tuple(problems),
        tables=(Table("Rows", columns, rows),),
        notes=tuple(f"{name}: {value}" for name, value in result.facts.items()),
        command=command,
    )
    return render(summary)


def _row_problem(row: RowResult) -> Problem:
    return Problem(
        row.reason or "no reason was given",
        subject=f"row {row.number}: {row.title}",
        hint=f"run it alone: harness matrix --row {row.number}",
    )


def error_markdown(title: str, error: HarnessError) -> str:
    """What could not be carried to its end, for a job's page: the reason, each finding, and what to do.

    Args:
        title: what was asked for, such as ``harness rehearse``.
        error: why there is no result.
    """
    findings = error.findings if isinstance(error, PreflightError) else ()
    is_refused = isinstance(error, RefusedError)
    node = f" [{error.node}]" if error.node else ""
    summary = Summary(
        title=title,
        outcome="refused" if is_refused else "failed",
        verdict=f"{'Refused' if is_refused else 'It could not be carried to its end'}{node}: {error.message}",
        advice=error.hint,
        problems=tuple(Problem(f"{one.code}: {one.message}", subject=one.subject, hint=one.hint) for one in findings),
    )
    return render(summary)
