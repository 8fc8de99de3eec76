"""WHERE: a condition on rows, which keeps their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from psycopg import sql

from harness.trickle.delta.join import Item, Join, Term
from harness.trickle.delta.window import Moment, Window


@dataclass(frozen=True)
class Filter:
    """A join, restricted.

    Attributes:
        join: whose rows.
        condition: of WHERE; None: all of them.
    """

    join: Join
    condition: sql.Composable | None = None

    @property
    def items(self) -> tuple[Item, ...]:
        """What is in FROM."""
        return self.join.items

    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""
        return self.join.sources()

    def _restricted(self, terms: list[Term]) -> list[Term]:
        if self.condition is None:
            return terms
        return [replace(term, conditions=(*term.conditions, self.condition)) for term in terms]

    def at_terms(self, moment: Moment, window: Window) -> list[Term]:
        """Its rows at one end of the window."""
        return self._restricted(self.join.at_terms(moment, window))

    def delta_terms(self, window: Window) -> list[Term]:
        """How its rows changed."""
        return self._restricted(self.join.delta_terms(window))

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each of its rows has the weight 1."""
        return self.join.is_plain(moment, window)
