"""DISTINCT, and UNION: each row once, as a group of its own."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from harness.trickle.delta.aggregate import Aggregate, Key
from harness.trickle.delta.filter import Filter
from harness.trickle.delta.join import Item, Join
from harness.trickle.delta.rows import Rows
from harness.trickle.delta.template import Template, place

_ALIAS = "__pgt_t"


def distinct(rows: Rows, types: Sequence[tuple[str, bool]]) -> Aggregate:
    """The different rows among some.

    Args:
        rows: the query below.
        types: of its columns, as SQL writes them, and whether it is an enum.
    """
    keys = tuple(
        Key(f"k{number}", sql.Identifier(column), type_text, is_enum, (_ALIAS, column))
        for number, (column, (type_text, is_enum)) in enumerate(zip(rows.columns, types, strict=True))
    )
    return Aggregate(
        columns=rows.columns,
        rows=Filter(Join((Item(_ALIAS, rows),))),
        keys=keys,
        calls=(),
        outputs=tuple(Template.of(place(key.place)) for key in keys),
        having=None,
        has_groups=True,
    )
