"""Values of rows and facts as text for a table; the page and the terminal show the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from harness.report.text import NOTHING, visible

# A table that is wider cannot be read on a terminal: the rest of a row is below it, or in the JSON.
_MOST_LISTED = 8
# From here on `g` writes an exponent.
_EXPONENT = 1e6


def show(value: Any) -> str:
    """One value as text: a dash for None, ``a, b`` for several, ``name=value`` for what has fields."""
    match value:
        case None:
            shown = NOTHING
        case bool():
            shown = "yes" if value else "no"
        case float():
            shown = f"{value:g}" if abs(value) < _EXPONENT else f"{value:.0f}"
        case Mapping():
            shown = _show_named(value)
        case Sequence() if not isinstance(value, str):
            shown = _show_several(value)
        case _ if is_dataclass(value):
            shown = _show_named({each.name: getattr(value, each.name) for each in fields(value)})
        case _:
            shown = visible(str(value))
    return shown


def _show_named(values: Mapping[Any, Any]) -> str:
    return "; ".join(f"{visible(str(name))}={show(each)}" for name, each in values.items()) or NOTHING


def _show_several(values: Sequence[Any]) -> str:
    if not values:
        return NOTHING
    shown = [f"({show(each)})" if is_dataclass(each) or isinstance(each, Mapping) else show(each) for each in values]
    more = len(shown) - _MOST_LISTED
    return ", ".join(shown[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def is_number(value: Any) -> bool:
    """Whether a column of such values is aligned to the right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def columns(rows: Sequence[Any]) -> list[str]:
    """Names of the columns that say something: those that are None in every row are left out."""
    if not rows:
        return []
    return [each.name for each in fields(rows[0]) if any(getattr(row, each.name) is not None for row in rows)]


def lines(rows: Sequence[Any], names: Sequence[str]) -> Iterator[list[str]]:
    """Each row as the texts of these columns."""
    for row in rows:
        yield [show(getattr(row, name)) for name in names]
