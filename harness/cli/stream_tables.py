"""``harness st``: stream tables from the command line: create, refresh, alter, look at and check them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness import trickle
from harness.chain.connection import Connection
from harness.cli import stream_tables_text as text
from harness.cli.database import connected, refused_in_words
from harness.cli.options import Dsn, Json
from harness.cli.repair import repair
from harness.cli.stream_tables_watch import watching
from harness.errors import EXIT_CHECK_FAILED, EXIT_GOOD, BadInputError
from harness.trickle.oracle import compare

if TYPE_CHECKING:
    # Loaded with the first stream table: a SQL parser takes its time.
    from harness.trickle import StreamTables


SCHEMA = "harness/st/1"
APPLICATION_NAME = "harness st"
app = typer.Typer(help="Stream tables: create, refresh, alter, look, check, repair, drop.", no_args_is_help=True)


def _checked(value: str | None) -> str | None:
    """The same text, if a database can hold it.

    Raises:
        BadInputError: it has zero bytes, or was no UTF-8.
    """
    if value is not None and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise BadInputError("an argument is not text that a database can hold", hint="use UTF-8 without zero bytes")
    return value


Name = Annotated[
    str,
    typer.Argument(help="schema.table or table, as SQL writes it (with quotes where needed).", callback=_checked),
]
File = Annotated[
    str | None, typer.Option("--file", "-f", help="Read the query from this file; - is stdin.", show_default=False)
]
Cadence = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        "-s",
        help="How old it may become (30s, 5m, 1h), cron in UTC ('*/5 * * * *'), or after: its sources.",
        show_default=False,
        callback=_checked,
    ),
]


class Mode(StrEnum):
    """How a stream table is kept up to date."""

    AUTO = "AUTO"
    DIFFERENTIAL = "DIFFERENTIAL"
    FULL = "FULL"


class Once(StrEnum):
    """How one refresh is done."""

    DIFFERENTIAL = "DIFFERENTIAL"
    FULL = "FULL"


class Place(StrEnum):
    """Where a stream table's rows are kept."""

    AUTO = "auto"
    LOCAL = "local"
    REFERENCE = "reference"
    DISTRIBUTED = "distributed"


@contextmanager
def _session(dsn: str | None, doing: str) -> Iterator[tuple[Connection, StreamTables]]:
    with (
        connected(dsn, name=APPLICATION_NAME) as connection,
        refused_in_words(doing),
        trickle.StreamTables(connection) as tables,
    ):
        yield connection, tables


def _read_query(argument: str | None, file: str | None) -> str | None:
    """The query from wherever it is; None if it is nowhere."""
    if argument is not None and file is not None:
        raise BadInputError("the query is given twice", hint="give it as an argument or with --file, not both")
    source = file if file is not None else argument
    if source is None:
        return None
    try:
        if source == "-":
            query = sys.stdin.buffer.read().decode("utf-8")
        elif file is not None:
            query = Path(file).read_bytes().decode("utf-8-sig")
        else:
            query = source
    except UnicodeDecodeError:
        raise BadInputError("the query is not UTF-8", hint="save it as UTF-8") from None
    except OSError as error:
        raise BadInputError(f"{file} can't be read: {error.strerror}", hint="name a file with the query") from None
    query = query.strip()
    _checked(query)
    if not query:
        raise BadInputError("the query is empty", hint="give a SELECT, --file, or - for stdin")
    return query


def _finish(document: dict[str, Any], people: Any, *, as_json: bool, passed: bool = True) -> None:
    """Print one thing for machines or all things for people, and leave with 1 if it did not pass."""
    if as_json:
        typer.echo(json.dumps({"schema": SCHEMA, "passed": passed, **document}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for each in people if isinstance(people, list) else [people]:
            console.print(each)
    raise typer.Exit(EXIT_GOOD if passed else EXIT_CHECK_FAILED)


@app.command()
def create(
    name: Name,
    query: Annotated[
        str | None, typer.Argument(help="The defining query; - reads it from stdin.", show_default=False)
    ] = None,
    *,
    file: File = None,
    schedule: Cadence = "1m",
    no_schedule: Annotated[bool, typer.Option("--no-schedule", help="Refresh only when asked to.")] = False,
    mode: Annotated[Mode, typer.Option("--mode", "-m", case_sensitive=False)] = Mode.AUTO,
    placement: Annotated[Place, typer.Option("--placement", "-p", help="Where its rows are kept.")] = Place.AUTO,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Create a stream table and fill it."""
    found = _read_query(query, file)
    if found is None:
        raise BadInputError("no query is given", hint="give it as an argument, with --file, or - for stdin")
    wanted = None if no_schedule else schedule
    with _session(dsn, f"creating {name}") as (_, tables):
        made = tables.create(name, found, schedule=wanted, mode=mode.value, placement=placement.value)
    document = {"command": "create", "stream_table": text.as_json(made)}
    _finish(document, text.line("created", made), as_json=as_json)


@app.command()
def refresh(
    name: Name,
    mode: Annotated[
        Once | None,
        typer.Option("--mode", "-m", case_sensitive=False, help="This once; else as the table has it."),
    ] = None,
    wait_s: Annotated[
        float,
        typer.Option("--wait", "-w", min=0, help="Seconds to wait for whoever else refreshes or changes it."),
    ] = 0.0,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Bring a stream table up to date, now."""
    with _session(dsn, f"refreshing {name}") as (_, tables):
        done = tables.refresh(name, mode=mode.value if mode else None, wait_s=wait_s)
    _finish({"command": "refresh", "refresh": text.as_json(done)}, text.refresh(done), as_json=as_json)


@app.command()
def alter(
    name: Name,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="A new defining query; - is stdin.", show_default=False)
    ] = None,
    *,
    file: File = None,
    schedule: Cadence = None,
    mode: Annotated[Mode | None, typer.Option("--mode", "-m", case_sensitive=False)] = None,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Change a stream table's query, schedule or mode; what is not named stays."""
    found = _read_query(query, file)
    if found is None and schedule is None and mode is None:
        raise BadInputError("nothing is to be changed", hint="give --query, --file, --schedule or --mode")
    with _session(dsn, f"altering {name}") as (_, tables):
        made = tables.alter(name, query=found, schedule=schedule, mode=mode.value if mode else None)
    _finish({"command": "alter", "stream_table": text.as_json(made)}, text.line("altered", made), as_json=as_json)


@app.command()
def suspend(name: Name, dsn: Dsn = None, as_json: Json = False) -> None:
    """Stop refreshing a stream table; its changes are still captured."""
    with _session(dsn, f"suspending {name}") as (_, tables):
        made = tables.suspend(name)
    _finish({"command": "suspend", "stream_table": text.as_json(made)}, text.line("suspended", made), as_json=as_json)


@app.command()
def resume(name: Name, dsn: Dsn = None, as_json: Json = False) -> None:
    """Refresh a suspended stream table again."""
    with _session(dsn, f"resuming {name}") as (_, tables):
        made = tables.resume(name)
    _finish({"command": "resume", "stream_table": text.as_json(made)}, text.line("resumed", made), as_json=as_json)


@app.command()
def drop(
    name: Name,
    cascade: Annotated[bool, typer.Option("--cascade", help="With what depends on it.")] = False,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Drop a stream table, and the capture of sources that nobody else reads."""
    with _session(dsn, f"dropping {name}") as (_, tables):
        tables.drop(name, cascade=cascade)
    _finish({"command": "drop", "dropped": name}, text.dropped(name), as_json=as_json)


@app.command(name="list")
def list_(dsn: Dsn = None, as_json: Json = False) -> None:
    """All stream tables."""
    with _session(dsn, "listing stream tables") as (_, tables):
        found = tables.list()
    _finish({"command": "list", "stream_tables": text.as_json(found)}, text.table_of(found), as_json=as_json)


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(help="One of them; else all.", show_default=False, callback=_checked)
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks of --watch.")] = 2.0,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """What waits to be applied, and whose transactions hold it back. Exit code 1 if a stream table is in ERROR."""
    if watch:
        watching(lambda: _session(dsn, f"looking at {name or 'stream tables'}"), name, every_s, as_json=as_json)
        return
    with _session(dsn, f"looking at {name or 'stream tables'}") as (_, tables):
        found = tables.status(name)
    passed = all(each.stream_table.status != "ERROR" for each in found)
    document = {"command": "status", "stream_tables": text.as_json(found)}
    _finish(document, text.status_of(found), as_json=as_json, passed=passed)


@app.command()
def explain(name: Name, dsn: Dsn = None, as_json: Json = False) -> None:
    """The mode that is chosen and why, the delta's SQL, and what Citus pushes down. Nothing is changed."""
    with _session(dsn, f"explaining {name}") as (_, tables):
        found = tables.explain(name)
    _finish({"command": "explain", "explanation": text.as_json(found)}, text.explanation(found), as_json=as_json)


@app.command()
def check(name: Name, dsn: Dsn = None, as_json: Json = False) -> None:
    """Compare a stream table with its query, as multisets, both ways. Exit code 1 if they differ.

    Changes that no refresh has applied yet are differences too: refresh first, and let nobody write meanwhile.
    """
    with connected(dsn, name=APPLICATION_NAME) as connection, refused_in_words(f"checking {name}"):
        found = compare(connection, name)
    document = {"command": "check", "stream_table": name, "difference": text.as_json(found)}
    _finish(document, text.difference(name, found), as_json=as_json, passed=found.is_equal)


app.command()(repair)
