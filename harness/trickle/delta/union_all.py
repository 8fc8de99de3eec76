"""UNION ALL: the rows of both, and the changes of both."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.rows import Rows, derived, names, select, union_all
from harness.trickle.delta.window import WEIGHT, Moment, Window


@dataclass(frozen=True)
class UnionAll(Rows):
    """Several queries after one another, all with the same column names.

    Attributes:
        parts: the queries.
    """

    parts: tuple[Rows, ...]

    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""
        return frozenset().union(*(part.sources() for part in self.parts))

    def at_query(self, moment: Moment, window: Window) -> sql.Composed:
        """Its rows at one end of the window, with weights."""
        return union_all([part.at_query(moment, window) for part in self.parts])

    def delta_query(self, window: Window) -> sql.Composed | None:
        """How its rows changed, with weights; None: none of its sources changed."""
        if not window.has_changes(self.sources()):
            return None
        found = []
        for part in self.parts:
            delta = part.delta_query(window)
            if delta is None:
                # It stays for its types alone: what the union's columns are must not depend on which part changed.
                delta = select(
                    [*names(part.columns), WEIGHT],
                    derived(part.at_query(Moment.NOW, window), "__pgt_u"),
                    where=sql.SQL("false"),
                )
            found.append(delta)
        return union_all(found)

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each row of `at_query` has the weight 1."""
        return all(part.is_plain(moment, window) for part in self.parts)
