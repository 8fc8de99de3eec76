"""Anything that speaks PostgreSQL's protocol, with the same few verbs."""

from __future__ import annotations

import abc
import contextlib
import select
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow

from harness.errors import BadInputError, ServerGoneError, WaitTimeoutError
from harness.postgres.deadlines import DeadlineConnection

Query: TypeAlias = LiteralString | sql.SQL | sql.Composed
Params: TypeAlias = Sequence[Any] | Mapping[str, Any] | None

# A server on loopback accepts within milliseconds; ten seconds are for one that is busy starting others.
CONNECT_TIMEOUT_S = 10
# No statement of a rehearsal takes ten minutes: what does is a server that will not answer.
STATEMENT_DEADLINE_S = 600.0


def _is_usable(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether an idle connection still leads to its server: one that was ended has something to read."""
    if connection.closed or connection.broken or connection.info.transaction_status != TransactionStatus.IDLE:
        return False
    pgconn = connection.pgconn
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    with contextlib.suppress(psycopg.Error):
        while pgconn.status == ConnStatus.OK and poll.poll(0):  # the last words first, then the end itself
            pgconn.consume_input()
    return pgconn.status == ConnStatus.OK


class Node(abc.ABC):
    """A server that can be asked, wherever it runs.

    Attributes:
        name: for messages.
        statement_deadline_s: how long `sql`, `rows`, `row` and `value` wait for an answer, in seconds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.statement_deadline_s = STATEMENT_DEADLINE_S
        self._idle: dict[str | None, list[DeadlineConnection]] = {}
        self._idle_guard = threading.Lock()

    @abc.abstractmethod
    def dsn(self, dbname: str | None = None, *, user: str | None = None) -> str:
        """How to reach it, as libpq reads it, with the password: never print it."""

    def connect(
        self,
        dbname: str | None = None,
        *,
        user: str | None = None,
        autocommit: bool = True,
        deadline_s: float | None = None,
        connect_timeout_s: int = CONNECT_TIMEOUT_S,
    ) -> DeadlineConnection:
        """Open a connection of the caller's own, to be closed by the caller.

        Args:
            dbname: the database; None: the node's own.
            user: the role; None: the node's own.
            autocommit: whether each statement is a transaction of its own.
            deadline_s: how long one answer may take, in seconds; None: as long as it takes.
            connect_timeout_s: how long the connection itself may take, in whole seconds, at least 2.

        Raises:
            psycopg.OperationalError: no connection; of its class ``ConnectionTimeout`` when the time was up.
        """
        connection = DeadlineConnection.connect(
            self.dsn(dbname, user=user), autocommit=autocommit, connect_timeout=connect_timeout_s
        )
        connection.deadline_s = deadline_s
        return connection

    @contextlib.contextmanager
    def _borrowed(self, dbname: str | None, deadline_s: float | None) -> Iterator[DeadlineConnection]:
        # One open connection a database serves a single thread; a second is opened only while the first is in use.
        with self._idle_guard:
            idle = self._idle.setdefault(dbname, [])
            connection = idle.pop() if idle else None
        if connection is not None and not _is_usable(connection):
            connection.close()
            connection = None
        if connection is None:
            connection = self.connect(dbname)
        connection.deadline_s = self.statement_deadline_s if deadline_s is None else deadline_s
        try:
            yield connection
        finally:
            if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
                connection.close()
            else:
                with self._idle_guard:
                    self._idle.setdefault(dbname, []).append(connection)

    def _run(
        self, query: Query, params: Params, dbname: str | None, deadline_s: float | None, *, fetch: bool
    ) -> list[TupleRow]:
        with self._borrowed(dbname, deadline_s) as connection:
            try:
                cursor = connection.execute(query, params)
                return cursor.fetchall() if fetch else []
            except WaitTimeoutError as error:
                error.node = self.name
                raise
            except psycopg.OperationalError as error:
                if not connection.closed:
                    raise
                raise ServerGoneError(
                    f"{self.name} was lost in the middle of a statement: {str(error).strip().splitlines()[0]}",
                    hint="its log says why",
                    node=self.name,
                    sqlstate=error.sqlstate,
                ) from error

    def sql(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> None:
        """Run a statement in a transaction of its own; its rows, if any, are not fetched.

        Args:
            query: the statement.
            params: its values.
            dbname: the database; None: the node's own.
            deadline_s: how long to wait for the answer, in seconds; None: ``statement_deadline_s``.

        Raises:
            psycopg.Error: the server said no.
            ServerGoneError: the connection was lost on the way.
            WaitTimeoutError: no answer came in time.
        """
        self._run(query, params, dbname, deadline_s, fetch=False)

    def rows(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> list[TupleRow]:
        """Run a query and return all its rows (arguments and errors: see `sql`)."""
        return self._run(query, params, dbname, deadline_s, fetch=True)

    def row(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> TupleRow:
        """Run a query that answers exactly one row, and return it (arguments and errors: see `sql`).

        Raises:
            ValueError: it answered none or several.
        """
        found = self.rows(query, params, dbname=dbname, deadline_s=deadline_s)
        if len(found) != 1:
            raise ValueError(f"one row was expected from {self.name}, {len(found)} came")
        return found[0]

    def value(
        self, query: Query, params: Params = None, *, dbname: str | None = None, deadline_s: float | None = None
    ) -> Any:
        """Run a query that answers exactly one value, and return it (arguments and errors: see `row`)."""
        found = self.row(query, params, dbname=dbname, deadline_s=deadline_s)
        if len(found) != 1:
            raise ValueError(f"one value was expected from {self.name}, {len(found)} came")
        return found[0]

    @contextlib.contextmanager
    def transaction(
        self, dbname: str | None = None, *, user: str | None = None, deadline_s: float | None = None
    ) -> Iterator[DeadlineConnection]:
        """A connection of its own in one transaction: committed at the end, rolled back on an exception, closed."""
        connection = self.connect(dbname, user=user, deadline_s=deadline_s)
        try:
            with connection.transaction():
                yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections that the verbs keep open; the next verb opens a new one."""
        with self._idle_guard:
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()


class DsnNode(Node):
    """A database that is already there, by its DSN.

    Args:
        name: for messages.
        dsn: as libpq reads it, keywords or URI.

    Raises:
        BadInputError: the DSN cannot be read.
    """

    def __init__(self, name: str, dsn: str) -> None:
        super().__init__(name)
        try:
            self._parameters = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            # libpq quotes the string, which may hold a password: its words stay here.
            raise BadInputError(
                f"the address of {name} cannot be read", hint="write it as postgresql://user@host:port/database"
            ) from None

    def dsn(self, dbname: str | None = None, *, user: str | None = None) -> str:
        """How to reach it, with the password if there was one: never print it."""
        changes = {key: value for key, value in (("dbname", dbname), ("user", user)) if value is not None}
        return make_conninfo("", **{**self._parameters, **changes})
