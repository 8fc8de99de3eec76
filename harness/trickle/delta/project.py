"""The SELECT list: expressions over rows, which keep their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.filter import Filter
from harness.trickle.delta.join import Term
from harness.trickle.delta.rows import Rows, as_column, select, union_all
from harness.trickle.delta.scan import Scan
from harness.trickle.delta.window import WEIGHT, Moment, Window


def projected(terms: Sequence[Term], items: Sequence[sql.Composable]) -> sql.Composed:
    """Expressions over terms, and the weight."""
    return union_all(
        [
            select(
                [*items, sql.SQL("{} AS {}").format(term.weight, WEIGHT)],
                term.tables,
                where=sql.SQL(" AND ").join(term.conditions) if term.conditions else None,
            )
            for term in terms
        ]
    )


@dataclass(frozen=True)
class Project(Rows):
    """A SELECT list without aggregates.

    Attributes:
        rows: FROM and WHERE.
        expressions: one a column.
        plain_columns: of those that are a column and nothing else: alias and name, by place.
    """

    rows: Filter
    expressions: tuple[sql.Composable, ...]
    plain_columns: tuple[tuple[str, str] | None, ...]

    def _items(self) -> list[sql.Composable]:
        return [as_column(item, name) for item, name in zip(self.expressions, self.columns, strict=True)]

    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""
        return self.rows.sources()

    def at_query(self, moment: Moment, window: Window) -> sql.Composed:
        """Its rows at one end of the window, with weights."""
        return projected(self.rows.at_terms(moment, window), self._items())

    def delta_query(self, window: Window) -> sql.Composed | None:
        """How its rows changed, with weights; None: none of its sources changed."""
        terms = self.rows.delta_terms(window)
        return projected(terms, self._items()) if terms else None

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each row of `at_query` has the weight 1."""
        return self.rows.is_plain(moment, window)

    def is_unique(self) -> bool:
        """Where the selected columns say which row of every table in FROM it is: the same row cannot come twice.

        A table whose key is selected is known, and so is one whose key the join holds equal to columns of known ones.
        """
        if not all(item.rows.is_unique() for item in self.rows.items):
            return False
        kept = {found for found in self.plain_columns if found is not None}
        known: set[str] = set()
        while True:
            found = {
                item.alias
                for item in self.rows.items
                if all(
                    (item.alias, name) in kept or self._is_linked((item.alias, name), known)
                    for name in unique_columns(item.rows)
                )
            }
            if found == known:
                return len(known) == len(self.rows.items)
            known = found

    def _is_linked(self, column: tuple[str, str], known: set[str]) -> bool:
        return any(
            mine == column and theirs[0] in known and theirs[0] != column[0]
            for link in self.rows.join.links
            for mine, theirs in ((link.left, link.right), (link.right, link.left))
        )


def unique_columns(rows: Rows) -> tuple[str, ...]:
    """Columns that together are different in every row, of rows that are unique."""
    return rows.source.key if isinstance(rows, Scan) else rows.columns
