"""The public extension pg_trickle, behind the interface of both: its SQL functions, and what its catalog says.

What is known of it was measured (docs/beside-pg-trickle.md); its words are those of its functions' arguments in 0.67.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from harness.engines.installed import EXTENSION, require_extension
from harness.engines.model import (
    Connection,
    Engine,
    EngineName,
    EngineRefusedError,
    Footprint,
    Standing,
    Tables,
    fetch_footprint,
)
from harness.errors import StreamTableNotFoundError
from harness.postgres.node import Node
from harness.trickle.names import stable_name
from harness.trickle.oracle import Difference, compare

# By hand: its scheduler is off where engines are compared, and a schedule has to be some span.
_BY_HAND = "1h"
_CREATE = """
SELECT pgtrickle.create_stream_table(%s, %s, schedule => %s, refresh_mode => %s, output_distribution_column => %s)"""
_ALTER = "SELECT pgtrickle.alter_stream_table(%s, query => %s, schedule => %s, refresh_mode => %s)"
_FIND = """
SELECT t.pgt_id, t.pgt_schema, t.pgt_name, t.refresh_mode, t.status, t.is_populated, t.consecutive_errors,
       coalesce(t.original_query, t.defining_query), coalesce(t.effective_refresh_mode, '')
FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_relid = pg_catalog.to_regclass(%s)"""
_LAST_REFRESH = """
SELECT h.action, h.was_full_fallback, coalesce(h.merge_strategy_used, ''), h.rows_inserted, h.rows_deleted
FROM pgtrickle.pgt_refresh_history h JOIN pgtrickle.pgt_stream_tables t USING (pgt_id)
WHERE t.pgt_relid = pg_catalog.to_regclass(%s) ORDER BY h.refresh_id DESC LIMIT 1"""


class _Refreshed:
    """What a refresh did, as the extension's catalog has it: asked when it is first looked at, so that a refresh can be
    timed by itself."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    @functools.cached_property
    def _told(self) -> tuple[str, str]:
        known = self._connection.execute(_FIND, [self._name]).fetchone()
        last = self._connection.execute(_LAST_REFRESH, [self._name]).fetchone()
        if last is None:
            return "NO_DATA", "its history has no row of it"
        # Its history says DIFFERENTIAL of a refresh that fell back, and of one that had nothing to do; the other column
        # keeps what it had then (0.67). The counts say whether it did something.
        action = "NO_DATA" if not last[3] and not last[4] else (known[8] if known else "") or str(last[0])
        return action, f"history: {last[0]}, +{last[3]} -{last[4]} {last[2]}".strip()

    @property
    def action(self) -> str:
        """See `Done.action`."""
        return self._told[0]

    @property
    def reason(self) -> str:
        """See `Done.reason`: what the history says."""
        return self._told[1]


@contextmanager
def _understood(what: str, connection: Connection) -> Iterator[None]:
    """What the extension, or PostgreSQL for it, refuses, as an error of ours with its words; a lost connection is no
    refusal, and keeps its error."""
    try:
        yield
    except psycopg.Error as error:
        if connection.closed or connection.broken:
            raise
        said = error.diag.message_primary or str(error)
        raise EngineRefusedError(f"{EXTENSION}: {what}: {said}", sqlstate=error.sqlstate) from error


def _as_written(query: str) -> sql.SQL:
    """A person's query as a part of a statement: they could have run it themselves."""
    return sql.SQL(query.strip().rstrip(";"))


class PeerTables:
    """The extension's stream tables in one database.

    Args:
        connection: to the server, autocommit, idle; it stays the caller's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self, name: str, query: str, schedule: str | None = None, mode: str = "AUTO", placement: str = "auto"
    ) -> Standing:
        """See `Tables.create`. A distributed one is asked for by its first column; it has no reference ones.

        Raises:
            EngineRefusedError: the extension refused it, or has no such placement.
        """
        text = query.strip().rstrip(";")
        with _understood(f"create {name}", self._connection):
            column = self._first_column(text) if placement == "distributed" else None
            with self._connection.transaction():
                self._connection.execute(_CREATE, [name, text, schedule or _BY_HAND, mode, column])
                if placement == "reference":
                    # After it: what it says of the sources comes first.
                    raise EngineRefusedError(f"{EXTENSION}: create {name}: it has no reference stream tables")
        return self.standing(name)

    def _first_column(self, query: str) -> str | None:
        found = self._connection.execute(sql.SQL("SELECT * FROM ({}) q LIMIT 0").format(_as_written(query)))
        return found.description[0].name if found.description else None

    def refresh(self, name: str) -> _Refreshed:
        """See `Tables.refresh`.

        Raises:
            EngineRefusedError: it was refused, or failed.
        """
        with _understood(f"refresh {name}", self._connection):
            self._connection.execute("SELECT pgtrickle.refresh_stream_table(%s)", [name])
        return _Refreshed(self._connection, name)

    def alter(
        self, name: str, *, query: str | None = None, schedule: str | None = None, mode: str | None = None
    ) -> Standing:
        """See `Tables.alter`.

        Raises:
            EngineRefusedError: it was refused, or failed.
        """
        with _understood(f"alter {name}", self._connection):
            self._connection.execute(_ALTER, [name, query, schedule, mode])
        return self.standing(name)

    def drop(self, name: str) -> None:
        """See `Tables.drop`.

        Raises:
            EngineRefusedError: it was refused, or failed.
        """
        with _understood(f"drop {name}", self._connection):
            self._connection.execute("SELECT pgtrickle.drop_stream_table(%s)", [name])

    def explain(self, name: str) -> _Kept:
        """See `Tables.explain`: by the mode that its catalog has."""
        found = self._find(name)
        return _Kept(found[3], "")

    def standing(self, name: str) -> Standing:
        """See `Tables.standing`."""
        _, schema, table, mode, status, is_populated, errors, _, _ = self._find(name)
        return Standing(sql.Identifier(schema, table).as_string(), mode, status, bool(is_populated), int(errors))

    def footprint(self, schema: str, table: str) -> Footprint:
        """See `Tables.footprint`. From 0.66 on its buffers have stable names (D1)."""
        buffer = sql.Identifier("pgtrickle_changes", f"changes_{stable_name(schema, table)}")
        return fetch_footprint(self._connection, sql.Identifier(schema, table), buffer)

    def placement(self, schema: str, table: str) -> str:
        """See `Tables.placement`: its catalog has no other than local."""
        self._find(sql.Identifier(schema, table).as_string())
        return "local"

    def difference(self, name: str, *, as_text: bool = False) -> Difference:
        """See `Tables.difference`: beside the query as it was given, not as the extension rewrote it."""
        return compare(self._connection, name, as_text=as_text, query=_as_written(str(self._find(name)[7])))

    def _find(self, name: str) -> tuple[Any, ...]:
        found = self._connection.execute(_FIND, [name]).fetchone()
        if found is None:
            raise StreamTableNotFoundError(f"there is no stream table {name}")
        return tuple(found)


class _Kept:
    """How the extension keeps a stream table."""

    def __init__(self, mode: str, reason: str) -> None:
        self.mode = mode
        self.reason = reason


class PgTrickleEngine(Engine):
    """The public extension, in a database of a server that preloads it."""

    name = EngineName.PG_TRICKLE

    def prepare(self, node: Node) -> None:
        """Create the extension (see `Engine.prepare`).

        Raises:
            ExtensionMissingError: the server does not have it, or does not preload it.
        """
        require_extension(node)
        node.sql("CREATE EXTENSION IF NOT EXISTS pg_trickle")

    @contextmanager
    def open(self, connection: Connection) -> Iterator[Tables]:
        """See `Engine.open`. The connection prepares nothing by itself inside the block: where psycopg does, it sends
        DEALLOCATE ALL after a ROLLBACK or a DROP, and every later refresh of the session fails (0.67: "prepared
        statement "__pgt_merge_1" does not exist"), which is shown by a scenario of its own.
        """
        before, connection.prepare_threshold = connection.prepare_threshold, None
        try:
            yield PeerTables(connection)
        finally:
            connection.prepare_threshold = before


PG_TRICKLE = PgTrickleEngine()
