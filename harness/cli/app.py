"""The ``harness`` command: mounts the groups, turns errors into a message, a hint and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness import __version__
from harness.cli.groups import LazyGroup
from harness.errors import EXIT_ENVIRONMENT, HarnessError, PreflightError
from harness.logs import configure_logging, redact
from harness.postgres.lifetime import install_signal_handlers

# What Typer leaves with after Ctrl-C.
_TYPER_INTERRUPTED = 130

app = typer.Typer(
    name="harness",
    help="Stream tables on Citus: servers, clusters, migrations, rehearsals.",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    configure_logging()


def print_error(error: HarnessError, console: Console | None = None) -> None:
    """Message, findings and hint on stderr, without a traceback and without passwords."""
    out = console or Console(stderr=True, highlight=False, soft_wrap=True)
    node = f" [{error.node}]" if error.node else ""
    out.print(f"[bold red]error[/]{escape(node)}: {escape(redact(error.message))}")
    if isinstance(error, PreflightError):
        for finding in error.findings:
            subject = f"[yellow]{escape(finding.code)}[/] {escape(finding.subject)}"
            out.print(f"  {subject}: {escape(redact(finding.message))}")
            if finding.hint:
                out.print(f"    {escape(redact(finding.hint))}")
    if error.hint:
        out.print(f"[bold]hint[/]: {escape(redact(error.hint))}")


def main() -> None:
    """Run the command line. Exit codes: 0 good, 1 a check failed, 2 refused or bad input, 3 the environment."""
    # Commands with more to say about it, such as rehearse, have handlers of their own meanwhile.
    install_signal_handlers(lambda _number: SystemExit(EXIT_ENVIRONMENT))
    try:
        app()  # a usage error is printed and ends with 2, by Typer
    except HarnessError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code != _TYPER_INTERRUPTED:
            raise
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_ENVIRONMENT)
    except Exception:  # a bug keeps its traceback; Python's own exit code, 1, would say that a check failed
        print(redact(traceback.format_exc()), file=sys.stderr, end="")  # noqa: T201
        sys.exit(EXIT_ENVIRONMENT)
