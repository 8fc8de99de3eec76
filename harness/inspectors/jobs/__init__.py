"""`citus_job_inspector`: background jobs and their tasks, why one does not go on, and what is left to be dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity
from harness.inspectors.inputs import Listing, choice, flag, integer
from harness.inspectors.jobs.reading import (
    SOURCES,
    JobRecord,
    Progress,
    TaskRecord,
    fetch_cleanup,
    fetch_jobs,
    fetch_progress,
    fetch_queue,
    fetch_tasks,
)
from harness.inspectors.jobs.stalls import Stall, explain, worst
from harness.inspectors.locks import INSPECTOR as LOCKS
from harness.inspectors.locks.graph import Wait, fetch_waits
from harness.inspectors.session import Session

STATES = ("scheduled", "running", "finished", "cancelling", "cancelled", "failing", "failed")
UNFINISHED = frozenset({"scheduled", "running", "cancelling", "failing"})
# What was moved away is dropped within minutes by default; so much of it means that nobody does.
BACKLOG = 100


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which jobs, and how much of each."""

    job_id: int | None = integer(None, 1, 2**62, "only this job, with the tasks that are done")
    state: str | None = choice(None, ("unfinished", *STATES), "only jobs in this state")
    include_tasks: bool = flag(True, "the tasks of jobs, those that are done only with job_id")
    task_limit: int = integer(50, 1, 1000, "tasks of a job at most")


@dataclass(frozen=True)
class Task:
    """A task of a job.

    Attributes:
        task_id, status, retry_count: as the catalog has them.
        not_before: when it may be tried again, in UTC; None: at once.
        in_backoff: whether that is still to come.
        depends_on: tasks that have to be done first, and are not.
        nodes: that it works on, as ``host:port``; the number of one that is gone.
        command: what it runs, without literals.
        schema, table, shardid: what it moves or copies; None for anything else.
        phase, bytes_done, bytes_total, lag_bytes: of what it moves now, colocated shards together.
        message: the first line of what it said last, without values.
        stall: waiting_lock, backoff, starved, blocked_by_dependency, or none.
        stall_detail: who or what stalls it.
    """

    task_id: int
    status: str
    retry_count: int
    not_before: str | None
    in_backoff: bool
    depends_on: tuple[int, ...]
    nodes: tuple[str, ...]
    command: str | None
    schema: str | None
    table: str | None
    shardid: int | None
    phase: str | None
    bytes_done: int | None
    bytes_total: int | None
    lag_bytes: int | None
    message: str
    stall: str
    stall_detail: str


@dataclass(frozen=True)
class Row:
    """A job.

    Attributes:
        job_id, type, state, description: as the catalog has them.
        started_at, finished_at: in UTC; a job starts with its first task.
        tasks_blocked, .., tasks_unscheduled: how many tasks are in which status.
        tasks_retried: how many were tried more than once.
        stall: why it does not go on: that of its running tasks if all of them are stalled, else of those that are next.
        stall_detail: who or what.
        tasks: by number.
        tasks_left_off: how many tasks that were asked for are not shown.
    """

    job_id: int
    type: str
    state: str
    description: str
    started_at: str | None
    finished_at: str | None
    tasks_blocked: int
    tasks_runnable: int
    tasks_running: int
    tasks_done: int
    tasks_error: int
    tasks_cancelling: int
    tasks_cancelled: int
    tasks_unscheduled: int
    tasks_retried: int
    stall: str
    stall_detail: str
    tasks: tuple[Task, ...]
    tasks_left_off: int


def _at(moment: datetime | None) -> str | None:
    """ISO in UTC; what never ran is not before PostgreSQL's year 2000."""
    if moment is None or moment.year <= 2000:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _task(session: Session, record: TaskRecord, progress: Progress | None, stall: Stall) -> Task:
    names = {node.nodeid: node.name for node in session.nodes}
    return Task(
        task_id=record.task_id,
        status=record.status,
        retry_count=record.retry_count,
        not_before=_at(record.not_before),
        in_backoff=bool(record.is_later) and record.status == "runnable",
        depends_on=tuple(record.depends_on or ()),
        nodes=tuple(names.get(nodeid, str(nodeid)) for nodeid in record.nodes_involved or ()),
        command=session.redactor.statement(record.command, "truncated"),
        schema=record.schema,
        table=record.table,
        shardid=record.shardid,
        phase=progress.phase if progress else None,
        bytes_done=progress.bytes_done if progress else None,
        bytes_total=progress.bytes_total if progress else None,
        lag_bytes=progress.lag_bytes if progress else None,
        message="" if record.status == "done" else session.redactor.message(record.message),
        stall=stall.kind,
        stall_detail=stall.detail,
    )


def _row(record: JobRecord, tasks: Sequence[Task], inputs: Inputs) -> Row:
    stall = worst([(task.status, Stall(task.stall, task.stall_detail)) for task in tasks])
    listed = tasks[: inputs.task_limit] if inputs.include_tasks else []
    return Row(
        job_id=record.job_id,
        type=record.job_type,
        state=record.state,
        description=record.description,
        started_at=_at(record.started_at),
        finished_at=_at(record.finished_at),
        tasks_blocked=record.counts.get("blocked", 0),
        tasks_runnable=record.counts.get("runnable", 0),
        tasks_running=record.counts.get("running", 0),
        tasks_done=record.counts.get("done", 0),
        tasks_error=record.counts.get("error", 0),
        tasks_cancelling=record.counts.get("cancelling", 0),
        tasks_cancelled=record.counts.get("cancelled", 0),
        tasks_unscheduled=record.counts.get("unscheduled", 0),
        tasks_retried=int(record.retried),
        stall=stall.kind,
        stall_detail=stall.detail,
        tasks=tuple(listed),
        tasks_left_off=len(tasks) - len(listed) if inputs.include_tasks else 0,
    )


def _is_wanted(record: JobRecord, inputs: Inputs) -> bool:
    if inputs.job_id is not None and record.job_id != inputs.job_id:
        return False
    if inputs.state == "unfinished":
        return record.state in UNFINISHED
    return inputs.state in {None, record.state}


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    jobs = fetch_jobs(session)
    wanted = [job for job in jobs if _is_wanted(job, inputs)]
    # What limits one job's tasks are those of all jobs.
    at_work = {job.job_id for job in jobs if job.state in UNFINISHED}
    asked = sorted(at_work | {job.job_id for job in wanted[: inputs.limit]})
    records = fetch_tasks(session, asked, with_done=inputs.job_id is not None) if asked else []
    running = [each for each in records if each.status == "running"]
    queue = fetch_queue(session)
    waits: list[Wait] = []
    moving: Mapping[int, Progress] = {}
    reason, message = None, ""
    if running:
        waits = fetch_waits(session)
        moving, failure = fetch_progress(session)
        if queue.is_watched is None:
            reason, message = (
                Reason.INSUFFICIENT_PRIVILEGE,
                "progress and locks of other roles' tasks are hidden from this role: grant it pg_monitor",
            )
        elif failure is not None:
            reason, message = (
                Reason.STATEMENT_TIMEOUT,
                f"no progress: {session.redactor.message(failure.diag.message_primary or str(failure))}",
            )
    tasks: dict[int, list[Task]] = {}
    for each in records:
        stall = explain(each, running, queue, waits, session.nodes)
        tasks.setdefault(each.job_id, []).append(_task(session, each, moving.get(each.pid), stall))
    return Found(
        [_row(job, tasks.get(job.job_id, []), inputs) for job in wanted],
        reason=reason,
        message=message,
        facts={
            "jobs": len(jobs),
            "unfinished": len(at_work),
            "running_tasks": len(running),
            "executors": queue.executors,
            "executors_per_node": queue.executors_per_node,
            "queue_is_watched": queue.is_watched,
            **fetch_cleanup(session),
        },
    )


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    found = []
    # What failed and was done again since is history: of each kind of job the latest one tells.
    latest: dict[str, int] = {}
    for row in envelope.rows:
        latest[row.type] = max(row.job_id, latest.get(row.type, 0))
    for row in envelope.rows:
        if row.state in {"failed", "failing"} and row.job_id == latest[row.type]:
            errors = [task.message for task in row.tasks if task.status == "error"]
            found.append(
                Finding(
                    "job_failed",
                    Severity.ERROR,
                    "job",
                    f"job {row.job_id}",
                    f"{row.description}: {row.tasks_error} tasks failed",
                    errors[0] if errors else "",
                    "mend what its tasks say, then start it again",
                )
            )
        elif row.state in UNFINISHED and row.stall in {"waiting_lock", "backoff", "starved"}:
            found.append(
                Finding(
                    "job_stalled",
                    Severity.WARNING,
                    "job",
                    f"job {row.job_id}",
                    f"{row.description} does not go on: {row.stall.replace('_', ' ')}",
                    row.stall_detail,
                    "see citus_lock_inspector, its tasks, and the coordinator's log",
                )
            )
    left = envelope.facts.get("cleanup_records", 0)
    if left:
        found.append(
            Finding(
                "cleanup_backlog",
                Severity.WARNING if left >= BACKLOG else Severity.INFO,
                "cluster",
                "pg_dist_cleanup",
                "what was moved away is not dropped yet",
                f"{left} objects",
                "CALL citus_cleanup_orphaned_resources(), and see citus.defer_shard_delete_interval",
            )
        )
    for group in envelope.facts.get("cleanup_of_gone_groups", {}):
        found.append(
            Finding(
                "orphan_node_group_cleanup",
                Severity.WARNING,
                "node",
                f"group {group}",
                "objects are to be dropped on a node that is no longer registered, and never will be (citus #8236)",
                f"{envelope.facts['cleanup_of_gone_groups'][group]} records",
                "see that the node is gone for good, then delete its rows of pg_dist_cleanup as a superuser",
            )
        )
    return found


INSPECTOR = Inspector(
    name="citus_job_inspector",
    summary="Background jobs and their tasks, why one does not go on, and what is left to be dropped",
    cost=Cost.FAN_OUT,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    ordering=("-job_id",),
    volatile=frozenset({"tasks", "stall_detail", "queue_is_watched"}),
    sources=(*SOURCES, *LOCKS.sources),
    look=_look,
    severity=_severity,
)
