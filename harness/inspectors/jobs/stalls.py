"""Why a task of a background job does not go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.inspectors.jobs.reading import Queue, TaskRecord
from harness.inspectors.live import GPID_NODE

if TYPE_CHECKING:
    from harness.inspectors.fan_out import ClusterNode
    from harness.inspectors.locks.graph import Wait

# The first one of these that a job's next tasks have is the job's.
_ORDER = ("waiting_lock", "backoff", "starved", "blocked_by_dependency", "none")


@dataclass(frozen=True)
class Stall:
    """What keeps a task: waiting_lock, backoff, starved, blocked_by_dependency, or none; and who or what that is."""

    kind: str = "none"
    detail: str = ""


def explain(
    task: TaskRecord,
    running: Sequence[TaskRecord],
    queue: Queue,
    waits: Sequence[Wait],
    nodes: Sequence[ClusterNode],
) -> Stall:
    """Why a task does not go on.

    Args:
        task: which.
        running: all tasks that run, of every job.
        queue: how many may.
        waits: who waits for whom, on all nodes.
        nodes: of the cluster.
    """
    if task.status == "running":
        return _waiting(task, waits, nodes)
    if task.status == "blocked":
        listed = ", ".join(str(each) for each in task.depends_on or ())
        return Stall("blocked_by_dependency", f"comes after task {listed}")
    if task.status == "runnable":
        if task.is_later:
            return Stall(
                "backoff", f"it failed {task.retry_count} times and is tried again at {task.not_before:%H:%M:%S}"
            )
        return _starved(task, running, queue)
    return Stall()


def _waiting(task: TaskRecord, waits: Sequence[Wait], nodes: Sequence[ClusterNode]) -> Stall:
    # Its process is the coordinator's, and what it opens on the workers goes by its number.
    here = {node.nodeid for node in nodes if node.is_coordinator}
    gpids = {nodeid * GPID_NODE + task.pid for nodeid in here}
    found = [
        wait
        for wait in waits
        if wait.waiter.gpid in gpids or (wait.node.nodeid in here and wait.waiter.told.get("pid") == task.pid)
    ]
    if not found:
        return Stall()
    wait = min(found, key=lambda each: (each.depth is None, each.depth or 0, each.blocker.key))
    blocker = wait.blocker
    if blocker.gpid is None:
        who = f"prepared transaction {blocker.gid}"
    else:
        state = blocker.told.get("state")
        who = f"session {blocker.gpid}" + (f" ({state})" if state else "")
    lock = wait.seen["locktype"] + (f" lock of {wait.seen['relation']}" if wait.seen["relation"] else " lock")
    return Stall("waiting_lock", f"{who} has the {lock} on {wait.node.name}")


def _starved(task: TaskRecord, running: Sequence[TaskRecord], queue: Queue) -> Stall:
    if len(running) >= queue.executors:
        return Stall("starved", f"citus.max_background_task_executors is {queue.executors}, and as many tasks run")
    for nodeid in task.nodes_involved or ():
        busy = [each.task_id for each in running if nodeid in (each.nodes_involved or ())]
        if len(busy) >= queue.executors_per_node:
            return Stall(
                "starved",
                f"citus.max_background_task_executors_per_node is {queue.executors_per_node},"
                f" and task {busy[0]} works on node {nodeid}",
            )
    if queue.is_watched is False:
        return Stall(
            "starved", "no process takes tasks: are citus.background_task_queue_interval -1, or workers used up?"
        )
    return Stall()


def worst(found: Sequence[tuple[str, Stall]]) -> Stall:
    """A job's stall, of its tasks' status and stalls: while one task runs freely, the job goes on."""
    running = [stall for status, stall in found if status == "running"]
    if any(stall.kind == "none" for stall in running):
        return Stall()
    stalled = running or [stall for status, stall in found if status in {"runnable", "blocked"}]
    return min(stalled, key=lambda stall: _ORDER.index(stall.kind), default=Stall())
