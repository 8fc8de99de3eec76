"""The scheduler: refreshes what is due, in order, on one writable coordinator, for as long as it is let.

The names below are loaded when they are first used, as those of `harness.trickle`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.scheduler.events import Event
    from harness.scheduler.figures import Figures, serve
    from harness.scheduler.loop import Options, Scheduler

_HOMES = {"Event": "events", "Figures": "figures", "Options": "loop", "Scheduler": "loop", "serve": "figures"}

__all__ = ["Event", "Figures", "Options", "Scheduler", "serve"]


def __getattr__(name: str) -> Any:
    """The public name, from the file where it lives.

    Raises:
        AttributeError: there is none of that name.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
