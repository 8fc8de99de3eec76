"""``harness scheduler``: refresh what is due, in the foreground, until it is told to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from harness import scheduler as engine
from harness.cli.database import chosen_dsn, refused_in_words
from harness.cli.options import Dsn
from harness.errors import EXIT_CHECK_FAILED, BadInputError
from harness.logs import redact
from harness.report.text import visible
from harness.trickle.schedules import Every, read_schedule

if TYPE_CHECKING:
    # Loaded with the first look: a SQL parser takes its time.
    from harness.scheduler import Event, Figures, Scheduler

SCHEMA = "harness/scheduler/1"
DEFAULT_METRICS = "127.0.0.1:9187"
_STYLES = {"failed": "red", "refused": "red", "lost": "bold red", "connected": "green", "skipped": "dim"}
app = typer.Typer(help="Refresh stream tables when they are due.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``run`` a command of its own."""


def _span_s(text: str) -> float:
    schedule = read_schedule(text)
    if not isinstance(schedule, Every):
        raise BadInputError(f"{text!r} is no span of time", hint="write 30s, 5m or 1h")
    return float(schedule.seconds)


@app.command()
def run(
    *,
    sessions: Annotated[int, typer.Option("--sessions", "-n", min=1, max=64, help="How many refreshes at once.")] = 2,
    poll_s: Annotated[float, typer.Option("--poll", min=0.05, max=3600, help="Seconds between two looks.")] = 1.0,
    max_failures: Annotated[
        int, typer.Option("--max-failures", min=1, help="Failures in a row until a stream table is in ERROR.")
    ] = 3,
    max_backoff: Annotated[str, typer.Option("--max-backoff", help="Longest pause after failures, such as 5m.")] = "5m",
    grace: Annotated[
        str, typer.Option("--grace", help="How long refreshes at work may go on after SIGTERM, such as 60s.")
    ] = "60s",
    wait_for_coordinator: Annotated[
        bool, typer.Option("--wait-for-coordinator", help="Wait for a writable coordinator instead of refusing.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Refresh what is due now, and leave; exit code 1 if one failed.")
    ] = False,
    metrics: Annotated[str, typer.Option("--metrics", help="Where Prometheus scrapes: host:port.")] = DEFAULT_METRICS,
    no_metrics: Annotated[bool, typer.Option("--no-metrics", help="Serve no metrics.")] = False,
    observe_s: Annotated[
        float, typer.Option("--observe", min=0, help="Seconds between two looks at what waits; 0: never.")
    ] = 15.0,
    keep_history: Annotated[
        str | None,
        typer.Option("--keep-history", help="Delete history that is older, such as 30d.", show_default=False),
    ] = None,
    dsn: Dsn = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell what happens as JSON, a document a line.")] = False,
) -> None:
    """Refresh what is due, until SIGTERM or Ctrl-C; what is being refreshed then is finished first."""
    options = engine.Options(
        sessions=sessions,
        poll_s=poll_s,
        errors_until_error=max_failures,
        backoff_max_s=_span_s(max_backoff),
        grace_s=_span_s(grace),
        waits_for_place=wait_for_coordinator,
        keep_history_s=None if keep_history is None else _span_s(keep_history),
        observe_s=0.0 if no_metrics or once else observe_s,
    )
    scheduler = engine.Scheduler(chosen_dsn(dsn), options, _tell_json if as_json else _Lines())
    with refused_in_words("scheduling"), _stopped_by_signals(scheduler):
        if once:
            raise typer.Exit(EXIT_CHECK_FAILED if scheduler.run_once() else 0)
        with _serving(scheduler.figures, None if no_metrics else metrics, as_json=as_json):
            scheduler.run()


@contextlib.contextmanager
def _serving(figures: Figures, address: str | None, *, as_json: bool) -> Iterator[None]:
    if address is None:
        yield
        return
    server, url = engine.serve(figures, address)
    try:
        if as_json:
            typer.echo(json.dumps({"schema": SCHEMA, "kind": "serving", "message": url}))
        else:
            typer.echo(f"metrics at {url}")
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _stopped_by_signals(scheduler: Scheduler) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C lets it finish; a second one is the ordinary end of a process."""
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number, handler in former.items():
            signal.signal(number, handler)
        scheduler.stop()

    for number in former:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _tell_json(event: Event) -> None:
    document = {"schema": SCHEMA, "at": datetime.now(UTC).isoformat(), **dataclasses.asdict(event)}
    document["message"], document["hint"] = redact(event.message), redact(event.hint)
    typer.echo(json.dumps(document))


class _Lines:
    """A line a thing that happened; flushed, since a journal reads along."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def __call__(self, event: Event) -> None:
        """Print one."""
        line = Text(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z ", style="dim")
        line.append(f"{event.kind:<9} ", style=_STYLES.get(event.kind, ""))
        line.append(visible(redact(event.message)), style="")
        if event.hint:
            line.append(f" ({visible(redact(event.hint))})", style="dim")
        self._console.print(line)
        self._console.file.flush()
