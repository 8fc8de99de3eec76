"""Stream tables: what is captured becomes, at each refresh, what their queries say.

The names below are loaded when they are first used: whoever only needs a stable name does not wait for a SQL parser.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.trickle.catalog import Dependency, Refresh, StreamTable
    from harness.trickle.explain import Explanation
    from harness.trickle.status import Holder, Status
    from harness.trickle.stream_tables import StreamTables

_HOMES = {
    "Dependency": "catalog",
    "Explanation": "explain",
    "Holder": "status",
    "Refresh": "catalog",
    "Status": "status",
    "StreamTable": "catalog",
    "StreamTables": "stream_tables",
}

__all__ = ["Dependency", "Explanation", "Holder", "Refresh", "Status", "StreamTable", "StreamTables"]


def __getattr__(name: str) -> Any:
    """The public name, from the file where it lives.

    Raises:
        AttributeError: there is none of that name.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
