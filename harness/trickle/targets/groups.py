"""Groups whose counts, sums and extremes are kept and follow the changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from psycopg import sql

from harness.errors import OutOfStepError
from harness.trickle.delta.aggregate import Aggregate, group_hash
from harness.trickle.delta.functions import Call, quotient
from harness.trickle.delta.rows import as_column, derived, names, select, union_all
from harness.trickle.delta.window import WEIGHT, Moment, Window
from harness.trickle.sources import raw_expression
from harness.trickle.targets.shape import COUNT, ROW_ID, Shape, StorageColumn, listed, of, same
from harness.trickle.targets.slots import Slot, slots_of
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

_DELTA, _AGAIN = "__pgt_delta", "__pgt_again"
_T, _D = "__pgt_t", "__pgt_d"


class GroupTarget(Target):
    """The groups of an outermost aggregate without HAVING, or the rows of an outermost DISTINCT.

    Args:
        rows: the aggregate; each of its calls is linear or an extremum.
        types: the types of its columns.
    """

    strategy = "groups"

    def __init__(self, rows: Aggregate, types: Sequence[str]) -> None:
        self.rows: Aggregate = rows
        self._types = dict(zip(rows.columns, types, strict=True))
        shown = {
            output.only_place: name
            for output, name in zip(rows.outputs, rows.columns, strict=True)
            if output.only_place
        }
        self._keys = {key.place: shown.get(key.place, f"__pgt_key_{key.place}") for key in rows.keys}
        self._slots = {call.place: tuple(slots_of(call, shown.get(call.place))) for call in rows.calls}

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All numbers that are kept, but for the count of the group itself."""
        return tuple(slot for slots in self._slots.values() for slot in slots if slot.column != COUNT)

    @property
    def shape(self) -> Shape:
        """What the table looks like."""
        hidden = [
            StorageColumn(column, key.type_text)
            for key, column in ((key, self._keys[key.place]) for key in self.rows.keys)
            if column not in self.rows.columns
        ]
        hidden += [
            StorageColumn(slot.column, slot.type_text) for slot in self.slots if slot.column not in self.rows.columns
        ]
        columns = (
            StorageColumn(ROW_ID, "bigint", is_not_null=True),
            *(StorageColumn(name, self._types[name]) for name in self.rows.columns),
            *hidden,
            StorageColumn(COUNT, "bigint", is_not_null=True),
        )
        return Shape(columns, (ROW_ID,))

    def _key_values(self) -> list[sql.Composable]:
        return names([key.name for key in self.rows.keys])

    def _row_id(self) -> sql.Composed:
        return group_hash(list(zip(self.rows.keys, self._key_values(), strict=True)))

    def _outputs(self, values: Mapping[str, sql.Composable]) -> Iterator[tuple[str, sql.Composed]]:
        """The columns of the result that are kept nowhere else."""
        kept = {*self._keys.values(), *(slot.column for slot in self.slots)}
        for name, output in zip(self.rows.columns, self.rows.outputs, strict=True):
            if name not in kept:
                yield name, sql.SQL("({})::{}").format(output.fill(values), raw_expression(self._types[name]))

    # the delta

    def delta_query(self, window: Window) -> sql.Composed:
        """How the groups changed: row id, key, and the change of each number, under the table's column names."""
        below = self.rows.input_query(self.rows.rows.delta_terms(window))
        count = sql.SQL("coalesce(sum({}), 0)::bigint").format(WEIGHT)
        items: list[sql.Composable] = [as_column(self._row_id(), ROW_ID)]
        items += [
            as_column(sql.SQL("{}::{}").format(value, raw_expression(key.type_text)), self._keys[key.place])
            for key, value in zip(self.rows.keys, self._key_values(), strict=True)
        ]
        items += [as_column(slot.delta(), slot.column) for slot in self.slots]
        items += [as_column(slot.lost(), slot.lost_column) for slot in self.slots if slot.kind == "extremum"]
        items.append(as_column(count, COUNT))
        return select(
            items,
            derived(below, "__pgt_c"),
            group_by=self._key_values(),
            having=sql.SQL(" OR ").join([sql.SQL("{} <> 0").format(count), *(slot.moved() for slot in self.slots)]),
        )

    def _combined(self, old: str | None, new: str) -> dict[str, sql.Composable]:
        """What the table holds once the delta ``new`` met the row ``old``, by column; old None: of a new row."""
        found: dict[str, sql.Composable] = {COUNT: _plus(old, new, COUNT)}
        values: dict[str, sql.Composable] = {key.place: of(old or new, self._keys[key.place]) for key in self.rows.keys}
        for call in self.rows.calls:
            value = self._combined_call(call, old, new, found)
            values[call.place] = value
        if old is None:
            for key in self.rows.keys:
                found[self._keys[key.place]] = values[key.place]
        found.update(self._outputs(values))
        return found

    def _combined_call(self, call: Call, old: str | None, new: str, found: dict[str, sql.Composable]) -> sql.Composable:
        numbers: dict[str, sql.Composable] = {}
        for slot in self._slots[call.place]:
            if slot.kind == "extremum":
                pick = sql.SQL("least({}, {})") if call.function == "min" else sql.SQL("greatest({}, {})")
                number: sql.Composable = (
                    of(new, slot.column) if old is None else pick.format(of(old, slot.column), of(new, slot.column))
                )
            elif slot.kind == "count":
                number = _plus(old, new, slot.column)
            else:
                # NULL of no row, as sum has it; the count beside it knows. A change may take as many rows as it brings,
                # and still move the sum of a group that is there.
                total = _plus(old, new, slot.column)
                some = sql.SQL("{} <> 0").format(numbers["count"])
                if old is None:
                    some = sql.SQL("{} OR {} <> 0").format(some, total)
                number = sql.SQL("CASE WHEN {} THEN ({})::{} END").format(some, total, raw_expression(slot.type_text))
            numbers[slot.kind] = number
            found[slot.column] = number
        if call.function == "avg":
            return quotient(numbers["sum"], numbers["count"], call.base_type)
        return numbers[{"sum": "sum", "count": "count"}.get(call.function, "extremum")]

    def _match(self, place: Place, left: str, right: str) -> sql.Composed:
        columns = [ROW_ID, *self._keys.values()]
        return sql.SQL(" AND ").join(
            same(of(left, column), of(right, column), is_not_null=column in {ROW_ID, place.distribution_column})
            for column in columns
        )

    def _finite(self, *aliases: str) -> sql.Composed | None:
        """Whether every sum can be added to: NaN is greater than any number in PostgreSQL, infinity but for NaN."""
        checks = [
            sql.SQL("coalesce(abs({}) < 'Infinity'::numeric, true)").format(of(alias, slot.column))
            for slot in self.slots
            if slot.may_be_infinite
            for alias in aliases
        ]
        return sql.SQL(" AND ").join(checks) if checks else None

    def _possible(
        self, count: sql.Composable, *aliases: str, least: int | None = None, match: sql.Composable | None = None
    ) -> sql.Composed:
        """A group's count, or NULL where it cannot be: the column refuses that, and the table is filled anew.

        Args:
            count: what it would be.
            aliases: whose sums must be finite.
            least: the least that it may be; None: 1, since a group without rows is no group, but 0 for the only group
                of an
                aggregate without GROUP BY, which is there without any.
            match: what has to hold besides.
        """
        if least is None:
            least = 1 if self.rows.has_groups else 0
        conditions: list[sql.Composable] = [sql.SQL("{} >= {}").format(count, sql.Literal(least))]
        finite = self._finite(*aliases)
        conditions += [one for one in (finite, match) if one is not None]
        return sql.SQL("CASE WHEN {} THEN {} END").format(sql.SQL(" AND ").join(conditions), count)

    # the statements

    def full_query(self, moment: Moment, window: Window) -> sql.Composed:
        """All rows that the table has to hold, its columns in order."""
        return self._full(moment, window, None)

    def _full(self, moment: Moment, window: Window, affected: sql.Composable | None) -> sql.Composed:
        is_plain = self.rows.rows.is_plain(moment, window)
        count = sql.SQL("count(*)") if is_plain else sql.SQL("coalesce(sum({}), 0)::bigint").format(WEIGHT)
        extra = [as_column(self._row_id(), ROW_ID), as_column(count, COUNT)]
        for key, column in ((key, self._keys[key.place]) for key in self.rows.keys):
            if column not in self.rows.columns:
                extra.append(as_column(sql.Identifier(key.name), column))
        for slot in self.slots:
            if slot.column in self.rows.columns:
                continue
            value = slot.call.count() if slot.kind == "count" else slot.call.total()
            if slot.kind == "extremum":
                value = slot.call.native()
            extra.append(as_column(sql.SQL("({})::{}").format(value, raw_expression(slot.type_text)), slot.column))
        groups = self.rows.groups_at_query(moment, window, affected=affected, extra=extra)
        typed = [
            as_column(
                sql.SQL("{}::{}").format(sql.Identifier(column.name), raw_expression(column.type_text)), column.name
            )
            for column in self.shape.columns
        ]
        return select(typed, derived(groups, "__pgt_g"))

    def apply(self, runner: Runner, place: Place, window: Window) -> Applied:
        """Bring the table from the window's old end to its new one (errors: see `Target.apply`)."""
        if place.way is Way.MERGE and not self.looks_again:
            return self._merge(runner, place, lambda: self.delta_query(window))
        runner.run("the change of each group", lambda: stage_query(_DELTA, self.delta_query(window)))
        again = self._stage_again(runner, place)

        def rows() -> sql.Composed:
            done = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(ROW_ID), staged(_AGAIN))
            others = sql.SQL("{} NOT IN ({})").format(sql.Identifier(ROW_ID), done) if again else None
            return select(names(self._delta_columns()), staged(_DELTA), where=others)

        write = self._upsert if place.way is Way.STAGED else self._merge
        applied = write(runner, place, rows, variant="but for those" if again else "")
        if again:
            applied = self._look_again(runner, place, window, applied)
        return applied

    def _delta_columns(self) -> list[str]:
        return [ROW_ID, *self._keys.values(), *(slot.column for slot in self.slots), COUNT]

    @property
    def looks_again(self) -> bool:
        """Whether a change may need another look at a group's rows: what it lost may have been its extreme value."""
        return any(slot.kind == "extremum" for slot in self.slots)

    def _stage_again(self, runner: Runner, place: Place) -> bool:
        """Which groups may have lost their extreme value."""
        if not self.looks_again:
            return False
        extremes = [slot for slot in self.slots if slot.kind == "extremum"]

        def lost(alias: str) -> sql.Composed:
            return sql.SQL(" OR ").join(
                (sql.SQL("{} <= {}") if slot.call.function == "min" else sql.SQL("{} >= {}")).format(
                    of(_D, slot.lost_column), of(alias, slot.column)
                )
                for slot in extremes
            )

        def query() -> sql.Composed:
            # What the table holds may be gone, and so may be what came within the window.
            held = select(
                [of(_D, ROW_ID)],
                sql.SQL("{} AS {} JOIN {} AS {} ON {}").format(
                    staged(_DELTA), sql.Identifier(_D), place.table, sql.Identifier(_T), self._match(place, _T, _D)
                ),
                where=lost(_T),
            )
            delta = sql.SQL("{} AS {}").format(staged(_DELTA), sql.Identifier(_D))
            return stage_query(_AGAIN, union_all([held, select([of(_D, ROW_ID)], delta, where=lost(_D))]))

        return runner.run("the groups that may have lost an extreme value", query) > 0 or runner.is_dry

    def _look_again(self, runner: Runner, place: Place, window: Window, applied: Applied) -> Applied:
        ids = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(ROW_ID), staged(_AGAIN))
        gone = runner.run(
            "those groups go",
            lambda: sql.SQL("DELETE FROM {} WHERE {} IN ({})").format(place.table, sql.Identifier(ROW_ID), ids),
        )
        came = runner.run(
            "and come as they are now",
            lambda: insert_query(place, self, self._full(Moment.NEW, window, ids)),
        )
        return Applied(applied.inserted + came, applied.deleted + gone)

    def _merge(self, runner: Runner, place: Place, rows: Making, variant: str = "") -> Applied:
        return run_merge(runner, "the groups follow", place, lambda: self._merge_query(place, rows()), variant=variant)

    def _merge_query(self, place: Place, rows: sql.Composed) -> sql.Composed:
        combined = self._combined(_T, _D)
        fresh = self._combined(None, _D)
        combined[COUNT] = self._possible(combined[COUNT], _T, _D)
        fresh[COUNT] = self._possible(fresh[COUNT], _D)
        branches: list[sql.Composable] = []
        if self.rows.has_groups:
            branches.append(sql.SQL("WHEN MATCHED AND {} = 0 THEN DELETE").format(_plus(_T, _D, COUNT)))
        branches.append(sql.SQL("WHEN MATCHED THEN UPDATE SET {}").format(_assignments(combined)))
        columns = [ROW_ID, *fresh]
        values = [of(_D, ROW_ID), *fresh.values()]
        branches.append(
            sql.SQL("WHEN NOT MATCHED AND {} <> 0 THEN INSERT ({}) VALUES ({})").format(
                of(_D, COUNT), listed(columns), sql.SQL(", ").join(values)
            )
        )
        return sql.SQL("MERGE INTO {} AS {} USING ({}) AS {} ON {} {}").format(
            place.table,
            sql.Identifier(_T),
            rows,
            sql.Identifier(_D),
            self._match(place, _T, _D),
            sql.SQL(" ").join(branches),
        )

    def _upsert(self, runner: Runner, place: Place, rows: Making, variant: str = "") -> Applied:
        # A group that came and went within the window changes its extremes and not its count, and was never here.
        may_be_gone = (sql.SQL("{} <= 0") if self.looks_again else sql.SQL("{} < 0")).format(sql.Identifier(COUNT))
        expected = runner.fetch(
            "whether a group may have gone",
            lambda: sql.SQL("SELECT coalesce(bool_or({}), false) FROM ({}) AS {}").format(
                may_be_gone, rows(), sql.Identifier(_D)
            ),
            variant=variant,
        )
        count = runner.run("the groups follow", lambda: self._upsert_query(place, rows()), variant=variant)
        gone: list[tuple[object, ...]] = []
        if self.rows.has_groups and (runner.is_dry or expected[0][0]):
            gone = runner.fetch(
                "groups without rows go",
                lambda: sql.SQL("DELETE FROM {} WHERE {} IN ({}) AND {} <= 0 RETURNING {}").format(
                    place.table,
                    sql.Identifier(ROW_ID),
                    select([sql.Identifier(ROW_ID)], derived(rows(), _D), where=may_be_gone),
                    sql.Identifier(COUNT),
                    sql.Identifier(COUNT),
                ),
                variant=variant,
            )
            if any(row != (0,) for row in gone):
                raise OutOfStepError("a group would have fewer rows than none", hint="it is filled anew")
        return Applied(count - len(gone), count)

    def _upsert_query(self, place: Place, rows: sql.Composed) -> sql.Composed:
        fresh = self._combined(None, _D)
        combined = self._combined(_T, "excluded")
        # Not WHERE: Citus counts the rows that it sent, not those that it changed (docs/findings.md), so nobody would
        # know.
        combined[COUNT] = self._possible(
            combined[COUNT], _T, "excluded", least=0, match=self._match(place, _T, "excluded")
        )
        return sql.SQL("INSERT INTO {} AS {} ({}) SELECT {} FROM ({}) AS {} ON CONFLICT ({}) DO UPDATE SET {}").format(
            place.table,
            sql.Identifier(_T),
            listed([ROW_ID, *fresh]),
            sql.SQL(", ").join([of(_D, ROW_ID), *fresh.values()]),
            rows,
            sql.Identifier(_D),
            listed(self.shape.unique_columns(place.distribution_column)),
            _assignments(combined),
        )


def _plus(old: str | None, new: str, column: str) -> sql.Composed:
    if old is None:
        return of(new, column)
    return sql.SQL("coalesce({}, 0) + coalesce({}, 0)").format(of(old, column), of(new, column))


def _assignments(values: Mapping[str, sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(column), value) for column, value in values.items()
    )
