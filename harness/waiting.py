"""Waiting with a deadline, a label, and the last thing seen. Nothing here sleeps a fixed time instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from harness.errors import WaitTimeoutError

T = TypeVar("T")


def wait_until(
    label: str, probe: Callable[[], T], *, deadline_s: float, poll_s: float = 0.005, poll_max_s: float = 0.25
) -> T:
    """Call ``probe`` until it answers something true.

    Args:
        label: what is waited for, for the error.
        probe: called again and again; an exception of its own ends the wait.
        deadline_s: give up after this many seconds (monotonic clock).
        poll_s: the first pause between two calls, in seconds; doubles each time.
        poll_max_s: the longest pause, in seconds.

    Returns:
        The first true answer.

    Raises:
        WaitTimeoutError: the deadline passed; carries the last answer.
    """
    started = time.monotonic()
    pause_s = poll_s
    while True:
        value = probe()
        if value:
            return value
        elapsed_s = time.monotonic() - started
        if elapsed_s >= deadline_s:
            raise WaitTimeoutError(label, elapsed_s=elapsed_s, last_value=value)
        time.sleep(min(pause_s, max(0.0, deadline_s - elapsed_s)))
        pause_s = min(pause_s * 2, poll_max_s)
