"""``harness migrate``: the chain on a database of yours: up, down, status, adopt, sql."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.chain.adopt import adopt as adopt_installation
from harness.chain.connection import describe_dsn
from harness.chain.runner import REVISIONS, ChainEvent, ChainOptions, current_revision, downgrade, offline_sql, upgrade
from harness.chain.status import fetch_status
from harness.cli.options import Dsn, Json
from harness.errors import EXIT_GOOD, EXIT_REFUSED, BadInputError, RefusedError
from harness.settings import load_settings

app = typer.Typer(help="Take an installation to the Citus-ready catalog and back.", no_args_is_help=True)
SCHEMA = "harness/migrate/1"

LockTimeout = Annotated[
    int, typer.Option("--lock-timeout-ms", min=1, max=60_000, help="The longest that anybody waits behind a step.")
]
Deadline = Annotated[
    float, typer.Option("--deadline-s", min=0.1, help="How long a revision waits for locks before it gives up.")
]


class Immediate(StrEnum):
    """What becomes of IMMEDIATE stream tables."""

    REFUSE = "refuse"
    DIFFERENTIAL = "differential"


def _dsn(given: str | None) -> str:
    if given:
        return given
    secret = load_settings().dsn
    if secret is None:
        raise BadInputError("no database is named", hint="pass --dsn or set HARNESS_DSN")
    return secret.get_secret_value()


class _Reporter:
    """Tells people on stderr what the chain does; keeps what machines get."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self.revisions: list[dict[str, object]] = []
        self.reinit: list[str] = []
        self._moved = 0

    def __call__(self, event: ChainEvent) -> None:
        """Take one event."""
        if event.kind == "revision_begin":
            self._moved = 0
        elif event.kind == "source_moved":
            self._moved += 1
        elif event.kind == "waiting":
            self._console.print(
                f"  {event.revision} waits for {event.source}: {event.detail.get('holder')}"
                f" (try {event.detail.get('attempts')})",
                markup=False,
            )
        elif event.kind == "reinit":
            name = str(event.detail.get("stream_table"))
            if name not in self.reinit:
                self.reinit.append(name)
                self._console.print(f"  {name} is marked needs_reinit: no LSN says what it has taken", markup=False)
        elif event.kind == "revision_end":
            elapsed_ms = event.elapsed_ms or 0.0
            self.revisions.append(
                {
                    "revision": event.revision,
                    "direction": event.direction,
                    "elapsed_ms": round(elapsed_ms, 1),
                    "sources_moved": self._moved,
                }
            )
            self._console.print(
                f"{event.revision} {event.direction}: {elapsed_ms / 1000:.2f} s, {self._moved} sources moved",
                markup=False,
            )


def _finish(reporter: _Reporter, dsn: str, *, as_json: bool) -> None:
    revision = current_revision(dsn)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "schema": SCHEMA,
                    "passed": True,
                    "revision": revision,
                    "revisions": reporter.revisions,
                    "needs_reinit": reporter.reinit,
                }
            )
        )
    else:
        typer.echo(f"{describe_dsn(dsn)} is at revision {revision or 'base'}")


@app.command()
def up(
    revision: Annotated[str, typer.Argument(help=f"{REVISIONS[0]} to {REVISIONS[-1]}, or head.")] = "head",
    dsn: Dsn = None,
    lock_timeout_ms: LockTimeout = 50,
    deadline_s: Deadline = 600.0,
    as_json: Json = False,
) -> None:
    """Go up. A killed run goes on where it stopped when it is called again."""
    reporter = _Reporter()
    upgrade(_dsn(dsn), revision, on_event=reporter, options=ChainOptions(lock_timeout_ms, deadline_s))
    _finish(reporter, _dsn(dsn), as_json=as_json)


@app.command()
def down(
    revision: Annotated[str, typer.Argument(help=f"{REVISIONS[0]} to {REVISIONS[-2]}, or base.")],
    dsn: Dsn = None,
    lock_timeout_ms: LockTimeout = 50,
    deadline_s: Deadline = 600.0,
    as_json: Json = False,
) -> None:
    """Go down. Pending changes stay pending; what an LSN frontier can't say is marked needs_reinit and listed."""
    reporter = _Reporter()
    downgrade(_dsn(dsn), revision, on_event=reporter, options=ChainOptions(lock_timeout_ms, deadline_s))
    _finish(reporter, _dsn(dsn), as_json=as_json)


@app.command()
def status(dsn: Dsn = None, as_json: Json = False) -> None:
    """Where the database stands, and what would stand in the way of going up. Exit code 2 if something does."""
    found = fetch_status(_dsn(dsn))
    if as_json:
        typer.echo(json.dumps({"schema": "harness/migrate-status/1", "passed": not found.findings, **found.to_json()}))
    else:
        table = Table("what", "value", show_header=False, box=None)
        for name, value in found.rows():
            table.add_row(name, value)
        console = Console(highlight=False)
        console.print(table)
        for finding in found.findings:
            console.print(f"{finding.code} {finding.subject}: {finding.message}\n  {finding.hint}", markup=False)
    raise typer.Exit(EXIT_REFUSED if found.findings else EXIT_GOOD)


@app.command()
def adopt(
    dsn: Dsn = None,
    immediate: Annotated[
        Immediate, typer.Option(help="What becomes of IMMEDIATE stream tables, whose triggers need the library.")
    ] = Immediate.REFUSE,
    as_json: Json = False,
) -> None:
    """Take over a pg_trickle 0.2 installation: off the extension and its library, at revision 0001. All or nothing.

    Of 0.66 and 0.67 the stream tables are taken over, and rebuilt at their first refresh.
    """
    report = adopt_installation(_dsn(dsn), mode=immediate.value)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "schema": "harness/migrate-adopt/1",
                    "passed": True,
                    "extension_version": report.extension_version,
                    "members": report.members,
                    "dropped": report.dropped,
                    "differences": report.differences,
                    "converted": report.converted,
                    "rebuilt": report.rebuilt,
                }
            )
        )
        return
    owner = f"extension {report.extension_version}" if report.extension_version else "no extension"
    fate = "gone with it" if report.rebuilt else "set free"
    typer.echo(
        f"taken over from {owner}: {report.members} members {fate}, {len(report.dropped)} dropped; now at revision 0001"
    )
    word = "does not come along" if report.rebuilt else "differs from the baseline"
    for difference in report.differences:
        typer.echo(f"  {word}: {difference}")
    for name in report.rebuilt:
        typer.echo(f"  {name} keeps its rows, and is rebuilt from its sources at its first refresh")
    for name in report.converted:
        typer.echo(f"  {name} was IMMEDIATE, is DIFFERENTIAL, and is rebuilt at its first refresh")


@app.command(name="sql")
def sql_script(
    direction: Annotated[str, typer.Argument(help="up or down.")],
    start: Annotated[str, typer.Argument(help="The revision that the database is at, or base.")],
    end: Annotated[str, typer.Argument(help="The revision to reach.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; else stdout.", dir_okay=False)] = None,
) -> None:
    """Write the script for psql that does the same. It connects to nothing."""
    if direction not in {"up", "down"}:
        raise BadInputError(f"{direction!r} is no direction", hint="use up or down")
    text = offline_sql(direction, start, end)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RefusedError(
            f"{output} can't be written: {error.strerror}", hint="name a file in a directory of yours"
        ) from None
