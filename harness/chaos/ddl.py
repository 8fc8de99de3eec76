"""Changes of the tables and stream tables while everything goes on; what a cut left half done is put right later."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator

import psycopg
from psycopg import sql

from harness.chaos.board import Board
from harness.chaos.lanes import Make
from harness.chaos.ledger import Effect, Ledger, Outcome
from harness.chaos.model import Step
from harness.chaos.shop import EXTRA, LARGE_ORDERS, MARKS, SOURCES, make_kept
from harness.chaos.writers import Gates
from harness.errors import HarnessError, StreamTableNotFoundError, WaitTimeoutError
from harness.postgres.deadlines import DeadlineConnection
from harness.trickle import StreamTables

ANSWER_DEADLINE_S = 8.0
# Tables whose columns are changed: all but the reference table, which every shard's query reads.
_ALTERED = ("orders", "lines", "items", "events", "customers")
_RENAMED, _RENAMED_TO = "amount", "amount_now"
_SPARE = "spare"
_TRIES = 30


class Changes:
    """Carries out the steps of the lane ``ddl``.

    Args:
        connect: a new connection to the coordinator.
        has_citus: whether there is a cluster.
        board, ledger, gates: shared by all.
    """

    def __init__(
        self,
        connect: Callable[[], DeadlineConnection],
        *,
        has_citus: bool,
        board: Board,
        ledger: Ledger,
        gates: Gates,
    ) -> None:
        self._connect = connect
        self._has_citus = has_citus
        self._board, self._ledger, self._gates = board, ledger, gates
        self._numbers = itertools.count(1)

    def maker(self) -> Make:
        """Does a step, for a block."""
        steps = {
            "column_added": self._column_added,
            "column_renamed": self._column_renamed,
            "type_changed": self._type_changed,
            "index_made": self._index_made,
            "truncated": self._truncated,
            "stream_table_made": self._stream_table_made,
            "stream_table_altered": self._stream_table_altered,
        }

        @contextlib.contextmanager
        def make(step: Step, chance: random.Random) -> Iterator[str]:
            with steps[step.kind](chance) as words:
                yield words

        return make

    @contextlib.contextmanager
    def _session(self) -> Iterator[DeadlineConnection]:
        with contextlib.closing(self._connect()) as connection:
            connection.deadline_s = ANSWER_DEADLINE_S
            connection.execute("SET application_name = 'harness chaos ddl'; SET lock_timeout = '2s'")
            yield connection

    def _do(self, query: sql.Composed) -> None:
        with self._session() as connection:
            connection.execute(query)

    @contextlib.contextmanager
    def _column_added(self, chance: random.Random) -> Iterator[str]:
        table = SOURCES[chance.choice(_ALTERED)]
        self._do(
            sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} integer DEFAULT 7").format(
                table.identifier, sql.Identifier(_SPARE)
            )
        )
        yield f"{table.name}.{_SPARE} added and dropped"
        self._do(sql.SQL("ALTER TABLE {} DROP COLUMN IF EXISTS {}").format(table.identifier, sql.Identifier(_SPARE)))

    @contextlib.contextmanager
    def _column_renamed(self, chance: random.Random) -> Iterator[str]:
        table = SOURCES[chance.choice(("orders", "items", "lines"))]
        rename = sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}")
        there, back = sql.Identifier(_RENAMED), sql.Identifier(_RENAMED_TO)
        try:
            self._do(rename.format(table.identifier, there, back))
            yield f"{table.name}.{_RENAMED} renamed to {_RENAMED_TO} and back"
        finally:
            self._rename_back(table.name)

    def _rename_back(self, table: str) -> None:
        last: Exception | None = None
        for _ in range(_TRIES):
            try:
                with self._session() as connection:
                    put_names_back(connection, table)
            except (psycopg.Error, HarnessError) as error:
                last = error
                if self._board.stopping.wait(0.2):
                    break  # what is left is put right when all is over
            else:
                return
        if last is not None:
            raise last

    @contextlib.contextmanager
    def _type_changed(self, chance: random.Random) -> Iterator[str]:
        table = SOURCES[chance.choice(("lines", "items", "orders"))]
        scale = chance.choice((2, 3, 4))
        self._do(
            sql.SQL("ALTER TABLE {} ALTER COLUMN amount TYPE numeric(30, {})").format(
                table.identifier, sql.Literal(scale)
            )
        )
        yield f"{table.name}.amount is numeric(30, {scale})"

    @contextlib.contextmanager
    def _index_made(self, chance: random.Random) -> Iterator[str]:
        table = SOURCES[chance.choice(_ALTERED)]
        name = sql.Identifier("public", "chaos_index")
        self._do(sql.SQL("CREATE INDEX IF NOT EXISTS chaos_index ON {} (grp)").format(table.identifier))
        yield f"index on {table.name}"
        self._do(sql.SQL("DROP INDEX IF EXISTS {}").format(name))

    @contextlib.contextmanager
    def _truncated(self, _chance: random.Random) -> Iterator[str]:
        table = "ticks"
        with self._gates.held([table], self._board.stopping) as has_right:
            if not has_right:
                yield "not begun"
                return
            operation = self._ledger.begin(f"t-{next(self._numbers)}", -1, [Effect(table, "truncate")], marks=MARKS)
            sent = False
            try:
                with self._session() as connection:
                    connection.execute("BEGIN")
                    connection.execute(
                        sql.SQL("INSERT INTO {} (op) VALUES (%s)").format(sql.Identifier("public", MARKS)),
                        [operation.key],
                    )
                    connection.execute(sql.SQL("TRUNCATE {}").format(SOURCES[table].identifier))
                    sent = True
                    status = connection.execute("COMMIT").statusmessage
            except (psycopg.Error, WaitTimeoutError):
                self._ledger.end(operation, Outcome.UNKNOWN if sent else Outcome.ROLLED_BACK)
                if sent:
                    self._find_out(operation.key, table)
                raise
            self._ledger.end(operation, Outcome.ACKNOWLEDGED if status == "COMMIT" else Outcome.ROLLED_BACK)
        yield f"{table} truncated"

    def _find_out(self, key: str, table: str) -> None:
        """An open TRUNCATE may still come: until it is decided nobody writes there."""
        operation = next(each for each in self._ledger.operations if each.key == key)
        query = sql.SQL("INSERT INTO {} (op) VALUES (%s)").format(sql.Identifier("public", MARKS))
        while not self._board.stopping.wait(0.2):
            try:
                with self._session() as connection, connection.transaction():
                    connection.execute(query, [key])  # waits for whoever has it in hand
                    connection.execute(sql.SQL("TRUNCATE {}").format(SOURCES[table].identifier))
            except psycopg.errors.UniqueViolation:
                pass
            except (psycopg.Error, HarnessError):
                continue
            self._ledger.end(operation, Outcome.ACKNOWLEDGED)
            return

    @contextlib.contextmanager
    def _tables(self) -> Iterator[StreamTables]:
        with self._session() as connection, StreamTables(connection) as tables:
            yield tables

    @contextlib.contextmanager
    def _stream_table_made(self, _chance: random.Random) -> Iterator[str]:
        with self._tables() as tables:
            with contextlib.suppress(StreamTableNotFoundError):  # one that a cut left
                tables.drop(EXTRA.name)
            make_kept(tables, EXTRA, has_citus=self._has_citus)
        yield f"{EXTRA.name} made and dropped"
        with self._tables() as tables, contextlib.suppress(StreamTableNotFoundError):
            tables.drop(EXTRA.name)

    @contextlib.contextmanager
    def _stream_table_altered(self, chance: random.Random) -> Iterator[str]:
        limit = chance.choice(sorted(LARGE_ORDERS))
        with self._tables() as tables:
            tables.alter("public.large_orders", query=LARGE_ORDERS[limit])
        yield f"large_orders begin at {limit}"


def put_names_back(connection: psycopg.Connection[tuple[object, ...]], table: str) -> None:
    """Rename the column back where it is renamed; on the coordinator, in autocommit."""
    rows = connection.execute(
        "SELECT FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass(%s) AND attname = %s",
        [f"public.{table}", _RENAMED_TO],
    ).fetchall()
    if rows:
        connection.execute(
            sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                SOURCES[table].identifier, sql.Identifier(_RENAMED_TO), sql.Identifier(_RENAMED)
            )
        )
