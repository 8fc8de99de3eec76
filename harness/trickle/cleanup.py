"""Captured rows that every reader has taken leave the buffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from harness.trickle.frontier import GROUP_BITS, Cut, read_cut
from harness.trickle.sources import Source

# Who deletes waits for nobody: what stays is deleted after the next refresh.
_LOCK_TIMEOUT = "100ms"


def delete_own(
    connection: psycopg.Connection[Any], pgt_id: int, sources: Iterable[Source], new: Mapping[int, Cut]
) -> list[Source]:
    """Delete what a refresh takes, in its own transaction, from the buffers that nobody else reads.

    Args:
        connection: in the refresh's transaction, its cut already read: who becomes a reader after this fills its table
            later than the cut.
        pgt_id: whose refresh.
        sources: its sources.
        new: where it stops in each.

    Returns:
        The sources with other readers, whose rows go afterwards.
    """
    listed = list(sources)
    rows = connection.execute(
        "SELECT d.source_relid::bigint FROM pgtrickle.pgt_dependencies d"
        " WHERE d.source_relid = ANY (%s::oid[]) AND d.is_captured AND d.pgt_id <> %s",
        [[source.relid for source in listed], pgt_id],
    ).fetchall()
    shared = {int(row[0]) for row in rows}
    for source in listed:
        if source.relid in shared:
            continue
        if source.is_distributed:
            connection.execute(_delete_query(source, [new[source.relid]]))
        else:
            # What the refresh's own snapshot sees is what it took.
            connection.execute(sql.SQL("DELETE FROM {}").format(source.buffer))
    return [source for source in listed if source.relid in shared]


def delete_consumed(connection: psycopg.Connection[Any], sources: Iterable[Source]) -> int:
    """Delete the rows that are in the last cut of every stream table that reads them.

    Args:
        connection: to the coordinator, in autocommit, idle.
        sources: whose buffers.

    Returns:
        How many went. A reader that has not stopped anywhere yet keeps all of them. Frontiers only move on, so one that
        is read here a moment too early keeps a row too long and never lets one go too soon.
    """
    count = 0
    for source in sources:
        cuts = _reader_cuts(connection, source)
        if cuts is None:
            continue
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
                count += connection.execute(_delete_query(source, cuts)).rowcount
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
            continue
    return count


def _reader_cuts(connection: psycopg.Connection[Any], source: Source) -> list[Cut] | None:
    rows = connection.execute(
        "SELECT DISTINCT jsonb_build_object('sources',"
        " jsonb_build_object(d.source_stable_name, t.frontier -> 'sources' -> d.source_stable_name))"
        " FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE d.source_relid = %s"
        # One that recomputes its query each time reads no buffer.
        " AND d.is_captured",
        [source.relid],
    ).fetchall()
    cuts = []
    for (frontier,) in rows:
        cut = read_cut(frontier, source.stable_name)
        if cut is None:
            return None
        cuts.append(cut)
    return cuts or None


def _delete_query(source: Source, cuts: list[Cut]) -> sql.Composed:
    xid = sql.SQL("__pgt_b.xid")
    node = sql.SQL("(__pgt_b.seq_id >> {})").format(sql.Literal(GROUP_BITS)) if source.is_distributed else None
    held = sql.SQL(" AND ").join(cut.holds(xid, node) for cut in cuts)
    if not source.is_distributed:
        # Rows of before the transaction column were decided long ago, and whoever stopped at a snapshot has them.
        held = sql.SQL("coalesce({}, true)").format(held)
    return sql.SQL("DELETE FROM {} AS __pgt_b WHERE {}").format(source.buffer, held)
