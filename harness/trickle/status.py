"""How far behind a stream table is, and whose open transactions its next refresh cannot take yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from harness.trickle.catalog import StreamTable
from harness.trickle.delta.window import SourceWindow
from harness.trickle.frontier import COORDINATOR, Cut
from harness.trickle.leases import LOCK_CLASS
from harness.trickle.nodes import Workers
from harness.trickle.sources import Source, fetch_sources


@dataclass(frozen=True)
class Holder:
    """A transaction that is open and has written: what it captured comes with a later refresh.

    Attributes:
        node: ``coordinator``, or the address of a worker.
        pid: of its session.
        age_s: how long it has been open, in seconds.
        state: of the session, such as ``idle in transaction``.
        query: its last statement.
    """

    node: str
    pid: int
    age_s: float
    state: str
    query: str


@dataclass(frozen=True)
class Status:
    """How a stream table is.

    Attributes:
        stream_table: it.
        pending: captured rows by source that are not applied yet.
        held_by: who has written to a source and not committed, the oldest first.
        lag_s: how old its rows are, in seconds, by the server's clock; None: it was never filled.
        at_work: who refreshes or changes it now; None: nobody.
    """

    stream_table: StreamTable
    pending: Mapping[str, int]
    held_by: tuple[Holder, ...]
    lag_s: float | None = None
    at_work: str | None = None


# By lease on a cluster, by advisory lock without one.
_LAG_QUERY = """
    SELECT greatest(0, extract(epoch FROM clock_timestamp() - t.data_timestamp))::float8,
           coalesce((SELECT l.holder FROM pgtrickle.st_locks l WHERE l.pgt_id = t.pgt_id),
                    (SELECT coalesce(nullif(a.application_name, ''), 'a session') || ', server process ' || a.pid
                     FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
                     WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s::oid
                       AND l.objid = t.pgt_id::oid AND a.datname = pg_catalog.current_database() LIMIT 1))
    FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = %s"""
# A writer of a source has a lock on its change buffer, or on a shard of it, until it ends.
_HOLDERS_QUERY = """
    SELECT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8, coalesce(a.state, ''),
           left(a.query, 200)
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = pg_catalog.current_database() AND a.backend_xid IS NOT NULL
      AND a.pid <> pg_catalog.pg_backend_pid()
      AND EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE l.pid = a.pid AND l.mode = 'RowExclusiveLock' AND n.nspname = 'pgtrickle_changes'
                    AND substring(c.relname FROM 9 FOR 16) = ANY (%s))
    ORDER BY a.xact_start"""


def fetch_status(connection: psycopg.Connection[Any], stream_table: StreamTable, workers: Workers | None) -> Status:
    """Look at a stream table's buffers and at who writes to them.

    Args:
        connection: to the coordinator.
        stream_table: which one.
        workers: of a cluster; None without one.

    Raises:
        ServerGoneError: a worker does not answer.
    """
    captured = [d for d in stream_table.dependencies if d.is_captured and d.captured is not None]
    sources = fetch_sources(connection, [d.relid for d in captured])
    pending = {source.qualified: _pending(connection, stream_table, source) for source in sources}
    names = [source.stable_name for source in sources]
    held = [Holder("coordinator", *row) for row in connection.execute(_HOLDERS_QUERY, [names]).fetchall()]
    if workers is not None and any(source.is_distributed for source in sources):
        held += [Holder(node, *row) for node, row in workers.rows(_HOLDERS_QUERY, [names])]
    lag_s, at_work = connection.execute(_LAG_QUERY, [LOCK_CLASS, stream_table.pgt_id]).fetchone() or (None, None)
    return Status(stream_table, pending, tuple(sorted(held, key=lambda holder: -holder.age_s)), lag_s, at_work)


def _pending(connection: psycopg.Connection[Any], stream_table: StreamTable, source: Source) -> int:
    cut = stream_table.cut(source.stable_name)
    where = sql.SQL("true")
    condition: sql.Composable = where
    if cut is not None:
        condition = SourceWindow(source, True, cut, Cut({COORDINATOR: "3:3:"})).since()
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} AS __pgt_b WHERE {}").format(source.buffer, condition)
    ).fetchone()
    return int(row[0]) if row else 0
