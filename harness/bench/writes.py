"""What is written to a table while it is timed, from the same beginning each time; whether capture got all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from harness.bench.interleaved import Contestant
from harness.bench.model import Check
from harness.bench.tables import Connection, copy_in, fetch_copy_data, fetch_row_sum
from harness.bench.triggers.making import Captured


class Operation(StrEnum):
    """What is done to the rows."""

    INSERT = "insert"
    UPDATE = "update"
    UPDATE_HALF = "update_half"  # every row is written, every other one changes
    DELETE = "delete"
    COPY = "copy"
    UPSERT = "upsert"  # half of the rows are there


@dataclass(frozen=True)
class Write:
    """An operation on so many rows.

    Attributes:
        operation: which.
        rows: in all.
        per_statement: how many of them a statement has; single inserts are prepared, with parameters.
    """

    operation: Operation
    rows: int
    per_statement: int

    @classmethod
    def bulk(cls, operation: Operation, rows: int) -> Write:
        """All in one statement."""
        return cls(operation, rows, rows)

    @property
    def rows_before(self) -> int:
        """How many rows the table has when it begins."""
        if self.operation in (Operation.INSERT, Operation.COPY):
            return 0
        return self.rows // 2 if self.operation is Operation.UPSERT else self.rows

    def expected(self, *, is_filtered: bool = False) -> tuple[int, int]:
        """How many rows come and go, as capture has to write them.

        Args:
            is_filtered: rows that an UPDATE leaves as they were are left out.
        """
        rows = self.rows
        match self.operation:
            case Operation.UPDATE:
                return rows, rows
            case Operation.UPDATE_HALF:
                return (rows // 2, rows // 2) if is_filtered else (rows, rows)
            case Operation.DELETE:
                return 0, rows
            case Operation.UPSERT:
                return rows, self.rows_before
            case _:
                return rows, 0


class Writer:
    """Writes to one table, captured or not.

    Args:
        connection: to the coordinator or the one server, autocommit; with ``prepare_threshold`` 0 its statements are
            prepared.
        captured: the table.
        write: what is done.
        is_filtered: as in `Write.expected`.
    """

    def __init__(self, connection: Connection, captured: Captured, write: Write, *, is_filtered: bool = False) -> None:
        self._connection, self._captured, self._write, self._is_filtered = connection, captured, write, is_filtered
        self._run = self._make_run()

    def contestant(self, name: str) -> Contestant:
        """This writer, timed under a name."""
        return Contestant(name, self.run, before=self.prepare, work=self._write.rows)

    def prepare(self) -> None:
        """The table as the operation wants to find it, and an empty buffer."""
        self._captured.clear(self._connection)
        if self._write.rows_before:
            self._connection.execute(self._captured.table.insert_query(self._write.rows_before))
            self._captured.clear(self._connection, with_table=False)

    def run(self) -> None:
        """Write."""
        self._run()

    def check(self, name: str) -> Check:
        """Write once more, and compare what was captured with what the table gained: counts, weights, values."""
        self.prepare()
        table = self._captured.table
        before = fetch_row_sum(self._connection, table)
        self.run()
        gained = fetch_row_sum(self._connection, table) - before
        came, went = self._captured.fetch_sums(self._connection)
        wanted = self._write.expected(is_filtered=self._is_filtered)
        without = self._captured.count_without_position(self._connection)
        found = (came.count, went.count)
        detail = f"{came.count} rows came and {went.count} went; {wanted[0]} and {wanted[1]} were written"
        if came - went != gained:
            detail += "; their values are others than the table's"
        if without:
            detail += f"; {without} have no position"
        return Check(name, found == wanted and came - went == gained and not without, detail)

    def _make_run(self) -> Callable[[], None]:
        table, write, connection = self._captured.table, self._write, self._connection
        if write.operation is Operation.INSERT and write.per_statement == 1:
            query = table.insert_row_query().as_string(connection)
            values = [table.make_row(number) for number in range(1, write.rows + 1)]

            def insert_rows() -> None:
                for row in values:
                    connection.execute(query.encode(), row)

            return insert_rows
        firsts = range(1, write.rows + 1, write.per_statement)
        if write.operation is Operation.COPY:
            pieces = [fetch_copy_data(connection, table, write.per_statement, first) for first in firsts]

            def copy_all() -> None:
                for piece in pieces:
                    copy_in(connection, table, piece)

            return copy_all
        queries = [self._query(first).as_string(connection).encode() for first in firsts]

        def execute_all() -> None:
            for query in queries:
                connection.execute(query)

        return execute_all

    def _query(self, first: int) -> sql.Composed:
        table, count = self._captured.table, self._write.per_statement
        match self._write.operation:
            case Operation.UPDATE:
                return table.update_query(count, first)
            case Operation.UPDATE_HALF:
                return table.update_half_query(count, first)
            case Operation.DELETE:
                return table.delete_query(count, first)
            case Operation.UPSERT:
                return table.upsert_query(count, first)
            case _:
                return table.insert_query(count, first)
