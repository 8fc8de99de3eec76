"""Random expressions over named columns: values, conditions, aggregates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from hypothesis import strategies as st
from psycopg import sql

from scenarios.properties import kinds
from scenarios.properties.kinds import Kind


@dataclass(frozen=True)
class Value:
    """An expression and its type."""

    text: sql.Composed
    kind: Kind


# What can be made of a value: the expression, and the type that it has then (None: the same).
_MADE: dict[Kind, tuple[tuple[LiteralString, Kind | None], ...]] = {
    kinds.INTEGER: (("({} + 1)", None), ("({} % 2)", None), ("abs({})", None), ("({}::numeric / 4)", kinds.NUMERIC)),
    kinds.BIGINT: (("({} - 1)", None), ("(- {})", None)),
    kinds.MONEY: (("({} * 1.5)", kinds.NUMERIC), ("round({}, 1)", kinds.NUMERIC)),
    kinds.NUMERIC: (("({} + 0.25)", None), ("({} * 2)", None)),
    kinds.TEXT: (("({} || '-')", None), ("upper({})", None), ("length({})", kinds.INTEGER)),
    kinds.BOOLEAN: (("(NOT {})", None), ("({}::integer)", kinds.INTEGER)),
    kinds.DATE: (("({} + 1)", None), ("({}::timestamp)", kinds.TIMESTAMP)),
    kinds.TIMESTAMP: (("date_trunc('month', {})", None), ("({}::date)", kinds.DATE)),
    kinds.FLOAT: (("({} * 0.5::double precision)", None), ("(- {})", None)),
    # Not ::text: a cast by way of text is refused wherever a date is near, whose text follows the session's settings.
    kinds.UUID: (),
    kinds.MOOD: (),
}
_COMPARISONS: tuple[LiteralString, ...] = ("{} = {}", "{} <> {}", "{} < {}", "{} >= {}", "{} IS DISTINCT FROM {}")


def literals(kind: Kind) -> st.SearchStrategy[sql.Composed]:
    """A constant."""
    return st.sampled_from(kind.values).map(kind.literal)


@st.composite
def values(draw: st.DrawFn, columns: Sequence[Value], kind: Kind | None = None) -> Value:
    """A column, or something made of columns; of a type that is asked for, where one is."""
    fitting = [column for column in columns if kind is None or column.kind == kind]
    if not fitting:
        assert kind is not None
        return Value(draw(literals(kind)), kind)
    value = draw(st.sampled_from(fitting))
    how = draw(st.integers(0, 9))
    if how <= 5:
        return value
    if how == 6:
        return Value(sql.SQL("COALESCE({}, {})").format(value.text, draw(literals(value.kind))), value.kind)
    if how == 7:
        other = draw(st.sampled_from([each for each in fitting if each.kind == value.kind]))
        condition = draw(conditions(columns, depth=0))
        return Value(sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(condition, value.text, other.text), value.kind)
    made = [each for each in _MADE[value.kind] if kind is None or each[1] in {None, kind}]
    if not made:
        return value
    template, became = draw(st.sampled_from(made))
    return Value(sql.SQL(template).format(value.text), became or value.kind)


@st.composite
def conditions(draw: st.DrawFn, columns: Sequence[Value], depth: int = 1) -> sql.Composed:
    """A condition over columns."""
    how = draw(st.integers(0, 8 if depth else 5))
    if how >= 6:
        left, right = draw(conditions(columns, depth=depth - 1)), draw(conditions(columns, depth=depth - 1))
        return sql.SQL(("({} AND {})", "({} OR {})", "(NOT ({} AND {}))")[how - 6]).format(left, right)
    value = draw(st.sampled_from(columns))
    if how == 0:
        return sql.SQL("{} IS NULL").format(value.text)
    if how == 1:
        return sql.SQL("{} IS NOT NULL").format(value.text)
    if how == 2:
        several = draw(st.lists(literals(value.kind), min_size=1, max_size=3))
        return sql.SQL("{} IN ({})").format(value.text, sql.SQL(", ").join(several))
    if how == 3:
        others = [each for each in columns if each.kind == value.kind]
        return sql.SQL(draw(st.sampled_from(_COMPARISONS))).format(value.text, draw(st.sampled_from(others)).text)
    return sql.SQL(draw(st.sampled_from(_COMPARISONS))).format(value.text, draw(literals(value.kind)))


@st.composite
def aggregates(draw: st.DrawFn, columns: Sequence[Value], kind: Kind | None = None) -> Value:
    """count, sum, avg, min or max; sometimes with FILTER or DISTINCT."""
    if kind is not None and not (kind.has_order or kind.is_number):  # nothing yields it but a constant
        return Value(sql.SQL("CASE WHEN count(*) > 2 THEN {} END").format(draw(literals(kind))), kind)
    found = draw(_calls(columns, kind))
    if draw(st.integers(0, 3)) == 0:
        condition = draw(conditions(columns, depth=0))
        found = Value(sql.SQL("{} FILTER (WHERE {})").format(found.text, condition), found.kind)
    if draw(st.integers(0, 5)) == 0:
        found = Value(sql.SQL("COALESCE({}, {})").format(found.text, draw(literals(found.kind))), found.kind)
    return found


@st.composite
def _calls(draw: st.DrawFn, columns: Sequence[Value], kind: Kind | None) -> Value:
    argument = draw(values(columns))
    choices: list[tuple[LiteralString, Kind]] = [
        ("count(*)", kinds.BIGINT),
        ("count({})", kinds.BIGINT),
        ("count(DISTINCT {})", kinds.BIGINT),
    ]
    if argument.kind.is_number:
        result = {kinds.INTEGER: kinds.BIGINT, kinds.FLOAT: kinds.FLOAT}.get(argument.kind, kinds.NUMERIC)
        choices += [("sum({})", result), ("sum({})", result), ("sum(DISTINCT {})", result)]
        choices.append(("avg({})", kinds.FLOAT if argument.kind == kinds.FLOAT else kinds.NUMERIC))
    if argument.kind.has_order:
        choices += [("min({})", argument.kind), ("max({})", argument.kind)]
    if kind is not None:
        choices = [choice for choice in choices if choice[1] == kind]
        if not choices:
            return Value(sql.SQL("max({})").format(draw(values(columns, kind)).text), kind)
    template, result = draw(st.sampled_from(choices))
    return Value(sql.SQL(template).format(argument.text), result)
