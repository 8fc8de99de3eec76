"""``harness st repair``: what is left of stream tables that are gone, and what capture lacks, is found and mended."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.database import connected, refused_in_words
from harness.cli.options import Dsn, Json
from harness.errors import EXIT_CHECK_FAILED, EXIT_GOOD
from harness.trickle.repair import RepairReport
from harness.trickle.repair import repair as run_repair

SCHEMA = "harness/st-repair/1"
Check = Annotated[bool, typer.Option("--check", help="Only look; leave with 1 if there is something.")]


def repair(*, check: Check = False, dsn: Dsn = None, as_json: Json = False) -> None:
    """Find and mend what faults left: orphans on any node, shards without triggers, capture that is broken."""
    with connected(dsn, name="harness st repair") as connection, refused_in_words("repair"):
        report = run_repair(connection, is_check=check)
    if as_json:
        typer.echo(json.dumps(_document(report)))
    else:
        _show(report)
    raise typer.Exit(EXIT_GOOD if report.passed else EXIT_CHECK_FAILED)


def _document(report: RepairReport) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "passed": report.passed,
        "checked_only": report.is_check,
        "found": len(report.findings),
        "mended": len(report.findings) - len(report.left),
        "findings": [asdict(finding) for finding in report.findings],
    }


def _show(report: RepairReport) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in report.findings:
        sign = "[green]mended[/green]" if finding.is_mended else "[red]left[/red]" if not report.is_check else "found"
        console.print(f"{sign}  {escape(str(finding))}")
    if not report.findings:
        console.print("nothing to mend")
    elif report.is_check:
        console.print(f"{len(report.findings)} to mend: harness st repair")
    elif report.left:
        console.print(f"{len(report.left)} of {len(report.findings)} are left")
