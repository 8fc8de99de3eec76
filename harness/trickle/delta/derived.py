"""A subquery in FROM, a view or a reference to a CTE: a query under an alias, its columns perhaps under other names."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta import rows as _rows
from harness.trickle.delta.rows import Rows, as_column, select
from harness.trickle.delta.window import WEIGHT, Moment, Window


@dataclass(frozen=True)
class Derived(Rows):
    """The rows of a query whose columns have other names here.

    Attributes:
        rows: the query.
    """

    rows: Rows

    @classmethod
    def of(cls, rows: Rows, columns: tuple[str, ...]) -> Rows:
        """The rows under these names; a list shorter than the query's columns names the first ones."""
        wanted = (*columns, *rows.columns[len(columns) :])
        return rows if wanted == rows.columns else cls(wanted, rows)

    def _renamed(self, query: sql.Composed) -> sql.Composed:
        items = [
            as_column(sql.Identifier(was), name) for was, name in zip(self.rows.columns, self.columns, strict=True)
        ]
        return select([*items, WEIGHT], _rows.derived(query, "__pgt_d"))

    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""
        return self.rows.sources()

    def at_query(self, moment: Moment, window: Window) -> sql.Composed:
        """Its rows at one end of the window, with weights."""
        return self._renamed(self.rows.at_query(moment, window))

    def delta_query(self, window: Window) -> sql.Composed | None:
        """How its rows changed, with weights; None: none of its sources changed."""
        delta = self.rows.delta_query(window)
        return None if delta is None else self._renamed(delta)

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each row of `at_query` has the weight 1."""
        return self.rows.is_plain(moment, window)

    def is_unique(self) -> bool:
        """Whether no two of its rows can be equal."""
        return self.rows.is_unique()
