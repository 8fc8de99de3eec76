"""The order of rows, the place after one of them, and how much of them fits into an answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from harness.errors import BadInputError
from harness.inspectors.redaction import CELL_CHARACTERS, shorten

MOST_BYTES = 256 * 1024


def _key(value: Any) -> Any:
    """What values of one field are compared by: text by its UTF-8 bytes, whatever the server's collation."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, tuple | list):
        return tuple(_key(each) for each in value)
    return value


def _fields(ordering: Sequence[str]) -> list[tuple[str, bool]]:
    return [(each.removeprefix("-"), each.startswith("-")) for each in ordering]


def sort_rows(rows: Sequence[Any], ordering: Sequence[str]) -> list[Any]:
    """All rows in their order: NULLs last, whether ascending or descending."""
    found = list(rows)
    for name, is_descending in reversed(_fields(ordering)):
        known = [row for row in found if getattr(row, name) is not None]
        unknown = [row for row in found if getattr(row, name) is None]
        known.sort(key=lambda row, name=name: _key(getattr(row, name)), reverse=is_descending)  # type: ignore[misc]
        found = known + unknown
    return found


def make_cursor(name: str, row: Any, ordering: Sequence[str]) -> str:
    """Where an answer of an inspector ended: its last row's sort key."""
    key = [getattr(row, field) for field, _ in _fields(ordering)]
    text = json.dumps([name, key], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def rows_after(rows: list[Any], name: str, ordering: Sequence[str], cursor: str) -> list[Any]:
    """Of sorted rows those after a cursor; the row that it was made of need not be there any more.

    Raises:
        BadInputError: it is no cursor of this inspector.
    """
    problem = BadInputError(
        f"cursor={cursor!r:.80} cannot be used", hint=f"give next_cursor of an answer of {name}, unchanged"
    )
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        whose, key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True).decode("utf-8"))
    except (ValueError, TypeError, RecursionError):
        raise problem from None
    directions = _fields(ordering)
    if whose != name or not isinstance(key, list) or len(key) != len(directions):
        raise problem
    try:
        return [row for row in rows if _is_after(row, key, directions)]
    except TypeError:
        raise problem from None


def _is_after(row: Any, key: list[Any], directions: list[tuple[str, bool]]) -> bool:
    for (field, is_descending), wanted in zip(directions, key, strict=True):
        value = _key(getattr(row, field))
        last = _key(wanted)
        if value == last:
            continue
        if value is None or last is None:
            return value is None
        return bool(value < last if is_descending else value > last)
    return False


def cut_cells(row: Any) -> Any:
    """The same row with every text cut at 200 characters, in rows within it too."""
    changes = {}
    for name, value in vars(row).items():
        shown = _cut(value)
        if shown is not value:
            changes[name] = shown
    return replace(row, **changes) if changes else row


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return shorten(value, CELL_CHARACTERS)
    if isinstance(value, tuple):
        shown = tuple(_cut(each) for each in value)
        return value if all(new is old for new, old in zip(shown, value, strict=True)) else shown
    if is_dataclass(value) and not isinstance(value, type):
        return cut_cells(value)
    return value


def fitting(rows: Sequence[Any], most_bytes: int = MOST_BYTES) -> int:
    """How many rows from the first fit into an answer of so many bytes of JSON."""
    size = 0
    for count, row in enumerate(rows):
        size += len(json.dumps(asdict(row), ensure_ascii=False).encode("utf-8", "surrogatepass")) + 2
        if size > most_bytes:
            return count
    return len(rows)
