"""`citus_job_inspector` through the life of rebalances: stalled, failing, tried again, failed, stopped; and cleanup."""

from __future__ import annotations

from typing import Any

import pytest

from harness.clusters import RunningCluster
from harness.inspectors import Envelope, Reason, Status
from harness.inspectors.contract import Severity
from harness.waiting import wait_until
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors.fixture_standard import SETTINGS
from scenarios.inspectors_live.looks import assert_partial, findings, gpid_of, look, look_whole, opened

NAME = "citus_job_inspector"
SHARDS = 6
HOLD = "INSERT INTO orders SELECT g, 1 FROM generate_series(1000, 1040) g"


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> RunningCluster:
    """1+2 with a table on both workers, and a queue that is looked at every 100 ms."""
    made = make_cluster(settings={**SETTINGS, "citus.background_task_queue_interval": "100"})
    made.sql("CREATE TABLE orders (id bigint PRIMARY KEY, amount integer)")
    made.sql(f"SELECT create_distributed_table('orders', 'id', shard_count => {SHARDS})")
    made.sql("INSERT INTO orders SELECT g, g FROM generate_series(1, 100) g")
    return made


def _drain(cluster: RunningCluster, group: int = 1) -> int:
    """Begin to move all shards of a group's worker away; the job's number."""
    cluster.sql(
        "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false) FROM pg_dist_node"
        " WHERE groupid = %s",
        [group],
    )
    return int(cluster.value("SELECT citus_rebalance_start(drain_only => true, shard_transfer_mode => 'block_writes')"))


def _until(cluster: RunningCluster, label: str, condition: Any, **values: Any) -> Envelope[Any]:
    def probe() -> Envelope[Any] | None:
        found = look(cluster.coordinator.dsn(), NAME, **values)
        return found if found.rows and condition(found.rows[0]) else None

    found = wait_until(label, probe, deadline_s=60)
    assert found is not None
    return found


def _counts(cluster: RunningCluster, job: int) -> dict[str, int]:
    return dict(
        cluster.rows("SELECT status::text, count(*) FROM pg_dist_background_task WHERE job_id = %s GROUP BY 1", [job])
    )


def test_job_that_waits_for_a_lock_names_who_has_it_and_then_goes_on(cluster: RunningCluster) -> None:
    dsn = cluster.coordinator.dsn()
    with opened(cluster.coordinator, "BEGIN", HOLD) as holder:
        holder_gpid = gpid_of(holder)
        job = _drain(cluster)
        found = _until(cluster, "a stalled job", lambda row: row.stall == "waiting_lock", state="unfinished")
        counts = _counts(cluster, job)
        pid, shardid = cluster.row(
            "SELECT pid, substring(command, '\\((\\d+)')::bigint FROM pg_dist_background_task WHERE status = 'running'"
        )
        (blockers,) = cluster.row("SELECT pg_blocking_pids(%s)", [pid])
        executors = [each for each in look_whole(cluster.coordinator.dsn(), "citus_activity").rows if each.pid == pid]
        cluster.create_role("plain")
        plain = look(cluster.coordinator.dsn(user="plain"), NAME)
        involved = cluster.value("SELECT nodes_involved FROM pg_dist_background_task WHERE status = 'running'")
    (row,) = found.rows
    assert (row.job_id, row.type, row.state, row.finished_at) == (job, "rebalance", "running", None)
    assert row.description == cluster.value("SELECT description FROM pg_dist_background_job")
    assert (row.tasks_running, row.tasks_blocked, row.tasks_done) == (1, counts["blocked"], 0)
    first, *others = row.tasks
    names = dict(cluster.rows("SELECT nodeid, nodename || ':' || nodeport FROM pg_dist_node"))
    assert (first.status, first.shardid, first.table, first.stall) == ("running", shardid, "orders", "waiting_lock")
    assert str(holder_gpid) in first.stall_detail
    assert holder_gpid % 10**10 in blockers
    assert "idle in transaction" in first.stall_detail
    assert set(first.nodes) == {names[nodeid] for nodeid in involved}
    assert first.phase == "Setting Up"
    assert first.bytes_total is not None
    assert first.bytes_total > 0 == first.bytes_done
    assert {each.stall for each in others} == {"blocked_by_dependency"}
    assert others[0].depends_on == (first.task_id,)
    assert first.command == "SELECT pg_catalog.citus_move_shard_placement(?,?,?,?)"
    assert found.facts["executors"] == 1
    assert found.facts["queue_is_watched"] is True
    assert [(each.rule, each.severity, each.target) for each in findings(found)] == [
        ("job_stalled", Severity.WARNING, f"job {job}")
    ]
    # It has neither a state nor a statement, and is told by its kind.
    assert [(each.wait_type, each.wait_event, each.state, each.query) for each in executors] == [
        ("Lock", "advisory", None, None)
    ]
    assert executors[0].backend_type.startswith("Citus Background Task Queue Executor")
    assert_partial(plain, Reason.INSUFFICIENT_PRIVILEGE, "pg_monitor")
    assert (plain.rows[0].state, plain.rows[0].tasks[0].phase) == ("running", None)

    done = _until(cluster, "the end", lambda row: row.state == "finished")
    (row,) = done.rows
    assert (row.tasks_done, row.tasks, row.stall) == (SHARDS // 2, (), "none")
    assert row.started_at < row.finished_at
    whole = look_whole(dsn, NAME, job_id=job).rows[0]
    assert [(task.status, task.message) for task in whole.tasks] == [("done", "")] * (SHARDS // 2)
    # What was moved away stays until the next move drops it: of the last one, nobody does here.
    assert done.facts["cleanup_records"] == cluster.value("SELECT count(*) FROM pg_dist_cleanup") == 1
    assert done.facts["cleanup"] == [{"object": "shard", "policy": "deferred", "group": 1, "count": 1}]
    assert [(each.rule, each.severity) for each in findings(done)] == [("cleanup_backlog", Severity.INFO)]


@pytest.mark.allow_log("canceling statement due to lock timeout", "that is what fails the task")
def test_task_that_fails_is_in_backoff_then_failed_with_its_message(cluster: RunningCluster) -> None:
    cluster.sql("ALTER ROLE postgres SET lock_timeout = '200ms'")
    with opened(cluster.coordinator, "SET lock_timeout = 0", "BEGIN", HOLD):
        job = _drain(cluster)
        waits = _until(cluster, "a task in backoff", lambda row: row.stall == "backoff", state="unfinished")
        ((not_before, retries),) = cluster.rows(
            "SELECT not_before, retry_count FROM pg_dist_background_task WHERE status = 'runnable' AND retry_count > 0"
        )
        (row,) = waits.rows
        task = row.tasks[0]
        assert (task.status, task.in_backoff, task.stall) == ("runnable", True, "backoff")
        assert (task.retry_count, row.tasks_retried) == (retries, 1)
        assert task.not_before == not_before.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert "lock timeout" in task.message
        assert [(each.rule, each.severity) for each in findings(waits)] == [("job_stalled", Severity.WARNING)]

        def hurried() -> bool:
            cluster.sql("UPDATE pg_dist_background_task SET not_before = now() WHERE status = 'runnable'")
            return bool(cluster.value("SELECT state = 'failed' FROM pg_dist_background_job"))

        wait_until("the job to have failed", hurried, deadline_s=120)
        failed = look_whole(cluster.coordinator.dsn(), NAME, state="failed")
    (row,) = failed.rows
    counts = _counts(cluster, job)
    assert (row.job_id, row.state, row.tasks_error) == (job, "failed", counts["error"])
    assert (row.tasks_unscheduled, row.tasks_retried) == (counts.get("unscheduled", 0), 1)
    error = next(task for task in row.tasks if task.status == "error")
    assert "lock timeout" in error.message
    assert error.retry_count == cluster.value("SELECT max(retry_count) FROM pg_dist_background_task")
    (graded,) = findings(failed)
    assert (graded.rule, graded.severity, graded.target) == ("job_failed", Severity.ERROR, f"job {job}")
    assert "lock timeout" in graded.evidence


@pytest.mark.allow_log("canceling statement due to user request", "that is how a job is stopped")
def test_job_that_is_stopped_and_second_job_starved_by_the_first(cluster: RunningCluster) -> None:
    cluster.sql("CREATE TABLE notes (id bigint PRIMARY KEY)")
    cluster.sql("SELECT create_distributed_table('notes', 'id', shard_count => 4, colocate_with => 'none')")
    with opened(cluster.coordinator, "BEGIN", HOLD):
        job = _drain(cluster)
        found = _until(cluster, "a stalled job", lambda row: row.stall == "waiting_lock")
        starved = [task for task in found.rows[0].tasks if task.stall == "starved"]
        # Groups do not wait for each other, but there is one executor.
        assert [task.table for task in starved] == ["notes"]
        assert "citus.max_background_task_executors is 1" in starved[0].stall_detail
        limited = look_whole(cluster.coordinator.dsn(), NAME, task_limit=2).rows[0]
        assert (len(limited.tasks), limited.tasks_left_off) == (2, len(found.rows[0].tasks) - 2)
        assert look_whole(cluster.coordinator.dsn(), NAME, include_tasks=False).rows[0].tasks == ()
        cluster.sql("SELECT citus_rebalance_stop()")
        stopped = _until(cluster, "a stopped job", lambda row: row.state == "cancelled")
    (row,) = stopped.rows
    assert (row.job_id, row.tasks_cancelled, row.stall) == (job, _counts(cluster, job)["cancelled"], "none")
    assert look_whole(cluster.coordinator.dsn(), NAME, state="unfinished").rows == ()
    assert look_whole(cluster.coordinator.dsn(), NAME, job_id=job + 1).rows == ()


def test_cleanup_of_a_group_that_is_gone_is_a_finding(cluster: RunningCluster) -> None:
    with cluster.coordinator.connect() as session:
        session.execute(
            """INSERT INTO pg_dist_cleanup
                   (record_id, operation_id, object_type, object_name, node_group_id, policy_type)
               VALUES (901, 900, 1, 'public.gone_102999', 77, 2), (902, 900, 3, 'a_slot', 77, 0)"""
        )
    found = look_whole(cluster.coordinator.dsn(), NAME)
    assert found.rows == ()
    assert found.facts["cleanup_of_gone_groups"] == {"77": 2}
    assert found.facts["cleanup"] == [
        {"object": "shard", "policy": "deferred", "group": 77, "count": 1},
        {"object": "replication slot", "policy": "always", "group": 77, "count": 1},
    ]
    assert ("orphan_node_group_cleanup", Severity.WARNING, "group 77") in {
        (each.rule, each.severity, each.target) for each in findings(found)
    }


def test_worker_has_no_jobs_and_says_so(cluster: RunningCluster) -> None:
    found = look(cluster.workers[0].dsn(), NAME)
    assert (found.status, found.reason, found.rows) == (Status.UNAVAILABLE, Reason.NOT_COORDINATOR, ())
