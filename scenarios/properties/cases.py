"""One case of the property test: tables, a query, statements; and how it is played."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import TupleRow

from harness.errors import QueryRefusedError, RefusedError
from harness.trickle import StreamTables
from harness.trickle.oracle import compare
from scenarios.properties import statements
from scenarios.properties.queries import Query, other_queries, queries
from scenarios.properties.statements import Refresh, Statement, Step, Transaction
from scenarios.properties.tables import Table, tables

Connection = psycopg.Connection[TupleRow]
NAME = "kept"
# What a random statement may be told: its values break a rule of its table. Citus has words of its own for the same.
_BROKEN_RULES = (
    psycopg.errors.IntegrityError,
    psycopg.errors.DataError,
    psycopg.errors.CardinalityViolation,
    psycopg.errors.InternalError_,
    psycopg.errors.FeatureNotSupported,
)


@dataclass(frozen=True)
class Case:
    """Something to try.

    Attributes:
        tables: the sources.
        query: of the stream table.
        before: statements that fill the sources before there is a stream table.
        steps: statements and refreshes.
        mode: of the stream table.
        placement: of the stream table.
    """

    tables: tuple[Table, ...]
    query: Query
    before: tuple[Statement, ...]
    steps: tuple[Step, ...]
    mode: str
    placement: str

    def __repr__(self) -> str:
        """A script that a person can run."""
        lines: list[str] = []
        for table in self.tables:
            placing = table.placing()
            lines += [f"{table.definition().as_string()};", *([f"{placing.as_string()};"] if placing else [])]
        lines += statements.script(self.before)
        lines += [f"-- create({NAME!r}, mode={self.mode!r}, placement={self.placement!r}):", f"-- {self.query}"]
        lines += statements.script(self.steps)
        return "\n" + "\n".join(lines) + "\n"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Hypothesis, which would write every field."""
        del cycle
        printer.text(repr(self))


@st.composite
def cases(draw: st.DrawFn, *, on_citus: bool, is_incremental: bool = True) -> Case:
    """A case of two or three tables."""
    count = draw(st.sampled_from((1, 2, 2, 3)))
    made = tuple(draw(tables(name=f"t{number}", on_citus=on_citus)) for number in range(count))
    query = draw(queries(made) if is_incremental else other_queries(made))
    before = [*draw(statements.filling(made)), *draw(st.lists(statements.statements(made), max_size=2))]
    mode = draw(st.sampled_from(("DIFFERENTIAL", "DIFFERENTIAL", "DIFFERENTIAL", "AUTO")))
    placements = ("auto", "local", "reference", "distributed") if on_citus else ("auto", "local")
    return Case(made, query, tuple(before), draw(statements.steps(made)), mode, draw(st.sampled_from(placements)))


@dataclass
class Tally:
    """What a run of many cases did: a test that did nothing passes too.

    Attributes:
        seen: by what was counted.
    """

    seen: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(self.seen.items()))


class Player:
    """Plays cases in a database, each in a schema that is dropped after it.

    Args:
        connection: for stream tables and the oracle, autocommit, to the coordinator.
        writer: for statements, autocommit, to the coordinator.
        stream_tables: on ``connection``.
        on_citus: whether this is a cluster.
    """

    def __init__(
        self, connection: Connection, writer: Connection, stream_tables: StreamTables, *, on_citus: bool
    ) -> None:
        self._on_citus = on_citus
        self._connection = connection
        self._writer = writer
        self._stream_tables = stream_tables
        self._number = 0
        self._is_recomputed = False
        self._as_text = False
        self.tally = Tally()

    def play(self, case: Case) -> None:
        """Play a case; every refresh is followed by the oracle.

        Raises:
            AssertionError: a stream table is not its query's result, or was refused.
        """
        self._number += 1
        schema = sql.Identifier(f"case{self._number}")
        try:
            for connection in (self._writer, self._connection):
                connection.execute(sql.SQL("SET search_path = {}, public").format(schema))
            self._writer.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            self._play(case, f"case{self._number}.{NAME}")
        except Exception:
            self._connection.rollback()
            self._clean(schema)
            raise
        # An interruption leaves all to the fixture, which drops the database: a statement may be on its way.
        self._clean(schema)

    def _clean(self, schema: sql.Identifier) -> None:
        self._writer.rollback()
        with contextlib.suppress(RefusedError):
            self._stream_tables.drop(f"case{self._number}.{NAME}")
        self._writer.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(schema))

    def _play(self, case: Case, name: str) -> None:
        for table in case.tables:
            self._writer.execute(table.definition())
            placing = table.placing()
            if placing is not None:
                self._writer.execute(placing)
        self._run(case.before, name)
        if self._on_citus and not self._can_be_run(str(case.query)):
            self.tally.seen["not run by Citus itself"] += 1
            return
        self._create(case, name, str(case.query))
        self.tally.seen["cases"] += 1
        for operator in case.query.operators or {case.query.reason}:
            self.tally.seen[operator] += 1
        # Where values are handed on as they are, 1.0 must not become 1.00.
        self._as_text = case.query.operators <= {"join", "subquery", "cte", "union all"}
        self._compare(name, "after create")
        self._run(case.steps, name)

    def _create(self, case: Case, name: str, text: str) -> None:
        """Make the stream table: a query with an incremental form is not refused, one without is.

        On Citus the delta of a query may be a join that Citus does not plan: then it is recomputed, and counted so.
        """
        self._is_recomputed = False
        must_be_refused = bool(case.query.reason)
        mode = "DIFFERENTIAL" if must_be_refused else case.mode
        try:
            self._stream_tables.create(name, text, None, mode, case.placement)
        except QueryRefusedError:
            if not (must_be_refused or self._on_citus):
                raise
            found = self._connection.execute("SELECT to_regclass(%s)", [name]).fetchone()
            assert found == (None,), "a refusal leaves nothing"
            self._stream_tables.create(name, text, None, "AUTO", case.placement)
        else:
            assert not must_be_refused, f"{case.query.reason} was accepted as DIFFERENTIAL"
        self._is_recomputed = self._stream_tables.explain(name).mode == "FULL"
        if self._is_recomputed:
            assert must_be_refused or self._on_citus or mode == "AUTO"
            self.tally.seen["recomputed"] += 1

    def _can_be_run(self, text: str) -> bool:
        """Whether the query by itself can be run on this cluster; there are joins that Citus does not plan."""
        try:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute("SELECT set_config('citus.enable_repartition_joins', 'on', true)")
                self._connection.execute(text.encode())
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.InternalError_):
            return False
        return True

    def _run(self, steps: Sequence[Step], name: str) -> None:
        for step in steps:
            if isinstance(step, Transaction):
                with contextlib.suppress(_Undo), self._writer.transaction():
                    self._run(step.steps, name)
                    if not step.commits:
                        raise _Undo
            elif isinstance(step, Statement):
                self._execute(step)
            else:
                self._refresh(step, name)

    def _execute(self, statement: Statement) -> None:
        try:
            with self._writer.transaction():
                self._writer.execute(statement.text)
            self.tally.seen["statements"] += 1
        except _BROKEN_RULES:
            self.tally.seen["statements that broke a rule"] += 1

    def _refresh(self, step: Refresh, name: str) -> None:
        if step.mode == "DIFFERENTIAL" and self._is_recomputed:
            with contextlib.suppress(QueryRefusedError):
                self._stream_tables.refresh(name, mode=step.mode)
            step = Refresh(None)
        done = self._stream_tables.refresh(name, mode=step.mode)
        self.tally.seen[f"refresh {done.action}"] += 1
        # A rebuild is due after TRUNCATE; where a delta did not fit, it mends a fault and hides it.
        assert "did not fit" not in done.reason, f"a refresh was {done.action}: {done.reason}"
        self._compare(name, f"after a refresh that was {done.action} ({done.reason}; {done.strategy})")

    def _compare(self, name: str, when: str) -> None:
        difference = compare(self._connection, name, as_text=self._as_text)
        assert difference.is_equal, f"{when}: {difference}"


class _Undo(Exception):  # noqa: N818 - it is no error: it makes a transaction roll back
    """Ends a transaction that was never meant to commit."""
