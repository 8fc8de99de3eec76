"""``harness rehearse --extension-update``: the extension's own update, rehearsed; its report as any rehearsal's."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from harness.cli.interruption import clean_interruption
from harness.cli.progress import show_progress
from harness.cli.summary import write_summary
from harness.errors import EXIT_CHECK_FAILED, BadInputError
from harness.rehearsal.extension.every import rehearse_every
from harness.rehearsal.extension.model import EVERY, UpdateOptions
from harness.rehearsal.extension.run import rehearse_update
from harness.rehearsal.extension.scripts import parse_span
from harness.report.document import dump_document
from harness.report.extension_update import (
    print_update,
    to_update_document,
    update_markdown,
    write_update_report,
)
from harness.report.write import prepare_directory


@dataclass(frozen=True)
class Outputs:
    """Where what was found goes: a report's directory, a job's page, stdout as JSON."""

    report: Path
    summary: Path | None
    as_json: bool


def run_extension_update(options: UpdateOptions, outputs: Outputs) -> None:
    """Rehearse, write, print.

    Raises:
        typer.Exit: 1 where a step, or a check that decides, failed.
        HarnessError: it could not be carried to its end; no report is written then.
    """
    directory = prepare_directory(outputs.report)
    errors = Console(stderr=True, highlight=False)
    with clean_interruption(), show_progress(errors) as on_progress:
        rehearse = rehearse_every if options.start == EVERY else rehearse_update
        result = rehearse(options, on_progress)
    command = command_to_repeat(options, outputs.report)
    paths = write_update_report(result, directory, command)
    write_summary(outputs.summary, update_markdown(result, command))
    if outputs.as_json:
        sys.stdout.buffer.write(dump_document(to_update_document(result, command)).encode())
        sys.stdout.buffer.flush()
    print_update(result, paths, command, errors if outputs.as_json else Console(highlight=False))
    if not result.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def update_options(
    span: str,
    *,
    dsn: str | None,
    scripts: Sequence[Path],
    seed: int | None,
    keep: bool,
    threads: int,
    deadline_s: float,
) -> UpdateOptions:
    """The options of the command line as those of a rehearsed update.

    Raises:
        BadInputError: a value cannot be used; names it.
    """
    start, target = parse_span(span)
    if start == EVERY and dsn is not None:
        raise BadInputError(
            f"--extension-update {span} does not go with --dsn: a database is at one version",
            hint="name that version, or leave --dsn out",
        )
    for name, value, least, most in (("threads", threads, 1, 64), ("deadline-s", deadline_s, 1, 86_400)):
        if not least <= value <= most:
            raise BadInputError(f"--{name} {value:g} is out of range", hint=f"use {least} to {most}")
    return UpdateOptions(
        start=start,
        target=target,
        dsn=dsn,
        scripts=tuple(path.expanduser().absolute() for path in scripts),
        seed=secrets.randbits(31) if seed is None else seed,
        keep=keep,
        threads=threads,
        deadline_s=deadline_s,
    )


def command_to_repeat(options: UpdateOptions, report: Path) -> str:
    """The command line that repeats it; the password of a DSN is left out."""
    words = ["harness", "rehearse", "--extension-update", f"{options.start}..{options.target}"]
    if options.dsn is not None:
        kept = {key: value for key, value in conninfo_to_dict(options.dsn).items() if "password" not in key}
        words += ["--dsn", make_conninfo("", **kept)]
    for directory in options.scripts:
        words += ["--extension-scripts", str(directory)]
    words += ["--seed", str(options.seed), "--threads", str(options.threads), "--deadline-s", f"{options.deadline_s:g}"]
    words += ["--keep"] if options.keep else []
    words += ["--report", str(report)] if report != Path("reports") else []
    return shlex.join(words)
