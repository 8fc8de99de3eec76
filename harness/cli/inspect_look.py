"""What ``harness inspect`` does with one inspector, or with all: look, print, write, and the exit code."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from harness.cli.inspect_place import Place, Where, choose_place, looking
from harness.errors import EXIT_GOOD, BadInputError, HarnessError, ServerError
from harness.inspectors.contract import Status
from harness.inspectors.inputs import parse
from harness.inspectors.registry import get
from harness.inspectors.report.document import SCHEMA, to_document
from harness.inspectors.report.keeping import write_files
from harness.inspectors.report.making import report_all, report_one
from harness.inspectors.report.model import Report
from harness.inspectors.report.terminal import show_look, show_report
from harness.inspectors.run import Inspection
from harness.logs import redact
from harness.report.document import dump_document
from harness.report.text import visible
from harness.report.write import prepare_directory

Looks = Callable[[Inspection], Report]


@dataclass(frozen=True)
class Output:
    """How the answer is printed.

    Attributes:
        as_json: one JSON document, with ``watch`` one a line.
        as_table: tables, which is also what is printed without a word.
        watch: again and again.
        every_s: with ``watch``: between two looks, in seconds.
    """

    as_json: bool = False
    as_table: bool = False
    watch: bool = False
    every_s: float = 2.0

    def check(self) -> None:
        """Raise `BadInputError` for options that contradict each other."""
        if self.as_json and self.as_table:
            raise BadInputError("--json and --table: one of them", hint="without either it is tables")

    @property
    def words(self) -> tuple[str, ...]:
        """The options, in a command to repeat."""
        return ("--json",) if self.as_json else ()


def look_at(name: str, values: Mapping[str, Any], options: tuple[str, ...], where: Where, output: Output) -> int:
    """One inspector.

    Args:
        name: of the inspector.
        values: its inputs as the command line has them.
        options: the same, in a command to repeat.
        where: the cluster.
        output: how the answer is printed.

    Returns:
        The exit code.
    """
    output.check()
    parse(get(name).inputs, values)  # what cannot be used is told before anybody is asked
    place = choose_place(where)
    command = shlex.join(("harness", "inspect", name, *options, *place.words, *output.words))
    return _run(place, lambda inspection: report_one(inspection, place.dsn, name, values), command, output)


def look_at_all(where: Where, output: Output, *, report: Path, deadline_s: float) -> int:
    """Every inspector; ``report`` gets ``inspect.html`` and ``inspect.json`` (not with ``--watch``).

    Returns:
        The exit code.
    """
    output.check()
    place = choose_place(where)
    words = ("harness", "inspect", "--all", *place.words, *output.words)
    command = shlex.join((*words, "--report", str(report)))
    directory = None if output.watch else prepare_directory(report)
    return _run(
        place,
        lambda inspection: report_all(inspection, place.dsn, deadline_s=deadline_s),
        command,
        output,
        directory=directory,
    )


def _run(place: Place, looks: Looks, command: str, output: Output, *, directory: Path | None = None) -> int:
    if output.watch:
        _watch(place, looks, command, output)
        return EXIT_GOOD
    with looking(place) as inspection:
        report = looks(inspection)
    if directory is not None:
        page, _ = write_files(report, command, directory)
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"page: {page}", markup=False)
    if output.as_json:
        _write(dump_document(to_document(report, command)))
    else:
        Console(highlight=False).print(_shown(report))
    return report.exit_code


def _shown(report: Report) -> RenderableType:
    return show_look(report.looks[0]) if len(report.looks) == 1 and not report.skipped else show_report(report)


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


# ------------------------------------------------------------------------------------------------------- --watch


def _watch(place: Place, looks: Looks, command: str, output: Output) -> None:
    """Look until Ctrl-C. A cluster that goes away is waited for; one that was never there is not."""
    frame = _Lines(command) if output.as_json else _Screen()
    pause = threading.Event()
    is_first = True
    with frame:
        try:
            while True:
                try:
                    with looking(place) as inspection:
                        while True:
                            report = looks(inspection)
                            frame.show(report)
                            is_first = False
                            if _is_gone(report):
                                break
                            pause.wait(output.every_s)
                except ServerError as error:
                    if is_first:
                        raise
                    frame.complain(error)
                pause.wait(output.every_s)
        except KeyboardInterrupt:
            return


def _is_gone(report: Report) -> bool:
    """Whether the connection may be of no use: it is opened anew, for a server that was restarted."""
    return all(look.envelope.status in {Status.UNAVAILABLE, Status.ERROR} for look in report.looks)


class _Screen:
    def __init__(self) -> None:
        self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._last: RenderableType = Text("")

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, report: Report) -> None:
        self._last = Group(Text(f"{report.place}, {report.started_at}", style="dim"), _shown(report))
        self._live.update(self._last, refresh=True)

    def complain(self, error: HarnessError) -> None:
        words = Text(f"no answer: {visible(redact(error.message))}", style="bold red")
        self._live.update(Group(words, self._last), refresh=True)


class _Lines:
    def __init__(self, command: str) -> None:
        self._command = command

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""

    def show(self, report: Report) -> None:
        self._line(to_document(report, self._command))

    def complain(self, error: HarnessError) -> None:
        self._line({"schema": SCHEMA, "passed": False, "complaint": redact(error.message)})

    def _line(self, document: Mapping[str, Any]) -> None:
        _write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
