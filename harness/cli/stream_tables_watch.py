"""``harness st status --watch``: the figures of the scheduler's metrics in a terminal, over and over."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.live import Live

from harness.chain.connection import Connection
from harness.cli import stream_tables_text as text
from harness.errors import HarnessError, StreamTableNotFoundError

if TYPE_CHECKING:
    # Loaded with the first stream table: a SQL parser takes its time.
    from harness.trickle import Status, StreamTables

SCHEMA = "harness/st/1"
Open = Callable[[], "AbstractContextManager[tuple[Connection, StreamTables]]"]


def watching(opened: Open, name: str | None, every_s: float, *, as_json: bool) -> None:
    """Look until Ctrl-C; a database that goes away is waited for.

    Args:
        opened: opens a session.
        name: one stream table; None: all.
        every_s: between two looks, in seconds.
        as_json: a document a line instead of a table.

    Raises:
        RefusedError: at the first look: there is no such stream table, or no such database.
    """
    frame = _Lines() if as_json else _Table()
    pause = threading.Event()
    found: Sequence[Status] = ()
    is_first = True
    with frame:
        try:
            while True:
                try:
                    with opened() as (_, tables):
                        while True:
                            found = tables.status(name)
                            frame.show(found, "")
                            is_first = False
                            pause.wait(every_s)
                except HarnessError as error:
                    if is_first or isinstance(error, StreamTableNotFoundError):
                        raise
                    frame.show(found, error.message)
                    pause.wait(every_s)
        except KeyboardInterrupt:
            return


class _Table:
    def __init__(self) -> None:
        self._live = Live(console=Console(highlight=False), auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, found: Sequence[Status], complaint: str) -> None:
        self._live.update(text.watched(found, complaint), refresh=True)


class _Lines:
    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""

    def show(self, found: Sequence[Status], complaint: str) -> None:
        passed = not complaint and all(each.stream_table.status != "ERROR" for each in found)
        document = {"schema": SCHEMA, "passed": passed, "command": "status", "stream_tables": text.as_json(list(found))}
        typer.echo(json.dumps(document | ({"complaint": complaint} if complaint else {})))
