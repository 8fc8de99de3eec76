"""What the change buffers hold for a refresh: looked at before it, counted in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from harness.trickle.catalog import StreamTable
from harness.trickle.delta.window import SourceWindow
from harness.trickle.frontier import Cut
from harness.trickle.sources import Source


@dataclass(frozen=True)
class Pending:
    """What a source's buffer holds for a refresh.

    Attributes:
        row_count: captured rows inside the window.
        is_truncated: whether a TRUNCATE is among them.
        seq_id: the highest sequence value; None where there is none.
    """

    row_count: int = 0
    is_truncated: bool = False
    seq_id: int | None = None


def look(connection: psycopg.Connection[Any], source: Source, old: Cut | None) -> Pending:
    """What a buffer holds beyond the last cut: one query; no node is asked for a snapshot (F32, F33).

    Of a distributed source all that is seen here ended before the cut of the refresh that follows, so it counts. Of the
    others only whether there is anything: they are counted in the refresh's own snapshot.

    Args:
        connection: to the coordinator.
        source: whose buffer.
        old: the last cut; None: there was none, and nothing is looked at.
    """
    if old is None:
        return Pending()
    since = SourceWindow(source, True, old, old).since()
    if source.is_distributed:
        return count(connection, source, since)
    query = sql.SQL("SELECT 1 FROM {} AS __pgt_b WHERE {} LIMIT 1").format(source.buffer, since)
    return Pending(len(connection.execute(query).fetchall()))


def count(connection: psycopg.Connection[Any], source: Source, condition: sql.Composed) -> Pending:
    """The rows of a buffer for which a condition holds.

    Args:
        connection: to the coordinator.
        source: whose buffer.
        condition: on ``__pgt_b``.
    """
    seq_id = sql.SQL("max(__pgt_b.seq_id)") if source.is_distributed else sql.SQL("NULL")
    row = connection.execute(
        sql.SQL("SELECT count(*), count(*) FILTER (WHERE __pgt_b.action = 'T'), {} FROM {} AS __pgt_b WHERE {}").format(
            seq_id, source.buffer, condition
        )
    ).fetchone()
    return Pending(int(row[0]), bool(row[1]), row[2]) if row else Pending()


def highest_seq_id(stream_table: StreamTable, stable_name: str, found: Pending) -> int:
    """The highest sequence value of a source that was taken so far.

    Args:
        stream_table: as the catalog had it when the refresh began.
        stable_name: the source's.
        found: what this refresh takes.
    """
    before = (stream_table.frontier or {}).get("sources", {}).get(stable_name, {}).get("seq_id") or 0
    return max(int(before), found.seq_id or 0)
