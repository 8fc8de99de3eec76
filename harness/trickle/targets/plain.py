"""Rows as a multiset: each is found by a hash of itself and, among equal ones, by an ordinal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from harness.errors import OutOfStepError
from harness.trickle.delta.rows import Rows, as_column, derived, names, row_hash, select
from harness.trickle.delta.window import WEIGHT, Moment, Window
from harness.trickle.sources import raw_expression
from harness.trickle.targets.shape import ORDINAL, ROW_ID, Shape, StorageColumn, of, same
from harness.trickle.targets.target import (
    Applied,
    Making,
    Place,
    Runner,
    Target,
    Way,
    insert_query,
    run_merge,
    stage_query,
    staged,
)

_DELTA = "__pgt_delta"
_T, _D, _H = "__pgt_t", "__pgt_d", "__pgt_h"
_NUMBER, _FOUND, _AT = "__pgt_i", "__pgt_c", "__pgt_at"


@dataclass(frozen=True)
class RowColumn:
    """A column of the result.

    Attributes:
        name: of the column.
        type_text: as SQL writes it.
        send: the type's own binary output, by schema and name, where equal values may look different (1.0 and 1.00) or
            the type knows no equality (json): the image is compared then. None: equal values are the same.
    """

    name: str
    type_text: str
    send: tuple[str, str] | None

    def identity(self, value: sql.Composable) -> sql.Composable:
        """What says which value it is."""
        if self.send is None:
            return value
        return sql.SQL("{}({})").format(sql.Identifier(*self.send), value)


class RowTarget(Target):
    """The rows of a query without an outermost aggregate.

    Args:
        rows: the query.
        columns: its columns, with how their values are told apart.
    """

    strategy = "rows"

    def __init__(self, rows: Rows, columns: Sequence[RowColumn]) -> None:
        self.rows: Rows = rows
        self._columns = tuple(columns)

    @property
    def shape(self) -> Shape:
        """What the table looks like."""
        return Shape(
            (
                StorageColumn(ROW_ID, "bigint", is_not_null=True),
                *(StorageColumn(column.name, column.type_text) for column in self._columns),
                StorageColumn(ORDINAL, "integer", is_not_null=True),
            ),
            (ROW_ID, ORDINAL),
        )

    def _settled(self, query: sql.Composed, distribution_column: str | None = None) -> sql.Composed:
        """Each different row once: its row id, its columns, its weight."""
        typed = [
            as_column(sql.SQL("{}::{}").format(sql.Identifier(c.name), raw_expression(c.type_text)), c.name)
            if c.name != distribution_column
            else sql.Identifier(c.name)
            for c in self._columns
        ]
        rows = select([*typed, WEIGHT], derived(query, "__pgt_q"))
        identities = [column.identity(sql.Identifier(column.name)) for column in self._columns]
        row_id = row_hash(identities)
        group = list(identities)
        kept: list[sql.Composable] = []
        for column in self._columns:
            if column.send is None:
                kept.append(sql.Identifier(column.name))
            elif column.name == distribution_column:
                group.append(sql.Identifier(column.name))
                kept.append(sql.Identifier(column.name))
            else:
                # Equal images are equal values: any of them.
                kept.append(as_column(sql.SQL("any_value({})").format(sql.Identifier(column.name)), column.name))
        total = sql.SQL("sum({})").format(WEIGHT)
        return select(
            [as_column(row_id, ROW_ID), *kept, sql.SQL("{}::bigint AS {}").format(total, WEIGHT)],
            derived(rows, "__pgt_q"),
            group_by=group or (sql.SQL("()"),),
            having=sql.SQL("{} <> 0").format(total),
        )

    def full_query(self, moment: Moment, window: Window) -> sql.Composed:
        """All rows that the table has to hold, its columns in order."""
        query = self.rows.at_query(moment, window)
        if self.rows.is_unique() and self.rows.is_plain(moment, window):
            typed = [
                as_column(sql.SQL("{}::{}").format(sql.Identifier(c.name), raw_expression(c.type_text)), c.name)
                for c in self._columns
            ]
            identities = [column.identity(sql.Identifier(column.name)) for column in self._columns]
            row_id = row_hash(identities)
            shown = names([column.name for column in self._columns])
            return select(
                [as_column(row_id, ROW_ID), *shown, as_column(sql.SQL("0::integer"), ORDINAL)],
                derived(select(typed, derived(query, "__pgt_q")), "__pgt_r"),
            )
        shown = [of(_D, column.name) for column in self._columns]
        each = sql.SQL("{} CROSS JOIN LATERAL generate_series(1, {}) AS {}({})").format(
            derived(self._settled(query), _D), of(_D, "__pgt_w"), sql.Identifier(_H), sql.Identifier(_AT)
        )
        ordinal = sql.SQL("({} - 1)::integer").format(of(_H, _AT))
        return select([of(_D, ROW_ID), *shown, as_column(ordinal, ORDINAL)], each)

    def _match(self, place: Place, left: str, right: str) -> sql.Composed:
        conditions = [same(of(left, ROW_ID), of(right, ROW_ID), is_not_null=True)]
        for column in self._columns:
            is_key = column.name == place.distribution_column
            if is_key:
                conditions.append(same(of(left, column.name), of(right, column.name), is_not_null=True))
            if not is_key or column.send is not None:
                conditions.append(same(column.identity(of(left, column.name)), column.identity(of(right, column.name))))
        return sql.SQL(" AND ").join(conditions)

    def apply(self, runner: Runner, place: Place, window: Window) -> Applied:
        """Bring the table from the window's old end to its new one (errors: see `Target.apply`)."""
        if not window.has_changes(self.rows.sources()):
            return Applied()

        def settled() -> sql.Composed:
            return self._settled(self._delta(window), place.distribution_column)

        if place.way is Way.MERGE and self.rows.is_unique():
            return self._merge(runner, place, lambda: self._numbered_unique(settled()))
        if self.rows.is_unique():
            runner.run("the change of each row", lambda: stage_query(_DELTA, settled()))

            def rows() -> sql.Composed:
                return self._numbered_unique(select([sql.SQL("*")], staged(_DELTA)))
        else:
            number = sql.SQL("row_number() OVER () AS {}").format(sql.Identifier(_NUMBER))
            runner.run(
                "the change of each row",
                lambda: stage_query(_DELTA, select([sql.SQL("*"), number], derived(settled(), "__pgt_s"))),
            )
            runner.run("where equal rows end", lambda: stage_query(_H, self._found_query(place)))
            rows = self._numbered
        if place.way is not Way.STAGED:
            return self._merge(runner, place, rows)
        return self._write(runner, place, rows)

    def _delta(self, window: Window) -> sql.Composed:
        delta = self.rows.delta_query(window)
        if delta is None:
            raise AssertionError("a source changed, and no row did")
        return delta

    def _numbered_unique(self, rows: sql.Composed) -> sql.Composed:
        shown = names([ROW_ID, *(column.name for column in self._columns)])
        return select(
            [*shown, WEIGHT, as_column(sql.SQL("(CASE WHEN abs({}) = 1 THEN 0 END)").format(WEIGHT), _AT)],
            derived(rows, "__pgt_u"),
        )

    def _found_query(self, place: Place) -> sql.Composed:
        """How many equal rows the table holds, for each row of the delta that it holds at all."""
        return select(
            [of(_D, _NUMBER), as_column(sql.SQL("count(*)"), _FOUND)],
            sql.SQL("{} AS {} JOIN {} AS {} ON {}").format(
                staged(_DELTA), sql.Identifier(_D), place.table, sql.Identifier(_T), self._match(place, _T, _D)
            ),
            group_by=[of(_D, _NUMBER)],
        )

    def _numbered(self) -> sql.Composed:
        """A row for each that comes or goes, with its ordinal: they come after the last one, and the last ones go."""
        shown = [of(_D, column) for column in (ROW_ID, *(c.name for c in self._columns), "__pgt_w")]
        found = sql.SQL("coalesce({}, 0)").format(of(_H, _FOUND))
        at = sql.SQL("(CASE WHEN {w} > 0 THEN {c} + g.i - 1 WHEN {c} >= g.i THEN {c} - g.i END)").format(
            w=of(_D, "__pgt_w"), c=found
        )
        tables = sql.SQL(
            "{} AS {} LEFT JOIN {} AS {} USING ({}) CROSS JOIN LATERAL generate_series(1, abs({})) AS g(i)"
        ).format(
            staged(_DELTA),
            sql.Identifier(_D),
            staged(_H),
            sql.Identifier(_H),
            sql.Identifier(_NUMBER),
            of(_D, "__pgt_w"),
        )
        return select([*shown, as_column(at, _AT)], tables)

    def _merge(self, runner: Runner, place: Place, rows: Making) -> Applied:
        return run_merge(runner, "rows go and come", place, lambda: self._merge_query(place, rows()))

    def _merge_query(self, place: Place, rows: sql.Composed) -> sql.Composed:
        # NULL for a row that comes, so that nothing is looked up for it: an index is not even entered.
        condition = sql.SQL("{} AND {} = (CASE WHEN {} < 0 THEN {} END)").format(
            self._match(place, _T, _D), of(_T, ORDINAL), of(_D, "__pgt_w"), of(_D, _AT)
        )
        shown = [ROW_ID, *(column.name for column in self._columns)]
        # A row that goes and is not there would come without an ordinal; the column refuses, the table is filled anew.
        ordinal = sql.SQL("CASE WHEN {} > 0 THEN {} END").format(of(_D, "__pgt_w"), of(_D, _AT))
        return sql.SQL(
            "MERGE INTO {} AS {} USING ({}) AS {} ON {} WHEN MATCHED THEN DELETE"
            " WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})"
        ).format(
            place.table,
            sql.Identifier(_T),
            rows,
            sql.Identifier(_D),
            condition,
            sql.SQL(", ").join(names([*shown, ORDINAL])),
            sql.SQL(", ").join([*(of(_D, column) for column in shown), ordinal]),
        )

    def _write(self, runner: Runner, place: Place, rows: Making) -> Applied:
        expected = runner.fetch(
            "how many rows go and come",
            lambda: sql.SQL(
                "SELECT count(*) FILTER (WHERE {w} < 0), count(*) FILTER (WHERE {w} > 0),"
                " coalesce(bool_or({at} IS NULL OR {at} < 0), false) FROM ({r}) AS d"
            ).format(w=WEIGHT, at=sql.Identifier(_AT), r=rows()),
        )
        going, coming, is_odd = expected[0] if expected else (1, 1, False)
        if is_odd:
            raise OutOfStepError("a row would be there less than no times", hint="it is filled anew")
        gone = came = 0
        if going:
            gone = runner.run("rows go", lambda: self._delete_query(place, rows()))
            if not runner.is_dry and gone != going:
                raise OutOfStepError(f"{going} rows had to go and {gone} were found", hint="it is filled anew")
        if coming:
            came = runner.run("rows come", lambda: self._insert_query(place, rows()))
        return Applied(came, gone)

    def _delete_query(self, place: Place, rows: sql.Composed) -> sql.Composed:
        return sql.SQL("DELETE FROM {} AS {} USING ({}) AS {} WHERE {} AND {} = {} AND {} < 0").format(
            place.table,
            sql.Identifier(_T),
            rows,
            sql.Identifier(_D),
            self._match(place, _T, _D),
            of(_T, ORDINAL),
            of(_D, _AT),
            of(_D, "__pgt_w"),
        )

    def _insert_query(self, place: Place, rows: sql.Composed) -> sql.Composed:
        shown = names([ROW_ID, *(column.name for column in self._columns)])
        coming = select(
            [*shown, sql.SQL("{}::integer").format(sql.Identifier(_AT))],
            derived(rows, _D),
            where=sql.SQL("{} > 0").format(WEIGHT),
        )
        return insert_query(place, self, coming)
