"""Random statements, transactions of them, and refreshes in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from hypothesis import strategies as st
from psycopg import sql

from scenarios.properties import kinds
from scenarios.properties.expressions import Value, conditions, values
from scenarios.properties.tables import Column, Table

MOST_ROWS = 5
MOST_STEPS = 7


@dataclass(frozen=True)
class Statement:
    """One statement."""

    text: sql.Composed

    def lines(self) -> list[str]:
        """As a script has it."""
        return [f"{self.text.as_string()};"]


@dataclass(frozen=True)
class Refresh:
    """A refresh, by a session of its own.

    Attributes:
        mode: what it is forced to; None: what the stream table says.
    """

    mode: str | None

    def lines(self) -> list[str]:
        """As a script has it."""
        return [f"-- refresh({self.mode or ''})"]


@dataclass(frozen=True)
class Transaction:
    """Statements in one transaction, or in a savepoint of one; refreshes while it is open see nothing of it.

    Attributes:
        steps: what is in it.
        commits: whether it is committed; else it is rolled back.
    """

    steps: tuple[Step, ...]
    commits: bool

    def lines(self, depth: int = 0) -> list[str]:
        """As a script has it."""
        found = ["BEGIN;" if depth == 0 else f"SAVEPOINT s{depth};"]
        for step in self.steps:
            found += step.lines(depth + 1) if isinstance(step, Transaction) else step.lines()
        if depth == 0:
            return [*found, "COMMIT;" if self.commits else "ROLLBACK;"]
        return [*found, f"{'RELEASE' if self.commits else 'ROLLBACK TO'} s{depth};"]


Step = Statement | Refresh | Transaction


def _named(table: Table) -> list[Value]:
    return [Value(sql.Composed([sql.Identifier(column.name)]), column.kind) for column in table.columns]


def _literal(column: Column, value: object) -> sql.Composable:
    return sql.SQL("NULL") if value is None else column.kind.literal(value)


@st.composite
def _rows(draw: st.DrawFn, table: Table) -> sql.Composed:
    rows = []
    for _ in range(draw(st.integers(1, MOST_ROWS))):
        found: list[sql.Composable] = []
        for column in table.columns:
            if column.name == "id" and table.has_key:
                found.append(sql.Literal(draw(st.integers(1, 9))))
            else:
                found.append(_literal(column, draw(kinds.values(column.kind, nullable=column.nullable))))
        rows.append(sql.SQL("({})").format(sql.SQL(", ").join(found)))
    return sql.SQL(", ").join(rows)


@st.composite
def _inserts(draw: st.DrawFn, table: Table) -> Statement:
    rows = draw(_rows(table))
    how = draw(st.integers(0, 9))
    if how == 0 and not table.has_key:  # equal rows, as many again
        return Statement(sql.SQL("INSERT INTO {t} SELECT * FROM {t}").format(t=table.identifier))
    tail: sql.Composable = sql.SQL("")
    if table.has_key and how <= 3:
        tail = sql.SQL(" ON CONFLICT DO NOTHING")
    elif table.has_key and how <= 8:
        column = draw(st.sampled_from(table.columns[1:]))
        tail = sql.SQL(" ON CONFLICT (id) DO UPDATE SET {c} = excluded.{c}").format(c=sql.Identifier(column.name))
    return Statement(sql.SQL("INSERT INTO {} VALUES {}{}").format(table.identifier, rows, tail))


@st.composite
def filling(draw: st.DrawFn, tables: Sequence[Table]) -> list[Statement]:
    """Rows for most tables, before there is a stream table."""
    return [draw(_inserts(table)) for table in tables if draw(st.integers(0, 4)) > 0]


@st.composite
def _updates(draw: st.DrawFn, table: Table) -> Statement:
    column = draw(
        st.sampled_from([each for each in table.columns if table.placement != "distributed" or each.name != table.by])
    )
    new: sql.Composable
    if column.name == "id" and table.has_key:
        new = sql.SQL("id + 10")
    elif draw(st.booleans()):
        new = _literal(column, draw(kinds.values(column.kind, nullable=column.nullable)))
    elif column.kind in {kinds.MONEY, kinds.DATE, kinds.BIGINT, kinds.INTEGER}:
        new = sql.Identifier(column.name)  # values that grow leave their types
    else:
        new = draw(values(_named(table), column.kind)).text
    text = sql.SQL("UPDATE {} SET {} = {}").format(table.identifier, sql.Identifier(column.name), new)
    return Statement(sql.SQL("{}{}").format(text, draw(_wheres(table))))


@st.composite
def _wheres(draw: st.DrawFn, table: Table) -> sql.Composable:
    how = draw(st.integers(0, 4))
    if how == 0:
        return sql.SQL("")
    if how <= 2:
        return sql.SQL(" WHERE id % 3 = {}").format(sql.Literal(draw(st.integers(0, 2))))
    return sql.SQL(" WHERE {}").format(draw(conditions(_named(table))))


@st.composite
def statements(draw: st.DrawFn, tables: Sequence[Table], *, can_truncate: bool = True) -> Statement:
    """INSERT, UPDATE, DELETE or, rarely, TRUNCATE."""
    table = draw(st.sampled_from(tables))
    how = draw(st.integers(0, 12))
    if how <= 5:
        return draw(_inserts(table))
    if how <= 9:
        return draw(_updates(table))
    if how == 12 and can_truncate:
        return Statement(sql.SQL("TRUNCATE {}").format(table.identifier))
    return Statement(sql.SQL("DELETE FROM {}{}").format(table.identifier, draw(_wheres(table))))


# Most refreshes do what the stream table says.
_MODES: tuple[str | None, ...] = (None, None, None, None, None, "DIFFERENTIAL", "DIFFERENTIAL", "FULL")
refreshes = st.sampled_from(_MODES).map(Refresh)


@st.composite
def _transactions(draw: st.DrawFn, tables: Sequence[Table], depth: int = 0) -> Transaction:
    # A refresh beside an open TRUNCATE would wait for it: either there is one, or there are refreshes.
    has_refreshes = depth == 0 and draw(st.integers(0, 2)) == 0
    found: list[Step] = []
    for _ in range(draw(st.integers(1, 3))):
        if depth == 0 and draw(st.integers(0, 3)) == 0:
            found.append(draw(_savepoints(tables, can_truncate=not has_refreshes)))
        else:
            found.append(draw(statements(tables, can_truncate=not has_refreshes)))
        if has_refreshes:
            found.append(draw(refreshes))
    return Transaction(tuple(found), draw(st.integers(0, 3)) > 0)


@st.composite
def _savepoints(draw: st.DrawFn, tables: Sequence[Table], *, can_truncate: bool) -> Transaction:
    found = draw(st.lists(statements(tables, can_truncate=can_truncate), min_size=1, max_size=2))
    return Transaction(tuple(found), draw(st.booleans()))


@st.composite
def steps(draw: st.DrawFn, tables: Sequence[Table]) -> tuple[Step, ...]:
    """Statements and transactions with refreshes at random points, and one at the end."""
    found: list[Step] = []
    for _ in range(draw(st.integers(2, MOST_STEPS))):
        how = draw(st.integers(0, 9))
        if how <= 6:
            found.append(draw(statements(tables)))
        else:
            found.append(draw(_transactions(tables)))
        if draw(st.booleans()):
            found.append(draw(refreshes))
    return (*found, Refresh(None))


def script(found: Sequence[Step]) -> list[LiteralString | str]:
    """Steps as lines of SQL."""
    return [line for step in found for line in step.lines()]
