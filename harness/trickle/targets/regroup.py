"""Groups that are computed anew when a change touches them: HAVING, float sums, DISTINCT in an aggregate."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from harness.trickle.delta.aggregate import Aggregate, group_hash
from harness.trickle.delta.rows import as_column, derived, names, select
from harness.trickle.delta.window import Moment, Window
from harness.trickle.sources import raw_expression
from harness.trickle.targets.shape import ROW_ID, Shape, StorageColumn
from harness.trickle.targets.target import Applied, Place, Runner, Target, insert_query, stage_query, staged

_AGAIN = "__pgt_again"


class RegroupTarget(Target):
    """The groups of an outermost aggregate of which a change does not say the new value.

    Args:
        rows: the aggregate.
        types: the types of its columns.
    """

    strategy = "regroup"

    def __init__(self, rows: Aggregate, types: Sequence[str]) -> None:
        self.rows: Aggregate = rows
        self._types = tuple(types)

    @property
    def shape(self) -> Shape:
        """What the table looks like."""
        shown = (StorageColumn(name, type_) for name, type_ in zip(self.rows.columns, self._types, strict=True))
        return Shape((StorageColumn(ROW_ID, "bigint", is_not_null=True), *shown), (ROW_ID,))

    def full_query(self, moment: Moment, window: Window) -> sql.Composed:
        """All rows that the table has to hold, its columns in order."""
        return self._full(moment, window, None)

    def _full(self, moment: Moment, window: Window, affected: sql.Composable | None) -> sql.Composed:
        row_id = group_hash(list(zip(self.rows.keys, names([key.name for key in self.rows.keys]), strict=True)))
        groups = self.rows.groups_at_query(moment, window, affected=affected, extra=[as_column(row_id, ROW_ID)])
        typed = [
            as_column(
                sql.SQL("{}::{}").format(sql.Identifier(column.name), raw_expression(column.type_text)), column.name
            )
            for column in self.shape.columns
        ]
        return select(typed, derived(groups, "__pgt_g"))

    def apply(self, runner: Runner, place: Place, window: Window) -> Applied:
        """Bring the table from the window's old end to its new one (errors: see `Target.apply`)."""
        if not window.has_changes(self.rows.sources()):
            return Applied()
        runner.run("the groups that a change touches", lambda: stage_query(_AGAIN, self._affected(window)))
        ids = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(ROW_ID), staged(_AGAIN))
        gone = runner.run(
            "they go",
            lambda: sql.SQL("DELETE FROM {} WHERE {} IN ({})").format(place.table, sql.Identifier(ROW_ID), ids),
        )
        came = runner.run(
            "and come as they are now",
            lambda: insert_query(place, self, self._full(Moment.NEW, window, ids)),
        )
        return Applied(came, gone)

    def _affected(self, window: Window) -> sql.Composed:
        affected = self.rows.affected_query(window)
        if affected is None:
            raise AssertionError("a source changed, and no group did")
        return select(
            [sql.SQL("{} AS {}").format(sql.Identifier("__pgt_h"), sql.Identifier(ROW_ID))],
            derived(affected, "__pgt_a"),
        )
