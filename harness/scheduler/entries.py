"""What a scheduler reads of the catalog at each look: every stream table, whom it reads, and the server's clock."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg

from harness.errors import NotACoordinatorError

# The storage's own name: who renamed it with SQL left the catalog's behind.
_QUERY = """
    SELECT t.pgt_id, pg_catalog.format('%I.%I', coalesce(n.nspname, t.pgt_schema), coalesce(c.relname, t.pgt_name)),
           c.oid IS NOT NULL, t.schedule, t.status, t.needs_reinit, t.is_populated, t.data_timestamp,
           t.last_refresh_at, t.updated_at, t.consecutive_errors, t.suspended_reason,
           coalesce((SELECT pg_catalog.array_agg(u.pgt_id) FROM pgtrickle.pgt_dependencies d
                     JOIN pgtrickle.pgt_stream_tables u ON u.pgt_relid = d.source_relid
                     WHERE d.pgt_id = t.pgt_id), '{}')
    FROM pgtrickle.pgt_stream_tables t
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.pgt_relid
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    ORDER BY t.pgt_id"""


@dataclass(frozen=True)
class Entry:
    """A stream table, as a scheduler sees it.

    Attributes:
        pgt_id: its number.
        name: as SQL writes it.
        has_table: whether its storage is there.
        schedule: as the catalog has it; None: refreshed by hand.
        status: INITIALIZING, ACTIVE, SUSPENDED or ERROR.
        needs_reinit: whether it has to be filled anew.
        is_populated: whether it was ever filled.
        fresh_at: as of when its rows are.
        refreshed_at: when its last refresh ended.
        updated_at: when its row was changed.
        failures: refreshes that failed since.
        reason: why it is suspended, or in ERROR.
        reads: the numbers of the stream tables that it reads.
    """

    pgt_id: int
    name: str
    has_table: bool
    schedule: str | None
    status: str
    needs_reinit: bool
    is_populated: bool
    fresh_at: datetime | None
    refreshed_at: datetime | None
    updated_at: datetime
    failures: int
    reason: str | None
    reads: frozenset[int]


@dataclass(frozen=True)
class Look:
    """What was seen at one moment.

    Attributes:
        now: that moment, by the server's clock.
        entries: the stream tables, by number.
    """

    now: datetime
    entries: dict[int, Entry]


def look(connection: psycopg.Connection[Any]) -> Look:
    """Read the catalog of the coordinator; nothing stays behind.

    Raises:
        NotACoordinatorError: the server writes no longer, as after a failover: a session may outlive its rank.
        psycopg.Error: the connection is lost, or the catalog changed.
    """
    with connection.transaction():
        row = connection.execute(
            "SELECT pg_catalog.clock_timestamp(), pg_catalog.current_setting('transaction_read_only') = 'on'",
            binary=True,  # whatever the session's DateStyle
        ).fetchone()
        entries = [_entry(*found) for found in connection.execute(_QUERY, binary=True).fetchall()]
    if row is None:
        raise AssertionError("a query of one row gave none")
    if row[1]:
        raise NotACoordinatorError(
            "the server has become read-only", hint="name all hosts in the DSN, with target_session_attrs=read-write"
        )
    return Look(row[0], {entry.pgt_id: entry for entry in entries})


def _entry(*values: Any) -> Entry:
    known = dict(zip((field.name for field in fields(Entry)), values, strict=True))
    known["reads"] = frozenset(known["reads"])
    return Entry(**known)
