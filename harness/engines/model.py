"""What a scenario or a benchmark needs of an engine: verbs, what they answer, and what capture leaves on a source."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import psycopg
from psycopg import sql

from harness.errors import RefusedError
from harness.postgres.node import Node
from harness.trickle.oracle import Difference

Connection = psycopg.Connection[Any]


class EngineName(StrEnum):
    """The engines, as ``--engine`` names them."""

    OURS = "ours"
    PG_TRICKLE = "pg_trickle"


class EngineRefusedError(RefusedError):
    """An engine refused what was asked of it, or failed at it; nothing was changed. Its words are the message's."""


class Done(Protocol):
    """What a refresh did."""

    @property
    def action(self) -> str:
        """NO_DATA, DIFFERENTIAL, FULL or REINITIALIZE."""

    @property
    def reason(self) -> str:
        """Why it recomputed, or how it applied its changes; may be empty."""


class Recomputing(Protocol):
    """How a stream table is kept."""

    @property
    def mode(self) -> str:
        """DIFFERENTIAL, or FULL where every refresh recomputes it."""

    @property
    def reason(self) -> str:
        """Why it is recomputed; may be empty."""


@dataclass(frozen=True)
class Standing:
    """How a stream table stands.

    Attributes:
        name: ``schema.table``, as SQL writes it.
        mode: as it was asked for: AUTO, DIFFERENTIAL, FULL or IMMEDIATE.
        status: ACTIVE, SUSPENDED, ERROR or INITIALIZING.
        is_populated: whether it was ever filled.
        consecutive_errors: failed refreshes since.
    """

    name: str
    mode: str
    status: str
    is_populated: bool
    consecutive_errors: int


@dataclass(frozen=True)
class Footprint:
    """What capture leaves for one source, on the node that was asked.

    Attributes:
        triggers: on the source, by name.
        events: what they fire for: INSERT, UPDATE, DELETE, TRUNCATE.
        is_by_row: whether one of them fires for each row.
        relations: buffer tables, their indexes and sequences, by name.
        functions: that the triggers call.
        waiting: rows in the buffer.
        size_bytes: of the buffer with its indexes.
    """

    triggers: tuple[str, ...]
    events: frozenset[str]
    is_by_row: bool
    relations: tuple[str, ...]
    functions: tuple[str, ...]
    waiting: int
    size_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is there."""
        return not (self.triggers or self.relations or self.functions)


class Tables(Protocol):
    """The stream tables of one database, whoever keeps them; their names are as SQL writes them."""

    def create(
        self, name: str, query: str, schedule: str | None = None, mode: str = "AUTO", placement: str = "auto"
    ) -> object:
        """Make a stream table and fill it (arguments: see `harness.trickle.StreamTables.create`).

        Raises:
            RefusedError: it cannot be; nothing was made.
        """

    def refresh(self, name: str) -> Done:
        """Bring it up to date.

        Raises:
            RefusedError: it was refused, or failed.
        """

    def alter(
        self, name: str, *, query: str | None = None, schedule: str | None = None, mode: str | None = None
    ) -> object:
        """Change its query, schedule or mode.

        Raises:
            RefusedError: it cannot be; nothing was changed.
        """

    def drop(self, name: str) -> None:
        """Drop it, with capture that nobody else needs.

        Raises:
            RefusedError: it cannot be.
        """

    def explain(self, name: str) -> Recomputing:
        """Whether its refreshes are incremental."""

    def standing(self, name: str) -> Standing:
        """How it stands.

        Raises:
            StreamTableNotFoundError: there is none of that name.
        """

    def footprint(self, schema: str, table: str) -> Footprint:
        """What capture has on a source, on the node of the connection."""

    def placement(self, schema: str, table: str) -> str:
        """Where the catalog says that a stream table's rows are: local, reference or distributed."""

    def difference(self, name: str, *, as_text: bool = False) -> Difference:
        """How it differs from the query that it was made with (see `harness.trickle.oracle.compare`)."""


class Engine(abc.ABC):
    """Who keeps stream tables.

    Attributes:
        name: as ``--engine`` has it.
    """

    name: EngineName

    @abc.abstractmethod
    def prepare(self, node: Node) -> None:
        """See to it that the engine is in a database: its schema, its catalog. Done twice it changes nothing.

        Args:
            node: the coordinator's database, or a plain server's.

        Raises:
            EnvironmentMissingError: the server lacks it.
        """

    @abc.abstractmethod
    def open(self, connection: Connection) -> AbstractContextManager[Tables]:
        """Its stream tables in a database that it is in.

        Args:
            connection: to the coordinator or the server, autocommit, idle; it stays the caller's.
        """

    def __str__(self) -> str:
        return self.name


_FOOTPRINT = sql.SQL("""
WITH source AS (SELECT pg_catalog.to_regclass({source})::oid AS oid),
     fired AS (SELECT t.tgname::text AS name, t.tgtype::int AS type, t.tgfoid FROM pg_catalog.pg_trigger t, source s
               WHERE t.tgrelid = s.oid AND NOT t.tgisinternal AND t.tgname ~ '^(pg_trickle_|pgt_)'),
     buffer AS (SELECT c.oid, c.relname::text AS name FROM pg_catalog.pg_class c
                WHERE c.oid = pg_catalog.to_regclass({buffer}))
SELECT coalesce((SELECT array_agg(name ORDER BY name) FROM fired), '{{}}'),
       coalesce((SELECT bit_or(type) FROM fired), 0), coalesce((SELECT bool_or(type & 1 = 1) FROM fired), false),
       coalesce((SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_catalog.pg_class c, buffer b
                 WHERE c.oid = b.oid
                    OR c.oid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = b.oid)
                    OR c.oid IN (SELECT d.objid FROM pg_catalog.pg_depend d
                                 WHERE d.refobjid = b.oid AND d.deptype IN ('a', 'i')
                                   AND d.classid = 'pg_catalog.pg_class'::regclass)
                   AND c.relkind IN ('S', 'r', 'i', 'p')), '{{}}'),
       coalesce((SELECT array_agg(DISTINCT p.proname::text) FROM fired f JOIN pg_catalog.pg_proc p ON p.oid = f.tgfoid),
                '{{}}'),
       coalesce((SELECT pg_catalog.pg_total_relation_size(oid) FROM buffer), 0), (SELECT oid IS NOT NULL FROM buffer)
""")
# Of pg_trigger.tgtype.
_EVENTS = {4: "INSERT", 8: "DELETE", 16: "UPDATE", 32: "TRUNCATE"}


def fetch_footprint(connection: Connection, source: sql.Identifier, buffer: sql.Identifier) -> Footprint:
    """What capture has on a source, as the node of the connection has it in its own catalog.

    Args:
        connection: to that node.
        source: the table.
        buffer: where its changes are kept, whether it is there or not.
    """
    row = connection.execute(
        _FOOTPRINT.format(source=sql.Literal(source.as_string()), buffer=sql.Literal(buffer.as_string()))
    ).fetchone()
    triggers, types, is_by_row, relations, functions, size, is_there = row or ([], 0, False, [], [], 0, False)
    waiting = 0
    if is_there:
        counted = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(buffer)).fetchone()
        waiting = int(counted[0]) if counted else 0
    return Footprint(
        triggers=tuple(triggers),
        events=frozenset(name for bit, name in _EVENTS.items() if types & bit),
        is_by_row=bool(is_by_row),
        relations=tuple(relations),
        functions=tuple(sorted(functions)),
        waiting=waiting,
        size_bytes=int(size),
    )
