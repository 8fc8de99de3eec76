"""What the catalog and Citus' progress say of background jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

from harness.inspectors.contract import Source

if TYPE_CHECKING:
    from harness.inspectors.session import Session

_JOBS_QUERY: LiteralString = """
    SELECT j.job_id, j.job_type::text, j.state::text, j.description, j.started_at, j.finished_at,
           coalesce(c.counts, '{}'), coalesce(c.retried, 0)
    FROM pg_catalog.pg_dist_background_job j
    LEFT JOIN (
        SELECT s.job_id, pg_catalog.jsonb_object_agg(s.status, s.count) AS counts, pg_catalog.sum(s.retried) AS retried
        FROM (SELECT t.job_id, t.status::text AS status, pg_catalog.count(*) AS count,
                     pg_catalog.count(*) FILTER (WHERE t.retry_count > 0) AS retried
              FROM pg_catalog.pg_dist_background_task t GROUP BY 1, 2) s
        GROUP BY 1) c USING (job_id)
    ORDER BY j.job_id DESC
"""
# The shard is in the text of the command; a task that does something else has none.
_TASKS_QUERY: LiteralString = """
    SELECT t.job_id, t.task_id, t.status::text, coalesce(t.retry_count, 0), t.not_before,
           t.not_before > pg_catalog.now(), coalesce(t.pid, 0), t.command, t.message, t.nodes_involved,
           (SELECT pg_catalog.array_agg(d.depends_on ORDER BY d.depends_on)
            FROM pg_catalog.pg_dist_background_task_depend d
            JOIN pg_catalog.pg_dist_background_task o ON o.job_id = d.job_id AND o.task_id = d.depends_on
            WHERE d.job_id = t.job_id AND d.task_id = t.task_id AND o.status <> 'done'),
           s.shardid, n.nspname, c.relname
    FROM pg_catalog.pg_dist_background_task t
    LEFT JOIN pg_catalog.pg_dist_shard s
           ON s.shardid = pg_catalog.substring(t.command, 'citus_(?:move|copy)_shard_placement\\((\\d{1,18})')::bigint
    LEFT JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE t.job_id = ANY (%s) AND (%s OR t.status <> 'done')
    ORDER BY t.job_id, t.task_id
"""
_PROGRESS_QUERY: LiteralString = """
    SELECT p.sessionid, pg_catalog.max(p.operation_type), pg_catalog.max(p.status),
           pg_catalog.sum(p.target_shard_size)::bigint, pg_catalog.sum(p.source_shard_size)::bigint,
           pg_catalog.max(p.source_lsn - p.target_lsn)::bigint
    FROM pg_catalog.get_rebalance_progress() p WHERE p.progress = 1 GROUP BY 1
"""
# The queue's process is named by its database's OID; of whom it is hidden from, no process has a kind.
_QUEUE_QUERY: LiteralString = """
    SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'), pg_catalog.count(*) FILTER (
               WHERE a.backend_type LIKE 'Citus Background Task Queue Monitor: ' || d.oid || '/%')
    FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_stat_activity a ON true
    WHERE d.datname = pg_catalog.current_database() GROUP BY d.oid
"""
_CLEANUP_QUERY: LiteralString = """
    SELECT c.object_type, c.policy_type, c.node_group_id, pg_catalog.count(*),
           NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node n WHERE n.groupid = c.node_group_id)
    FROM pg_catalog.pg_dist_cleanup c GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
# shard_cleaner.h: CleanupObject and CleanupPolicy.
_OBJECTS = {1: "shard", 2: "subscription", 3: "replication slot", 4: "publication", 5: "user", 6: "database"}
_POLICIES = {0: "always", 1: "on failure", 2: "deferred"}

SOURCES = (
    Source(
        "pg_dist_background_job",
        (
            ("job_id", "bigint"),
            ("state", "citus_job_status"),
            ("job_type", "name"),
            ("description", "text"),
            ("started_at", "timestamp with time zone"),
            ("finished_at", "timestamp with time zone"),
        ),
        note="the coordinator's; empty on workers",
    ),
    Source(
        "pg_dist_background_task",
        (
            ("job_id", "bigint"),
            ("task_id", "bigint"),
            ("pid", "integer"),
            ("status", "citus_task_status"),
            ("command", "text"),
            ("retry_count", "integer"),
            ("not_before", "timestamp with time zone"),
            ("message", "text"),
            ("nodes_involved", "integer[]"),
        ),
    ),
    Source("pg_dist_background_task_depend", (("job_id", "bigint"), ("task_id", "bigint"), ("depends_on", "bigint"))),
    Source(
        "get_rebalance_progress",
        (
            ("sessionid", "integer"),
            ("source_shard_size", "bigint"),
            ("target_shard_size", "bigint"),
            ("progress", "bigint"),
            ("operation_type", "text"),
            ("source_lsn", "pg_lsn"),
            ("target_lsn", "pg_lsn"),
            ("status", "text"),
        ),
        "function",
        note="asked only while a task runs: it reads sizes on the nodes; empty without pg_monitor",
    ),
    Source(
        "pg_dist_cleanup",
        (
            ("object_type", "integer"),
            ("node_group_id", "integer"),
            ("policy_type", "integer"),
        ),
    ),
    Source("pg_dist_node", (("groupid", "integer"),)),
    Source("citus.max_background_task_executors", kind="setting"),
    Source("citus.max_background_task_executors_per_node", kind="setting"),
    Source("citus.defer_shard_delete_interval", kind="setting"),
)


@dataclass(frozen=True)
class JobRecord:
    """A row of pg_dist_background_job, with the number of its tasks by status, and of those that were tried again."""

    job_id: int
    job_type: str
    state: str
    description: str
    started_at: datetime | None
    finished_at: datetime | None
    counts: Mapping[str, int]
    retried: int


@dataclass(frozen=True)
class TaskRecord:
    """A row of pg_dist_background_task; ``depends_on`` has what is not done, ``is_later``: it waits for its time."""

    job_id: int
    task_id: int
    status: str
    retry_count: int
    not_before: datetime | None
    is_later: bool | None
    pid: int
    command: str
    message: str | None
    nodes_involved: Sequence[int] | None
    depends_on: Sequence[int] | None
    shardid: int | None
    schema: str | None
    table: str | None


@dataclass(frozen=True)
class Progress:
    """How far the shards are that a process moves now: bytes there and here, bytes of WAL in between."""

    operation: str
    phase: str
    bytes_done: int | None
    bytes_total: int | None
    lag_bytes: int | None


@dataclass(frozen=True)
class Queue:
    """Who runs tasks: how many at once, and for one node; whether its process is there (None: hidden)."""

    executors: int
    executors_per_node: int
    is_watched: bool | None


def fetch_jobs(session: Session) -> list[JobRecord]:
    """Every job, the latest first."""
    return [JobRecord(*row) for row in session.rows(_JOBS_QUERY)]


def fetch_tasks(session: Session, job_ids: Sequence[int], *, with_done: bool) -> list[TaskRecord]:
    """The tasks of these jobs, by job and number."""
    return [TaskRecord(*row) for row in session.rows(_TASKS_QUERY, [list(job_ids), with_done])]


def fetch_progress(session: Session) -> tuple[dict[int, Progress], psycopg.Error | None]:
    """What moves now, by process; or why that cannot be told: it sizes shards that somebody may have locked."""
    try:
        with session.connection.transaction():
            return {row[0]: Progress(*row[1:]) for row in session.rows(_PROGRESS_QUERY)}, None
    except psycopg.Error as error:
        if session.connection.closed:
            raise
        return {}, error


def fetch_queue(session: Session) -> Queue:
    """The limits, and whether somebody watches the queue."""
    names = ("citus.max_background_task_executors", "citus.max_background_task_executors_per_node")
    found = session.settings(*names)
    most, per_node = (int(found[name] or 1) for name in names)
    sees_all, watchers = session.rows(_QUEUE_QUERY)[0]
    return Queue(most, per_node, watchers > 0 if sees_all else None)


def fetch_cleanup(session: Session) -> dict[str, Any]:
    """What is left to be dropped, for the facts: how much of what, and for nodes that are gone."""
    left: list[dict[str, Any]] = []
    gone: dict[int, int] = {}
    for kind, policy, group, count, is_gone in session.rows(_CLEANUP_QUERY):
        left.append(
            {
                "object": _OBJECTS.get(kind, f"type {kind}"),
                "policy": _POLICIES.get(policy, f"policy {policy}"),
                "group": group,
                "count": count,
            }
        )
        if is_gone:
            gone[group] = gone.get(group, 0) + count
    return {
        "cleanup_records": sum(each["count"] for each in left),
        "cleanup": left,
        "cleanup_of_gone_groups": {str(group): count for group, count in sorted(gone.items())},
        "cleanup_interval": session.settings("citus.defer_shard_delete_interval")["citus.defer_shard_delete_interval"],
    }
