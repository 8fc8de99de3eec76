"""Random queries of the operators that have an incremental form, and some that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from hypothesis import strategies as st
from psycopg import sql

from scenarios.properties import kinds
from scenarios.properties.expressions import Value, aggregates, conditions, values
from scenarios.properties.kinds import Kind
from scenarios.properties.tables import Table

MOST_COLUMNS = 4


@dataclass(frozen=True)
class Query:
    """A query.

    Attributes:
        text: its SQL.
        columns: name and type of each column that it returns.
        reason: why it has no incremental form; empty for one that has.
        operators: what it is made of, for the statistics.
    """

    text: sql.Composed
    columns: tuple[tuple[str, Kind], ...]
    reason: str = ""
    operators: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.text.as_string()


@dataclass(frozen=True)
class _Named:
    """Something that FROM may name."""

    text: sql.Composable
    columns: tuple[tuple[str, Kind], ...]
    operators: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _From:
    text: sql.Composed
    columns: tuple[Value, ...]
    conditions: tuple[sql.Composed, ...]
    operators: frozenset[str] = field(default_factory=frozenset)


def _of_table(table: Table) -> _Named:
    return _Named(table.identifier, tuple((column.name, column.kind) for column in table.columns))


@st.composite
def _equalities(draw: st.DrawFn, left: Sequence[Value], right: Sequence[Value]) -> sql.Composed | None:
    """A condition that joins two relations, or None where no two columns are of one type."""
    pairs = [(one, other) for one in left for other in right if one.kind == other.kind]
    if not pairs:
        return None
    one, other = draw(st.sampled_from(pairs))
    return sql.SQL("{} = {}").format(one.text, other.text)


@st.composite
def _froms(draw: st.DrawFn, relations: Sequence[_Named], depth: int) -> _From:
    """One to three relations, joined."""
    count = draw(st.sampled_from((1, 1, 1, 2, 2, 3) if depth else (1, 1, 2)))
    is_comma = draw(st.booleans())
    text: sql.Composed = sql.Composed([])
    seen: list[Value] = []
    where: list[sql.Composed] = []
    operators: set[str] = set()
    for number in range(count):
        relation = draw(_relations(relations, depth))
        operators |= relation.operators
        alias = f"r{number}"
        columns = [Value(sql.Composed([sql.Identifier(alias, name)]), kind) for name, kind in relation.columns]
        item = sql.SQL("{} AS {}").format(relation.text, sql.Identifier(alias))
        if number == 0:
            text = item
        else:
            condition = draw(_equalities(seen, columns))
            operators.add("join")
            if condition is None:
                text = sql.SQL("{}, {}" if is_comma else "{} CROSS JOIN {}").format(text, item)
            elif is_comma:
                text = sql.SQL("{}, {}").format(text, item)
                where.append(condition)
            else:
                if draw(st.integers(0, 2)) == 0:
                    condition = sql.SQL("{} AND {}").format(condition, draw(conditions([*seen, *columns], depth=0)))
                text = sql.SQL("{} JOIN {} ON {}").format(text, item, condition)
        seen += columns
    return _From(text, tuple(seen), tuple(where), frozenset(operators))


@st.composite
def _relations(draw: st.DrawFn, relations: Sequence[_Named], depth: int) -> _Named:
    if depth and draw(st.integers(0, 3)) == 0:
        inner = draw(_bodies(relations, depth - 1))
        return _Named(sql.SQL("({})").format(inner.text), inner.columns, inner.operators | {"subquery"})
    return draw(st.sampled_from(relations))


def _where(found: Sequence[sql.Composed]) -> sql.Composable:
    return sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(found)) if found else sql.SQL("")


@st.composite
def _selects(draw: st.DrawFn, relations: Sequence[_Named], depth: int, wanted: Sequence[Kind] | None = None) -> Query:
    """One SELECT; of columns of types that are asked for, where some are."""
    source = draw(_froms(relations, depth))
    where = list(source.conditions)
    if draw(st.booleans()):
        where.append(draw(conditions(source.columns)))
    operators = set(source.operators)
    asked: list[Kind | None] = list(wanted) if wanted is not None else [None] * draw(st.integers(1, MOST_COLUMNS))
    tail: sql.Composable = sql.SQL("")
    if draw(st.integers(0, 2)) == 0:
        operators.add("aggregate")
        keys = draw(st.lists(values(source.columns), max_size=2))
        items = [draw(_grouped(source.columns, keys, kind)) for kind in asked]
        if keys:
            tail = sql.SQL(" GROUP BY {}").format(sql.SQL(", ").join(key.text for key in keys))
        elif not any(item.is_aggregate for item in items):
            items[0] = _Item(draw(aggregates(source.columns, asked[0])), True)
        if draw(st.integers(0, 3)) == 0:
            operators.add("having")
            condition = draw(conditions([draw(aggregates(source.columns))], depth=0))
            tail = sql.SQL("{} HAVING {}").format(tail, condition)
        chosen = [item.value for item in items]
    else:
        chosen = [draw(values(source.columns, kind)) for kind in asked]
    is_distinct = draw(st.integers(0, 4)) == 0
    if is_distinct:
        operators.add("distinct")
    columns = tuple((f"c{number}", value.kind) for number, value in enumerate(chosen))
    text = sql.SQL("SELECT {}{} FROM {}{}{}").format(
        sql.SQL("DISTINCT " if is_distinct else ""),
        sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(value.text, sql.Identifier(name))
            for value, (name, _) in zip(chosen, columns, strict=True)
        ),
        source.text,
        _where(where),
        tail,
    )
    return Query(text, columns, operators=frozenset(operators))


@dataclass(frozen=True)
class _Item:
    value: Value
    is_aggregate: bool


@st.composite
def _grouped(draw: st.DrawFn, columns: Sequence[Value], keys: Sequence[Value], kind: Kind | None) -> _Item:
    fitting = [key for key in keys if kind is None or key.kind == kind]
    if draw(st.booleans()) and fitting:
        return _Item(draw(st.sampled_from(fitting)), False)
    return _Item(draw(aggregates(columns, kind)), True)


@st.composite
def _bodies(draw: st.DrawFn, relations: Sequence[_Named], depth: int) -> Query:
    """A SELECT, or several under UNION ALL or UNION."""
    first = draw(_selects(relations, depth))
    if draw(st.integers(0, 4)) > 0:
        return first
    second = draw(_selects(relations, depth, [kind for _, kind in first.columns]))
    word: LiteralString = draw(st.sampled_from(("UNION ALL", "UNION ALL", "UNION")))
    text = sql.SQL("{} " + word + " {}").format(first.text, second.text)
    return Query(text, first.columns, operators=first.operators | second.operators | {word.lower()})


@st.composite
def queries(draw: st.DrawFn, tables: Sequence[Table]) -> Query:
    """A query that has an incremental form."""
    relations = [_of_table(table) for table in tables]
    ctes: list[sql.Composed] = []
    operators: frozenset[str] = frozenset()
    for number in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        name = sql.Identifier(f"cte{number}")
        inner = draw(_bodies(relations, 0))
        ctes.append(sql.SQL("{} AS ({})").format(name, inner.text))
        relations = [_Named(name, inner.columns), *relations]
        operators |= inner.operators | {"cte"}
    body = draw(_bodies(relations, 1))
    text = body.text
    if ctes:
        text = sql.SQL("WITH {} {}").format(sql.SQL(", ").join(ctes), text)
    return Query(text, body.columns, operators=operators | body.operators)


# Each over a table with an `id`; `{t}` is the table.
_NOT_INCREMENTAL: dict[str, LiteralString] = {
    "left join": "SELECT a.id, b.id AS other FROM {t} a LEFT JOIN {t} b ON a.id = b.id + 1",
    "full join": "SELECT a.id, b.id AS other FROM {t} a FULL JOIN {t} b ON a.id = b.id + 1",
    "window": "SELECT id, row_number() OVER (ORDER BY id, {t}::text) AS n FROM {t}",
    "limit": "SELECT id FROM {t} ORDER BY id LIMIT 3",
    "except": "SELECT id FROM {t} EXCEPT SELECT id + 1 FROM {t}",
    "intersect": "SELECT id FROM {t} INTERSECT SELECT id + 1 FROM {t}",
    "exists": "SELECT id FROM {t} a WHERE EXISTS (SELECT FROM {t} b WHERE b.id = a.id + 1)",
    "distinct on": "SELECT DISTINCT ON (id) id FROM {t} ORDER BY id",
    "rollup": "SELECT id, count(*) AS n FROM {t} GROUP BY ROLLUP (id)",
    "other aggregate": "SELECT bool_and(id > 1) AS b FROM {t}",
    "recursive": "WITH RECURSIVE r AS (SELECT id FROM {t} UNION SELECT id + 1 FROM r WHERE id < 5) SELECT id FROM r",
}


@st.composite
def other_queries(draw: st.DrawFn, tables: Sequence[Table]) -> Query:
    """A query that has no incremental form."""
    reason = draw(st.sampled_from(sorted(_NOT_INCREMENTAL)))
    table = draw(st.sampled_from(tables))
    text = sql.SQL(_NOT_INCREMENTAL[reason]).format(t=table.identifier)
    return Query(text, (("id", kinds.INTEGER),), reason)
