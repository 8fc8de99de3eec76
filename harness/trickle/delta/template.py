"""An expression with places in it that are filled later: a SELECT list over aggregates that are kept elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql
from sqlglot import exp

from harness.trickle.delta.dialect import text_of

# No query may use such a name (`harness.trickle.stream_tables` refuses them), so a text that has one has it from here.
_PLACE = re.compile(r'"__pgt_place_([a-z0-9]+)"')


def place(name: str) -> exp.Expression:
    """What stands for a value that is filled in later."""
    return exp.column(exp.to_identifier(f"__pgt_place_{name}", quoted=True))


@dataclass(frozen=True)
class Template:
    """An expression with places.

    Attributes:
        text: with a quoted name for each place.
    """

    text: str

    @classmethod
    def of(cls, node: exp.Expression) -> Template:
        """The template that an expression with `place` nodes is."""
        return cls(text_of(node))

    @property
    def only_place(self) -> str | None:
        """The place that it is, where it is nothing else."""
        found = _PLACE.fullmatch(self.text.strip())
        return found.group(1) if found else None

    @property
    def places(self) -> frozenset[str]:
        """The names of its places."""
        return frozenset(_PLACE.findall(self.text))

    def fill(self, values: Mapping[str, sql.Composable]) -> sql.Composed:
        """The expression with a value at each place."""
        parts: list[sql.Composable] = []
        for number, part in enumerate(_PLACE.split(self.text)):
            # re.split gives text and place in turn.
            if number % 2:
                parts.append(sql.SQL("({})").format(values[part]))
            elif part:
                parts.append(sql.SQL(part))
        return sql.Composed(parts)
