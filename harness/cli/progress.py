"""Progress of a rehearsal on stderr: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.rehearsal.options import OnProgress
from harness.rehearsal.options import Progress as Event
from harness.report.text import visible


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[OnProgress]:
    """Yield a listener that shows where a rehearsal is.

    Args:
        console: where to. On a terminal each step has one line that moves; elsewhere each step and message is a
            line of its own, with the seconds since the start.
    """
    if not console.is_terminal:
        yield _Lines(console)
        return
    # Done, not passed: verdicts come with the summary.
    columns = (SpinnerColumn(finished_text="·"), TextColumn("{task.fields[step]}"), BarColumn(bar_width=24))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.description}"), console=console) as bars:
        yield _Bars(bars)


class _Lines:
    """A log: no line twice, and no line for a mere fraction."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()
        self._last: tuple[str, str] | None = None

    def __call__(self, event: Event) -> None:
        current = (event.step, event.message)
        if current == self._last:
            return
        self._last = current
        elapsed_s = time.monotonic() - self._started_s
        line = f"{elapsed_s:7.1f} s  {visible(event.step)}: {visible(event.message)}"
        self._console.print(Text(line), soft_wrap=True)


class _Bars:
    """A terminal: one line a step."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._step = ""
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        if event.step != self._step or self._task is None:
            if self._task is not None:
                self._bars.update(self._task, total=1, completed=1)
            self._step = event.step
            self._task = self._bars.add_task("", total=None, step=f"{visible(event.step):10}")
        # Brackets would be markup here.
        message = visible(event.message).replace("[", r"\[")
        if event.fraction is None:
            self._bars.update(self._task, description=message)
        else:
            self._bars.update(self._task, description=message, total=1, completed=event.fraction)
