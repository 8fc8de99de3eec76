"""``harness rehearse``: an upgrade rehearsal, its progress on stderr, its report in a directory."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from harness.cli.interruption import clean_interruption
from harness.cli.progress import show_progress
from harness.cli.rehearse_extension import Outputs, run_extension_update, update_options
from harness.cli.summary import SummaryFile, errors_told_in, require_place, write_summary
from harness.errors import EXIT_CHECK_FAILED, BadInputError
from harness.rehearsal.extension.scripts import script_directories
from harness.rehearsal.options import RehearsalOptions
from harness.rehearsal.run import rehearse as run_rehearsal
from harness.report.document import dump_document, to_document
from harness.report.markdown import rehearsal_markdown
from harness.report.terminal import print_summary
from harness.report.write import prepare_directory, write_report
from harness.settings import load_settings

# Taken from the options' own defaults, so that help, documentation and rehearsal agree.
_DEFAULTS = RehearsalOptions()


# What a rehearsed update of the extension has no meaning for: the parameter, and why.
_NOT_WITH_UPDATE = {
    "dump": "a dump holds no rows of a catalog that the extension owns",
    "crash": "its steps are one transaction each",
    "sources": "its demonstration is a fixed one",
    "rows": "its demonstration is a fixed one",
    "copy": "it always updates a base backup",
    "immediate": "the extension keeps its IMMEDIATE stream tables itself",
    "jobs": "nothing is dumped or restored",
    "lock_timeout_ms": "the extension's own scripts take their locks as they like",
}


class CopyWay(StrEnum):
    """How the installation is copied."""

    LOGICAL = "logical"
    PHYSICAL = "physical"


class ImmediateWay(StrEnum):
    """What becomes of IMMEDIATE stream tables."""

    DIFFERENTIAL = "differential"
    REFUSE = "refuse"


def rehearse(
    ctx: typer.Context,
    *,
    dsn: Annotated[
        str | None,
        typer.Option(
            help="Rehearse on a copy of this database (a URI or key=value); it is only read. Keep passwords out of it: "
            "PGPASSWORD, a passfile or HARNESS_REHEARSE_DSN. Without it: a demonstration.",
            show_default=False,
        ),
    ] = None,
    dump: Annotated[
        Path | None,
        typer.Option(
            help="Rehearse on this dump of pg_dump (custom, directory or tar), restored into a temporary server.",
            metavar="FILE",
        ),
    ] = None,
    extension_update: Annotated[
        str | None,
        typer.Option(
            help="Rehearse ALTER EXTENSION pg_trickle UPDATE instead, from one version to another, on a base backup of "
            "--dsn or a demonstration, with the library that is here. FROM may be 'every': each version that can be "
            "installed.",
            metavar="FROM..TO",
            show_default=False,
        ),
    ] = None,
    extension_scripts: Annotated[
        list[Path] | None,
        typer.Option(
            help="More of its install and update scripts are here; may be given again. Or HARNESS_EXTENSION_SCRIPTS.",
            metavar="DIR",
        ),
    ] = None,
    sources: Annotated[int, typer.Option(help="Sources of the demonstration.")] = _DEFAULTS.sources,
    rows: Annotated[int, typer.Option(help="Rows of the demonstration, in all.")] = _DEFAULTS.rows,
    seed: Annotated[
        int | None, typer.Option(help="Of everything drawn at random; the report says it.", show_default="random")
    ] = None,
    copy: Annotated[CopyWay, typer.Option(help="pg_dump and pg_restore, or a base backup.")] = CopyWay.LOGICAL,
    immediate: Annotated[
        ImmediateWay, typer.Option(help="IMMEDIATE stream tables: make them differential in the copy, or refuse.")
    ] = ImmediateWay.DIFFERENTIAL,
    crash: Annotated[bool, typer.Option("--crash", help="Kill the server once during each revision.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary server's directory; says where.")] = False,
    threads: Annotated[int, typer.Option(help="Live writers.")] = _DEFAULTS.threads,
    jobs: Annotated[int, typer.Option(help="Parallel connections of dump and restore.")] = _DEFAULTS.jobs,
    lock_timeout_ms: Annotated[
        int, typer.Option(help="Longest wait for a lock on a source in one go, in milliseconds.")
    ] = _DEFAULTS.lock_timeout_ms,
    deadline_s: Annotated[
        float, typer.Option(help="Give up on one revision after so many seconds.")
    ] = _DEFAULTS.deadline_s,
    report: Annotated[
        Path, typer.Option(help="Directory for report.html, report.json and junit.xml.", metavar="DIR")
    ] = Path("reports"),
    summary: SummaryFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json on stdout, and nothing else.")] = False,
) -> None:
    """Upgrade a copy of an installation under live writers, go back, and check that nothing was lost.

    Exit codes: 0 passed, 1 a check failed, 2 refused or bad input, 3 the environment or interrupted.
    """
    require_place("--summary", summary)
    if extension_update is not None:
        with errors_told_in(summary, "harness rehearse --extension-update"):
            _refuse_with_update(ctx)
            run_extension_update(
                update_options(
                    extension_update,
                    dsn=_checked_dsn(dsn),
                    scripts=extension_scripts or script_directories(),
                    seed=seed,
                    keep=keep,
                    threads=threads,
                    deadline_s=deadline_s,
                ),
                Outputs(report, summary, as_json),
            )
        return
    if extension_scripts:
        raise BadInputError("--extension-scripts belongs to --extension-update", hint="give both or neither")
    with errors_told_in(summary, "harness rehearse"):
        options = RehearsalOptions(
            dsn=_checked_dsn(dsn) if dump is None or dsn is not None else None,
            dump=dump,
            sources=sources,
            rows=rows,
            seed=seed,
            copy=copy.value,
            crash=crash,
            keep=keep,
            jobs=jobs,
            threads=threads,
            lock_timeout_ms=lock_timeout_ms,
            deadline_s=deadline_s,
            immediate=immediate.value,
        ).checked()
        directory = prepare_directory(report)
        errors = Console(stderr=True, highlight=False)
        with clean_interruption(), show_progress(errors) as on_progress:
            result = run_rehearsal(options, on_progress=on_progress)
    command = command_to_repeat(options, result.seed, report)
    paths = write_report(result, directory, command)
    write_summary(summary, rehearsal_markdown(result, command))
    if as_json:
        # Bytes: stdout's own encoding may be too small for the identifiers.
        sys.stdout.buffer.write(dump_document(to_document(result, command)).encode())
        sys.stdout.buffer.flush()
    print_summary(result, paths, command, errors if as_json else Console(highlight=False))
    if not result.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _refuse_with_update(ctx: typer.Context) -> None:
    """What was asked for and has no meaning beside a rehearsed update of the extension, be it the default's value."""
    for parameter, why in _NOT_WITH_UPDATE.items():
        given = ctx.get_parameter_source(parameter)
        if given is not None and given.name != "DEFAULT":
            name = "--" + parameter.replace("_", "-")
            raise BadInputError(f"--extension-update does not go with {name}: {why}", hint=f"leave {name} out")


def _checked_dsn(dsn: str | None) -> str | None:
    """The DSN of the option or of ``HARNESS_REHEARSE_DSN``; refused, without its value, where it can't be parsed."""
    secret = load_settings().rehearse_dsn
    name = "--dsn" if dsn is not None else "HARNESS_REHEARSE_DSN"
    dsn = dsn if dsn is not None else secret.get_secret_value() if secret is not None else None
    if dsn is None:
        return None
    try:
        parameters = conninfo_to_dict(dsn)
    except psycopg.Error:  # not passed on: libpq's message may quote the password
        parameters = None
    if not parameters:
        raise BadInputError(
            f"{name} is not a connection string (not shown, it may hold a password)",
            hint="use postgresql://user@host:5432/database or host=... dbname=..., see libpq's documentation",
        )
    return dsn


def command_to_repeat(options: RehearsalOptions, seed: int, report: Path) -> str:
    """The command line that repeats a rehearsal: the seed, and each option that differs from its default.

    The password of a DSN is left out; who repeats it gives it in the environment.
    """
    words = ["harness", "rehearse", "--seed", str(seed)]
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name == "seed" or value == option.default:
            continue
        if option.name == "dsn":
            value = _without_secrets(value)
        name = "--" + option.name.replace("_", "-")
        words += [name] if value is True else [name, f"{value:g}" if isinstance(value, float) else str(value)]
    if report != Path("reports"):
        words += ["--report", str(report)]
    return shlex.join(words)


def _without_secrets(dsn: str) -> str:
    kept = {key: value for key, value in conninfo_to_dict(dsn).items() if key not in {"password", "sslpassword"}}
    return make_conninfo("", **kept)
