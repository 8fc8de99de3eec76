"""Ctrl-C, SIGTERM and SIGHUP during a rehearsal: one error, raised once whoever is inside has cleaned up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeAlias

from harness.errors import HarnessError


class RehearsalInterruptedError(HarnessError):
    """Somebody ended the rehearsal: Ctrl-C, SIGTERM or SIGHUP."""


_Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


@dataclass
class _Interruption:
    """Which signal came first; later ones don't disturb the cleaning up."""

    name: str | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.name is None:
            self.name = signal.Signals(number).name
            raise KeyboardInterrupt


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN  # nohup, for example


@contextlib.contextmanager
def clean_interruption() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into one error, raised once whoever is inside has cleaned up.

    Raises:
        RehearsalInterruptedError: a signal came.
    """
    interruption = _Interruption()
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if in_main else ()
    previous: dict[signal.Signals, _Handler] = {
        number: signal.signal(number, interruption) for number in numbers if not _is_ignored(number)
    }
    try:
        yield
    except KeyboardInterrupt:
        name = interruption.name or "SIGINT"
        # This process ends now, with an exit code of its own: an impatient second signal must not change that.
        previous = dict.fromkeys(previous, signal.SIG_IGN)
        raise RehearsalInterruptedError(
            f"interrupted by {'Ctrl-C' if name == 'SIGINT' else name}; no report was written",
            hint="the source was only read, and the temporary server is gone unless --keep was given",
        ) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
