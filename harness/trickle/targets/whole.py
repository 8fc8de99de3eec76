"""A result that is recomputed each time: whatever has no incremental form."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from harness.trickle.canonical import OutputColumn
from harness.trickle.delta.rows import as_column, derived, select
from harness.trickle.delta.window import Moment, Window
from harness.trickle.targets.shape import ROW_ID, Shape, StorageColumn
from harness.trickle.targets.target import Applied, Place, Runner, Target


class WholeTarget(Target):
    """Any query.

    Args:
        query: the query.
        columns: what it returns.
    """

    strategy = "whole"

    def __init__(self, query: sql.SQL, columns: Sequence[OutputColumn]) -> None:
        self.rows = None
        self._query = query
        self._columns = tuple(columns)

    @property
    def shape(self) -> Shape:
        """What the table looks like."""
        shown = (StorageColumn(column.name, column.type_text) for column in self._columns)
        return Shape((StorageColumn(ROW_ID, "bigint", is_not_null=True), *shown), (ROW_ID,))

    def full_query(self, moment: Moment, window: Window) -> sql.Composed:
        """All rows of the query; it has one moment, now."""
        items: list[sql.Composable] = [as_column(sql.SQL("row_number() OVER ()"), ROW_ID)]
        items += [sql.Identifier(column.name) for column in self._columns]
        return select(items, derived(self._query, "__pgt_q"))

    def apply(self, runner: Runner, place: Place, window: Window) -> Applied:
        """Never called: there is no delta.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a query that is recomputed has no delta")
