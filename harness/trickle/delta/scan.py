"""A table: what it holds, what it held, what came and went."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.rows import ONE, Rows, derived, names, select, union_all
from harness.trickle.delta.window import WEIGHT, Moment, Window
from harness.trickle.sources import Source


@dataclass(frozen=True)
class Scan(Rows):
    """The columns of a source that a query needs.

    Attributes:
        source: the table.
    """

    source: Source

    @classmethod
    def of(cls, source: Source, needed: frozenset[str]) -> Scan:
        """A scan of some columns, in the table's own order; of the first one if none is needed.

        A distributed table's distribution column is always among them: by it Citus sees that the table and what is
        taken back from it can be read shard by shard, both in one statement on the worker. Without it, it reads them
        one after the other, and what commits in between would be counted twice or not at all (docs/findings.md).
        """
        columns = tuple(
            column.name
            for column in source.columns
            if column.name in needed or column.name == source.distribution_column
        )
        return cls(columns or (source.columns[0].name,), source)

    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""
        return frozenset([self.source.relid])

    def at_query(self, moment: Moment, window: Window) -> sql.Composed:
        """The table; rows in it that are later than the moment come again, with the opposite weight (F21)."""
        return union_all(self.at_parts(moment, window))

    def at_parts(self, moment: Moment, window: Window) -> list[sql.Composed]:
        """The table, and what is taken back from it: joined with the table alone, a change looks rows up by index."""
        weight = sql.SQL("{} AS {}").format(ONE, WEIGHT)
        table = select([*names(self.columns), weight], self.source.table)
        beyond = window.beyond(self.source, moment)
        if beyond is None:
            return [table]
        return [table, window.of(self.source).images(self.columns, beyond, sign=-1)]

    def delta_query(self, window: Window) -> sql.Composed | None:
        """Its buffer's rows inside the window."""
        mine = window.of(self.source)
        if not mine.has_changes:
            return None
        # A limit would keep Citus from reading shard by shard.
        if self.source.is_distributed or mine.change_count is None:
            return mine.images(self.columns, mine.within(), sign=1)
        images = mine.images(self.columns, mine.within(), sign=1, at_most=mine.change_count)
        return select([*names(self.columns), WEIGHT], derived(images, "__pgt_l"))

    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each row of `at_query` has the weight 1."""
        return window.beyond(self.source, moment) is None

    def is_unique(self) -> bool:
        """Whether no two of its rows can be equal."""
        return bool(self.source.key) and set(self.source.key) <= set(self.columns)
