"""Inner joins, any number: each changed table's changes with what the others held, before it the old, after it the new.

The change of A x B x C is dA x B' x C' + A x dB x C' + A x B x dC, where ' is the new moment: one term for each table
that changed. A join of one table is the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from math import prod

from psycopg import sql

from harness.trickle.delta.rows import Rows, derived, names, select, union_all
from harness.trickle.delta.window import WEIGHT, Moment, Window

# A change meets each of the other tables in two parts at most; beyond so many joins of parts, each is read as one.
MOST_PARTS = 8


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
class Link:
    """Two columns that a join holds equal, each as alias and name."""

    left: tuple[str, str]
    right: tuple[str, str]

    def between(self, alias: str, others: frozenset[str]) -> tuple[str, tuple[str, str]] | None:
        """The column of one item, and the column of one of the others that it equals."""
        for mine, theirs in ((self.left, self.right), (self.right, self.left)):
            if mine[0] == alias and theirs[0] in others:
                return mine[1], theirs
        return None


@dataclass(frozen=True)
class Join:
    """The items of a FROM clause, joined on conditions; their aliases stay visible.

    Attributes:
        items: in the order of the query.
        conditions: of all its JOIN .. ON.
        links: columns that ON or WHERE hold equal.
        number: which join of the query it is.
    """

    items: tuple[Item, ...]
    conditions: tuple[sql.Composable, ...] = ()
    links: tuple[Link, ...] = ()
    number: int = 0

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
        """How its rows changed: a term for each item that changed, and for each part of those that it meets."""
        terms = []
        for place, item in enumerate(self.items):
            delta = item.rows.delta_query(window)
            if delta is None:
                continue
            parts = []
            for other, met in enumerate(self.items):
                staged = self._staged(place, other, window)
                if staged is not None:
                    parts.append([staged])
                elif other == place:
                    parts.append([delta])
                else:
                    parts.append(met.rows.at_parts(_moment(place, other), window))
            if prod(map(len, parts)) > MOST_PARTS:
                parts = [[union_all(part)] for part in parts]
            terms += [self._term(queries) for queries in product(*parts)]
        return terms

    def other_query(self, changed: int, other: int, window: Window) -> sql.Composed:
        """What one item is joined with when another one changed."""
        return self.items[other].rows.at_query(_moment(changed, other), window)

    def _staged(self, changed: int, other: int, window: Window) -> sql.Composed | None:
        table = window.staged.get((self.number, changed, other))
        if table is None:
            return None
        return select([*names(self.items[other].rows.columns), WEIGHT], table)

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each of its rows has the weight 1."""
        return all(item.rows.is_plain(moment, window) for item in self.items)


def _moment(changed: int, other: int) -> Moment:
    """When an item is met by another one's change: its old rows, if it stands before that one, else its new."""
    return Moment.OLD if other < changed else Moment.NEW
