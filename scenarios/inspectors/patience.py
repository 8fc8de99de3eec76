"""Looks on a busy machine: a node that is well may take longer to let somebody in than a look gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.inspectors import Envelope
from harness.inspectors.contract import Reason

# What a node has for a connection is 1.25 s (limits.py).
BUSY = {Reason.NODE_UNREACHABLE, Reason.STATEMENT_TIMEOUT, Reason.LOCK_TIMEOUT}
_TRIES = 3


def look_until_heard(look: Callable[[], Envelope[Any]]) -> Envelope[Any]:
    """Look again, twice at most, as long as what is missing may be missing because the machine is busy."""
    found = look()
    for _ in range(_TRIES - 1):
        if found.reason not in BUSY:
            break
        found = look()
    return found
