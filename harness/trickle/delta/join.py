"""Inner joins, any number: each changed table's changes with what the others held, before it the old, after it the new.

The change of A x B x C is dA x B' x C' + A x dB x C' + A x B x dC, where ' is the new moment: one term for each table that changed.
A join of one table is the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.rows import Rows, derived
from harness.trickle.delta.window import WEIGHT, Moment, Window


@dataclass(frozen=True)
class Term:
    """A FROM clause whose rows have a weight.

    Attributes:
        tables: what stands after FROM.
        weight: an expression.
        conditions: what its rows must fulfil.
    """

    tables: sql.Composed
    weight: sql.Composed
    conditions: tuple[sql.Composable, ...] = ()


@dataclass(frozen=True)
class Item:
    """Something in FROM, by its alias."""

    alias: str
    rows: Rows


@dataclass(frozen=True)
class Join:
    """The items of a FROM clause, joined on conditions; their aliases stay visible.

    Attributes:
        items: in the order of the query.
        conditions: of all its JOIN .. ON.
    """

    items: tuple[Item, ...]
    conditions: tuple[sql.Composable, ...] = ()

    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""
        return frozenset().union(*(item.rows.sources() for item in self.items))

    def _term(self, queries: Iterable[sql.Composed]) -> Term:
        tables = [derived(query, item.alias) for query, item in zip(queries, self.items, strict=True)]
        weights = [sql.SQL("{}.{}").format(sql.Identifier(item.alias), WEIGHT) for item in self.items]
        return Term(sql.SQL(" CROSS JOIN ").join(tables), sql.SQL(" * ").join(weights), self.conditions)

    def at_terms(self, moment: Moment, window: Window) -> list[Term]:
        """Its rows at one end of the window."""
        return [self._term([item.rows.at_query(moment, window) for item in self.items])]

    def delta_terms(self, window: Window) -> list[Term]:
        """How its rows changed: one term for each item that changed."""
        terms = []
        for place, item in enumerate(self.items):
            delta = item.rows.delta_query(window)
            if delta is None:
                continue
            before = [other.rows.at_query(Moment.OLD, window) for other in self.items[:place]]
            after = [other.rows.at_query(Moment.NEW, window) for other in self.items[place + 1 :]]
            terms.append(self._term([*before, delta, *after]))
        return terms

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each of its rows has the weight 1."""
        return all(item.rows.is_plain(moment, window) for item in self.items)
