"""``harness matrix``: the plan's ten rows on a cluster of their own, as a table, JSON, JUnit and a page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from harness.cli.summary import SummaryFile, errors_told_in, require_place, write_summary
from harness.errors import EXIT_CHECK_FAILED, EXIT_ENVIRONMENT
from harness.matrix.model import Row
from harness.matrix.run import choose_rows, run_matrix
from harness.rehearsal.model import Verdict
from harness.report.document import dump_document
from harness.report.markdown import matrix_markdown
from harness.report.matrix import print_matrix, to_matrix_document, to_matrix_junit, to_matrix_page
from harness.report.write import write_file
from harness.settings import load_settings


def matrix(
    *,
    row: Annotated[
        list[int] | None, typer.Option("--row", "-r", help="Only this row, by its number; may be given again.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|containers|DSN",
            help="What the cluster is made of; default HARNESS_CLUSTER, else local processes where Citus is installed, "
            "else containers.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit file.", metavar="FILE")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page.", metavar="FILE")] = None,
    summary: SummaryFile = None,
) -> None:
    """Run the plan's ten-row matrix on a cluster of 1+2: each row proves its topology, works, and is compared.

    Without Citus row 1 runs on plain PostgreSQL and the others are skipped, with the reason.

    Exit codes: 0 passed, 1 a row failed, 2 bad input, 3 the environment (with HARNESS_REQUIRE_CITUS=1: no Citus).
    """
    chosen = choose_rows(row or ())
    for option, path in (("--junit", junit), ("--html", html), ("--summary", summary)):
        require_place(option, path)
    errors = Console(stderr=True, highlight=False)
    with errors_told_in(summary, "harness matrix"), errors.status("starting the servers") as status:

        def on_row(each: Row) -> None:
            status.update(Text(f"row {each.number}: {each.title}"))

        result = run_matrix(chosen, cluster=cluster, on_row=on_row)
    command = command_to_repeat(row or (), cluster, as_json, junit, html)
    if junit is not None:
        write_file(junit, to_matrix_junit(result, command), option="--junit")
    if html is not None:
        write_file(html, to_matrix_page(result, command).encode(), option="--html")
    write_summary(summary, matrix_markdown(result, command))
    if as_json:
        sys.stdout.buffer.write(dump_document(to_matrix_document(result, command)).encode())
        sys.stdout.buffer.flush()
    print_matrix(result, errors if as_json else Console(highlight=False))
    if not result.passed:
        # What failed or did not run for want of Citus says nothing about the rows.
        lacks = bool(result.missing) and (load_settings().require_citus or not result.count(Verdict.FAILED))
        raise typer.Exit(EXIT_ENVIRONMENT if lacks else EXIT_CHECK_FAILED)


def command_to_repeat(
    rows: list[int] | tuple[()], cluster: str | None, as_json: bool, junit: Path | None, html: Path | None
) -> str:
    """The command line that repeats a run."""
    words = ["harness", "matrix"]
    for number in rows:
        words += ["--row", str(number)]
    # A DSN may hold a password: in a report stands what takes its place.
    words += ["--cluster", cluster if cluster in ("local", "containers") else "DSN"] if cluster else []
    words += ["--json"] if as_json else []
    for option, path in (("--junit", junit), ("--html", html)):
        words += [option, str(path)] if path is not None else []
    return shlex.join(words)
