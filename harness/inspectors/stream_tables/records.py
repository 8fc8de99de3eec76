"""What the catalog says of stream tables, read with no more rights than SELECT on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString

from harness.inspectors.contract import Reason, Unavailable
from harness.trickle.catalog import REVISION
from harness.trickle.leases import LOCK_CLASS

if TYPE_CHECKING:
    from harness.inspectors.session import Session

_THERE_QUERY: LiteralString = """
    SELECT n.oid IS NOT NULL, c.oid IS NOT NULL,
           c.oid IS NOT NULL AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           AND (SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(t.oid, 'SELECT')) FROM pg_catalog.pg_class t
                WHERE t.relnamespace = n.oid AND t.relname IN ('alembic_version', 'pgt_stream_tables',
                'pgt_dependencies', 'pgt_change_tracking', 'pgt_refresh_history', 'st_locks')),
           coalesce((SELECT pg_catalog.has_function_privilege(p.oid, 'EXECUTE') FROM pg_catalog.pg_proc p
                     WHERE p.pronamespace = n.oid AND p.proname = 'capture_problems'), false)
    FROM (VALUES (1)) one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'pgtrickle'
    LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'alembic_version'
"""
_GRANTS = "GRANT USAGE ON SCHEMA pgtrickle TO the role; GRANT SELECT ON ALL TABLES IN SCHEMA pgtrickle TO the role"
_TABLES_QUERY: LiteralString = """
    SELECT t.pgt_id, pg_catalog.format('%I.%I', t.pgt_schema, t.pgt_name), t.pgt_schema, t.pgt_name, t.st_placement,
           {column}, t.refresh_mode, t.status, t.schedule, t.is_populated, t.needs_reinit, t.reinit_reason,
           t.suspended_reason, t.consecutive_errors, t.last_refresh_at, t.frontier,
           greatest(0, extract(epoch FROM pg_catalog.clock_timestamp() - t.data_timestamp))::float8,
           t.drop_requested_at
    FROM pgtrickle.pgt_stream_tables t
"""
_SOURCES_QUERY: LiteralString = """
    SELECT d.pgt_id, d.source_relid::bigint, pg_catalog.format('%I.%I', n.nspname, c.relname), n.nspname, c.relname,
           d.source_stable_name, d.source_placement,
           d.is_captured AND k.source_relid IS NOT NULL, d.is_captured, coalesce(c.relispartition, false)
    FROM pgtrickle.pgt_dependencies d
    LEFT JOIN pgtrickle.pgt_change_tracking k ON k.source_relid = d.source_relid
    LEFT JOIN pg_catalog.pg_class c ON c.oid = d.source_relid
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    ORDER BY d.pgt_id, n.nspname, c.relname
"""
# A lease on a cluster, an advisory lock without one (leases.md).
_LEASES_QUERY: LiteralString = """
    SELECT l.pgt_id, l.holder, l.locked_by, l.locked_at, l.deadline, l.fencing_token,
           l.deadline < pg_catalog.clock_timestamp(),
           EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.locked_by)
    FROM pgtrickle.st_locks l
    UNION ALL
    SELECT l.objid::bigint, coalesce(nullif(a.application_name, ''), 'a session'), l.pid, NULL, NULL, NULL, false, true
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s::oid
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
"""
_HISTORY_QUERY: LiteralString = """
    SELECT h.pgt_id, h.start_time, extract(epoch FROM h.end_time - h.start_time) * 1000, h.action, h.status, h.reason,
           h.rows_inserted, h.rows_deleted, h.delta_row_count, h.error_message, h.initiated_by
    FROM pgtrickle.pgt_stream_tables t
    CROSS JOIN LATERAL (
        SELECT * FROM pgtrickle.pgt_refresh_history r WHERE r.pgt_id = t.pgt_id
        ORDER BY r.data_timestamp DESC, r.refresh_id DESC LIMIT %s) h
    ORDER BY h.pgt_id, h.data_timestamp DESC, h.refresh_id DESC
"""
# A buffer is colocated with its source (D4): their shards of one range are together.
_PLACED_QUERY: LiteralString = """
    SELECT s.logicalrelid::oid::bigint, s.shardid, p.groupid, b.shardid
    FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_dist_placement p USING (shardid)
    LEFT JOIN (
        SELECT k.source_relid, d.shardid, d.shardminvalue FROM pgtrickle.pgt_change_tracking k
        JOIN pg_catalog.pg_namespace n ON n.nspname = 'pgtrickle_changes'
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'changes_' || k.source_stable_name
        JOIN pg_catalog.pg_dist_shard d ON d.logicalrelid = c.oid) b
        ON b.source_relid = s.logicalrelid AND b.shardminvalue IS NOT DISTINCT FROM s.shardminvalue
    WHERE s.logicalrelid = ANY (%s::oid[]) ORDER BY 1, 2, 3
"""
_COLUMN: LiteralString = """(SELECT pg_catalog.column_to_column_name(p.logicalrelid, p.partkey)
    FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = t.pgt_relid AND p.partkey IS NOT NULL)"""


@dataclass(frozen=True)
class TableRecord:
    """A row of pgt_stream_tables; ``qualified`` is its name as SQL writes it."""

    pgt_id: int
    qualified: str
    schema: str
    name: str
    placement: str
    distribution_column: str | None
    mode: str
    status: str
    schedule: str | None
    is_populated: bool
    needs_reinit: bool
    reinit_reason: str | None
    suspended_reason: str | None
    consecutive_errors: int
    last_refresh_at: datetime | None
    frontier: Mapping[str, Any] | None
    lag_s: float | None
    drop_requested_at: datetime | None


@dataclass(frozen=True)
class SourceRecord:
    """A source of a stream table; ``is_tracked``: its changes are captured, ``is_wanted``: they should be."""

    pgt_id: int
    relid: int
    qualified: str
    schema: str | None
    table: str | None
    stable_name: str
    placement: str
    is_tracked: bool
    is_wanted: bool
    is_partition: bool


@dataclass(frozen=True)
class LeaseRecord:
    """Who may refresh a stream table now."""

    pgt_id: int
    holder: str
    pid: int
    since: datetime | None
    deadline: datetime | None
    token: int | None
    is_expired: bool
    is_connected: bool


@dataclass(frozen=True)
class HistoryRecord:
    """A refresh that was."""

    pgt_id: int
    started_at: datetime
    elapsed_ms: float | None
    action: str
    status: str
    reason: str | None
    rows_inserted: int | None
    rows_deleted: int | None
    changes: int | None
    error: str | None
    initiated_by: str | None


@dataclass(frozen=True)
class Placed:
    """A copy of a shard of a source: in which group, and which shard of the buffer is with it."""

    shardid: int
    group: int
    buffer_shardid: int | None


@dataclass(frozen=True)
class Records:
    """All that the catalog says.

    Attributes:
        tables, sources, leases, history: its rows.
        placed: the shards of each distributed or reference source, by its OID.
        sees_repair: whether this role may ask what capture lacks on the coordinator.
    """

    tables: Sequence[TableRecord]
    sources: Sequence[SourceRecord]
    leases: Mapping[int, LeaseRecord]
    history: Mapping[int, Sequence[HistoryRecord]]
    placed: Mapping[int, Sequence[Placed]]
    sees_repair: bool


def fetch_records(session: Session, *, refreshes: int) -> Records:
    """Read the catalog on the coordinator.

    Args:
        session: on the coordinator, or on a plain server.
        refreshes: how many of each stream table.

    Raises:
        Unavailable: there is no catalog, it is not of this version, or this role may not read it.
    """
    has_schema, has_revision, may_read, sees_repair = session.rows(_THERE_QUERY)[0]
    if not has_schema or not has_revision:
        raise Unavailable(
            Reason.PGTRICKLE_MISSING, f"{session.database} has no stream tables of this project: run harness migrate up"
        )
    if not may_read:
        raise Unavailable(Reason.INSUFFICIENT_PRIVILEGE, f"the catalog cannot be read: {_GRANTS}")
    found = session.rows("SELECT v.version_num::text FROM pgtrickle.alembic_version v")
    revision = found[0][0] if found else None
    if revision != REVISION:
        raise Unavailable(
            Reason.UNSUPPORTED_VERSION, f"the catalog is at {revision or 'no revision'}, this harness reads {REVISION}"
        )
    column: LiteralString = _COLUMN if session.citus_version else "NULL::text"
    sources = [SourceRecord(*row) for row in session.rows(_SOURCES_QUERY)]
    placed: dict[int, list[Placed]] = {}
    if session.citus_version:
        for relid, *place in session.rows(_PLACED_QUERY, [sorted({each.relid for each in sources})]):
            placed.setdefault(relid, []).append(Placed(*place))
    history: dict[int, list[HistoryRecord]] = {}
    for row in session.rows(_HISTORY_QUERY, [refreshes]):
        history.setdefault(row[0], []).append(HistoryRecord(*row))
    return Records(
        [TableRecord(*row) for row in session.rows(_TABLES_QUERY.replace("{column}", column))],
        sources,
        {row[0]: LeaseRecord(*row) for row in session.rows(_LEASES_QUERY, [LOCK_CLASS])},
        history,
        placed,
        bool(sees_repair),
    )
