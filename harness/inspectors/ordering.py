"""The order of rows, the place after one of them, and how much of them fits into an answer."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from harness.errors import BadInputError
from harness.inspectors.redaction import CELL_CHARACTERS, shorten

MOST_BYTES = 256 * 1024
# Elements of a list in a row that is too large for an answer: from here on halved until it fits.
_MOST_LISTED = 1024


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


@dataclass(frozen=True)
class Page:
    """As many rows as fit into an answer.

    Attributes:
        rows: their cells cut, and their lists too where a row is too large by itself.
        passed: how many rows the page has come past; the next one begins behind them.
        left_off: what of them is not in ``rows``, a line each.
    """

    rows: tuple[Any, ...]
    passed: int
    left_off: tuple[str, ...]


def fill_page(rows: Sequence[Any], most_bytes: int = MOST_BYTES) -> Page:
    """The rows from the first that fit into an answer of so many bytes of JSON.

    A row that does not fit by itself is shown with shorter lists; one that does not fit then is passed over. Both are
    told.
    """
    shown: list[Any] = []
    told: list[str] = []
    size = 0
    for passed, row in enumerate(rows):
        fitted, row_size, left_off = _fit(cut_cells(row), most_bytes)
        size += row_size
        if size > most_bytes:
            return Page(tuple(shown), passed, tuple(told))
        place = f"row {passed + 1} has more than {most_bytes} bytes"
        if fitted is None:
            told.append(f"{place}: it is left out")
            continue
        if left_off:
            told.append(f"{place}: {', '.join(f'{count} {name}' for name, count in left_off.items())} are left off")
        shown.append(fitted)
    return Page(tuple(shown), len(rows), tuple(told))


def _size(row: Any) -> int:
    return len(json.dumps(asdict(row), ensure_ascii=False).encode("utf-8", "surrogatepass")) + 2


def _fit(row: Any, most_bytes: int) -> tuple[Any, int, Counter[str]]:
    """The row, if need be with shorter lists; its size; how many elements of which list are missing.

    None and 0 for one that is too large with no list at all.
    """
    size = _size(row)
    if size <= most_bytes:
        return row, size, Counter()
    for halvings in range(_MOST_LISTED.bit_length() + 1):
        left_off: Counter[str] = Counter()
        fitted = _cap(row, _MOST_LISTED >> halvings, left_off)
        size = _size(fitted)
        if size <= most_bytes:
            return fitted, size, left_off
    return None, 0, Counter()


def _cap(value: Any, most: int, left_off: Counter[str], name: str = "") -> Any:
    """The same with at most so many elements in every list."""
    if isinstance(value, tuple):
        if len(value) > most:
            left_off[name] += len(value) - most
        return tuple(_cap(each, most, left_off, name) for each in value[:most])
    if is_dataclass(value) and not isinstance(value, type):
        capped = {each.name: _cap(getattr(value, each.name), most, left_off, each.name) for each in fields(value)}
        return replace(value, **capped)
    return value
