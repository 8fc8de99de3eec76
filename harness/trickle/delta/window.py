"""The span that a refresh works on: from the cut where it last stopped to where it stops now; how both are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from psycopg import sql

from harness.trickle.frontier import GROUP_BITS, Cut
from harness.trickle.sources import Source, SourceColumn, raw_expression

# The weight of a row: +1 one that came, -1 one that went (F21).
WEIGHT_NAME = "__pgt_w"
WEIGHT = sql.Identifier(WEIGHT_NAME)
_BUFFER = sql.Identifier("__pgt_b")


def held_by(cut: Cut, source: Source) -> sql.Composed:
    """A condition on ``__pgt_b``, a source's buffer: the row is in a cut."""
    xid = sql.SQL("{}.xid").format(_BUFFER)
    if not source.is_distributed:
        return cut.holds(xid)
    return cut.holds(xid, sql.SQL("({}.seq_id >> {})").format(_BUFFER, sql.Literal(GROUP_BITS)))


class Moment(Enum):
    """One of the two ends of a window, or simply now: the tables as the reader's snapshot has them."""

    OLD = "old"
    NEW = "new"
    NOW = "now"


@dataclass(frozen=True)
class SourceWindow:
    """What a refresh knows of one source.

    Attributes:
        source: the table.
        has_changes: whether its buffer holds a row inside the window.
        old: where the last refresh stopped; None: there was none, and only NEW can be read.
        new: where this one stops. A local or reference source is read in the refresh's own snapshot, which is that cut.
        change_count: how many buffer rows are inside the window, exactly, or what stands for it; None: not counted.
        is_large: whether so many that whole tables had better be read than looked up in.
    """

    source: Source
    has_changes: bool
    old: Cut | None
    new: Cut
    change_count: int | sql.SQL | None = None
    is_large: bool = False

    def _holds(self, cut: Cut) -> sql.Composed:
        return held_by(cut, self.source)

    def beyond(self, moment: Moment) -> sql.Composed | None:
        """Which buffer rows are in the table and not yet in it at that moment; None: none can be."""
        if moment is Moment.NEW:
            return sql.SQL("NOT ({})").format(self._holds(self.new)) if self.source.is_distributed else None
        if not self.source.is_distributed and not self.has_changes:
            return None
        return self.since()

    def since(self) -> sql.Composed:
        """Which buffer rows are not in the old cut."""
        if self.old is None:
            raise ValueError(f"{self.source.qualified} has no old moment")
        return sql.SQL("NOT ({})").format(self._holds(self.old))

    def within(self) -> sql.Composed:
        """Which buffer rows are inside the window: in the refresh's own snapshot all that are not in the old cut."""
        if not self.source.is_distributed:
            return self.since()
        return sql.SQL("{} AND {}").format(self.since(), self._holds(self.new))

    def images(
        self, columns: tuple[str, ...], condition: sql.Composable, *, sign: int, at_most: int | sql.SQL | None = None
    ) -> sql.Composed:
        """Rows of the buffer as rows of the table, with their weights.

        Args:
            columns: of the source; generated ones are computed from the others.
            condition: which buffer rows.
            sign: 1: as they happened; -1: taken back.
            at_most: how many there are. A buffer is never analyzed and mostly holes, so the planner guesses far too
                many, and reads whole tables where it should look rows up; LIMIT tells it.
        """
        plain = [column for column in self.source.columns if column.generated is None]
        has_generated = len(plain) < len(self.source.columns)
        needed = plain if has_generated else [column for column in plain if column.name in columns]
        rows = self._rows(needed, condition, sign)
        if at_most is not None:
            rows = sql.SQL("{} LIMIT {}").format(
                rows, at_most if isinstance(at_most, sql.SQL) else sql.Literal(at_most)
            )
        if has_generated:
            return sql.SQL("SELECT {} FROM ({}) AS {}").format(
                sql.SQL(", ").join([*self._computed(columns), WEIGHT]), rows, _BUFFER
            )
        return rows

    def _rows(self, columns: Sequence[SourceColumn], condition: sql.Composable, sign: int) -> sql.Composed:
        """The images in one scan: a row that came has no old values, and one that went has no new ones."""
        values = [
            # What Citus has to recognise as the distribution column (F14, F21).
            sql.SQL("{}.shard_key AS {}").format(_BUFFER, sql.Identifier(column.name))
            if column.name == self.source.distribution_column
            else sql.SQL("coalesce({0}.{1}, {0}.{2}) AS {3}").format(
                _BUFFER,
                sql.Identifier(column.new_name),
                sql.Identifier(column.old_name),
                sql.Identifier(column.name),
            )
            for column in columns
        ]
        # Of a comparison the planner, which knows no statistics of a buffer, expects one row in two hundred, and looks
        # up what a change meets, which is right for few; of this it expects half.
        which = sql.SQL("coalesce({0}.action IN ('I', 'D'), false)" if self.is_large else "{0}.action IN ('I', 'D')")
        return sql.SQL(
            "SELECT {values}, CASE {buffer}.action WHEN 'I' THEN {came} ELSE {went} END AS {weight}"
            " FROM {table} AS {buffer} WHERE {which} AND {condition}"
        ).format(
            values=sql.SQL(", ").join(values),
            # Of one type with the weights of whole tables: Citus pushes no union down that casts.
            came=sql.SQL("{}::bigint").format(sql.Literal(sign)),
            went=sql.SQL("{}::bigint").format(sql.Literal(-sign)),
            weight=WEIGHT,
            table=self.source.buffer,
            buffer=_BUFFER,
            which=which.format(_BUFFER),
            condition=condition,
        )

    def _computed(self, columns: tuple[str, ...]) -> list[sql.Composable]:
        found: list[sql.Composable] = []
        for name in columns:
            column = self.source.column(name)
            if column.generated is None:
                found.append(sql.Identifier(name))
            else:
                found.append(
                    sql.SQL("({})::{} AS {}").format(
                        raw_expression(column.generated), raw_expression(column.type_text), sql.Identifier(name)
                    )
                )
        return found


@dataclass(frozen=True)
class Window:
    """The windows of all sources of a query.

    Attributes:
        sources: by OID.
        staged: temporary tables in place of what a join would read: by the join's number, the place of the item that
            changed and the place of the item that is read (`harness.trickle.delta.staging`).
    """

    sources: Mapping[int, SourceWindow] = field(default_factory=dict)
    staged: Mapping[tuple[int, int, int], sql.Identifier] = field(default_factory=dict)

    def beyond(self, source: Source, moment: Moment) -> sql.Composed | None:
        """Which rows of a source's buffer are in the table and not yet in it at that moment; None: none can be."""
        return None if moment is Moment.NOW else self.of(source).beyond(moment)

    def of(self, source: Source) -> SourceWindow:
        """The window of one source."""
        return self.sources[source.relid]

    def has_changes(self, sources: frozenset[int]) -> bool:
        """Whether one of these sources, by OID, has changed."""
        return any(self.sources[relid].has_changes for relid in sources)
