"""What a scheduler tells: one thing that happened, for a log, a terminal or a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "started", "refreshed", "failed", "skipped", "refused", "repaired", "lost", "connected", "stopping", "stopped"
]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: what.
        message: for people, one line.
        stream_table: whose, as SQL writes it; None: of the scheduler itself.
        action: of a refresh.
        elapsed_ms: of a refresh, in milliseconds.
        hint: what to do about it.
    """

    kind: Kind
    message: str
    stream_table: str | None = None
    action: str | None = None
    elapsed_ms: float | None = None
    hint: str = ""


OnEvent = Callable[[Event], None]
