"""Where a server is in its WAL and its transaction ids, and a new server put past it.

A buffer row keeps the WAL position (from 0004 on the transaction id too) at which it was captured, a frontier the one
at which a refresh stopped; pending is what lies above. Both are copied as they are, so what the copy captures itself
must lie above all of them: a new server would start far below, and its rows would look consumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from harness.postgres import Server
from harness.postgres.identity import server_user
from harness.rehearsal.source import Connection
from harness.rehearsal.tools import run_program

# initdb's default, which the temporary servers have: 16 MiB a segment, 256 segments in 4 GiB.
_SEGMENT_BYTES = 16 * 2**20
_SEGMENTS_A_LOG = 2**32 // _SEGMENT_BYTES

_POSITION = """
SELECT ((CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
              ELSE pg_catalog.pg_current_wal_insert_lsn() END) - '0/0'::pg_lsn)::bigint,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::numeric::bigint
"""
_FRONTIERS = """
SELECT coalesce(max((s.value ->> 'lsn')::pg_lsn - '0/0'::pg_lsn), 0)::bigint
FROM pgtrickle.pgt_stream_tables t
CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(t.frontier -> 'sources') = 'object' THEN t.frontier -> 'sources'
                                   ELSE '{}'::jsonb END) s
WHERE s.value ->> 'lsn' ~ '^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$'
"""
_BUFFERS = """
SELECT c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'lsn' AND NOT a.attisdropped
WHERE c.relnamespace = pg_catalog.to_regnamespace('pgtrickle_changes') AND c.relkind = 'r' AND c.relname ~ '^changes_'
"""


@dataclass(frozen=True)
class Position:
    """How far a server is.

    Attributes:
        lsn: no WAL position in use lies above it, in bytes.
        xid: its next transaction id, 64 bits wide.
    """

    lsn: int
    xid: int

    @property
    def next_segment(self) -> str:
        """The WAL file after the one that holds `lsn`, on timeline 1."""
        number = self.lsn // _SEGMENT_BYTES + 1
        return f"{1:08X}{number // _SEGMENTS_A_LOG:08X}{number % _SEGMENTS_A_LOG:08X}"

    @property
    def next_epoch(self) -> int:
        """The epoch (upper half) after that of `xid`: every id in it is larger, and the lower half needs no change."""
        return (self.xid >> 32) + 1


def fetch_position(conn: Connection) -> Position:
    """Read how far the source is: its WAL, and every position that a frontier or a captured row names.

    A database that was itself restored from a dump names positions that its own server has not reached.
    """
    row = conn.execute(_POSITION).fetchone()
    frontier = conn.execute(_FRONTIERS).fetchone()
    lsn, xid = (int(row[0]), int(row[1])) if row else (0, 0)
    lsn = max(lsn, int(frontier[0]) if frontier else 0)
    for (buffer,) in conn.execute(_BUFFERS).fetchall():
        found = conn.execute(
            sql.SQL("SELECT (max(b.lsn) - '0/0'::pg_lsn)::bigint FROM {} b").format(
                sql.Identifier("pgtrickle_changes", buffer)
            )
        ).fetchone()
        lsn = max(lsn, int(found[0]) if found and found[0] is not None else 0)
    return Position(lsn, xid)


def move_past(server: Server, position: Position) -> None:
    """Put a new server, not started yet, past a position: its next WAL record and transaction id lie above it.

    ``pg_resetwal`` does it: with ``-l`` the WAL starts in the segment after, with ``-e`` the transaction ids go on in
    the next epoch. Nothing else of the server changes.

    Raises:
        ServerError: pg_resetwal refused.
    """
    user = server_user()
    run_program(
        server.installation.program("pg_resetwal"),
        [
            f"--next-wal-file={position.next_segment}",
            f"--epoch={position.next_epoch}",
            f"--pgdata={server.data_dir}",
        ],
        env={},
        log=server.data_dir.parent / "resetwal.log",
        disk=server.data_dir,
        user=user.uid if user.is_dropped_to else None,
        group=user.gid if user.is_dropped_to else None,
    )
