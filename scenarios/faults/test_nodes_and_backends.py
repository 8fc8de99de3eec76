"""Nodes and sessions that are killed, frozen, restarted: what a refresh makes of it meanwhile, and afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from harness.errors import ServerGoneError
from harness.faults import (
    backend_frozen,
    backend_killed,
    fetch_backends,
    kill_process,
    node_frozen,
    node_killed,
    process_frozen,
    restart_all,
    terminate_backend,
)
from harness.waiting import wait_until
from scenarios.faults.stages import DBNAME, PLACEMENTS, Stage
from scenarios.faults.stepping import Outcome, Stepping, Stop

Record = Callable[[str, object], None]

# A refresh that waits says nothing for so long, in seconds; one that does not wait takes a twentieth of it.
_SILENCE_S = 0.7
citus = pytest.mark.citus(">= 13")
crash_lines = pytest.mark.allow_log(
    r"was terminated by signal 9|unexpected postmaster exit|crash of another server process|could not connect",
    "a process of this node, or its postmaster, was killed on purpose",
)


@citus
@crash_lines
def test_killed_worker_is_named_and_followed_by_a_right_refresh(stage: Stage, record_property: Record) -> None:
    worker = stage.site.workers[0]
    with stage.fault("worker_killed", node_killed(worker), record_property):
        assert not worker.is_running
        for name in PLACEMENTS:
            with pytest.raises(ServerGoneError) as refused:
                stage.refresh(name)
            assert str(worker.port) in refused.value.message
    assert worker.is_running


@citus
@crash_lines
def test_killed_coordinator_is_followed_by_a_right_refresh(stage: Stage, record_property: Record) -> None:
    _kill_the_server(stage, record_property)


@crash_lines
def test_killed_server_is_followed_by_a_right_refresh(plain_stage: Stage, record_property: Record) -> None:
    _kill_the_server(plain_stage, record_property)


def _kill_the_server(stage: Stage, record: Record) -> None:
    tables = stage.tables
    with stage.fault("coordinator_killed", node_killed(stage.site.coordinator), record):
        with pytest.raises((ServerGoneError, psycopg.OperationalError)):
            tables.refresh("local")
        with pytest.raises(psycopg.OperationalError):
            stage.connect()


def _freeze_in_the_middle(stage: Stage, steps: Stepping, victim: str, record: Record) -> None:
    node = stage.site.coordinator if victim == "coordinator" else stage.site.workers[1]
    name = "local"
    number = steps.find_step(stage.dsn, name, "BEGIN", stage.change)
    with stage.fault(f"{victim}_frozen", node_frozen(node), record):
        pass
    stage.change(name)
    stop = steps.order(stage.dsn, name, number)
    assert isinstance(stop, Stop)
    with node_frozen(node):
        steps.let_go()
        assert steps.is_silent(_SILENCE_S), "it waits"
    outcome = steps.end()
    assert outcome.action == "DIFFERENTIAL", outcome
    stage.require(name)


@citus
@pytest.mark.parametrize("victim", ["coordinator", "worker"])
def test_refresh_waits_for_a_frozen_node(stage: Stage, steps: Stepping, victim: str, record_property: Record) -> None:
    _freeze_in_the_middle(stage, steps, victim, record_property)


def test_refresh_waits_for_a_frozen_server(plain_stage: Stage, steps: Stepping, record_property: Record) -> None:
    _freeze_in_the_middle(plain_stage, steps, "coordinator", record_property)


@citus
@crash_lines
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_of_all_is_followed_by_a_right_refresh(stage: Stage, mode: str, record_property: Record) -> None:
    pids = [stage.site.local(node).pid for node in stage.site.nodes]
    for name in stage.names:
        stage.change(name)
    begun = time.monotonic()
    restart_all(stage.site, "immediate" if mode == "immediate" else "fast")
    assert not {stage.site.local(node).pid for node in stage.site.nodes} & set(pids)
    elapsed_s = stage.all_right_again(stage.names, begun)
    record_property(f"all_restarted ({mode}): seconds to the next right refresh", round(elapsed_s, 2))
    print(f"| all_restarted ({mode}) | 1+2 | {elapsed_s:.2f} |")  # noqa: T201


@citus
@crash_lines
def test_killed_backend_takes_its_nodes_sessions_along(stage: Stage, record_property: Record) -> None:
    """kill -9 of one session's process on a worker: the node ends all of them and recovers."""
    worker = stage.site.local(stage.site.workers[0])
    stage.refresh("distributed")
    other = stage.connect()
    victim = fetch_backends(worker, DBNAME, application="citus_internal%")[0]
    bystander = worker.connect(DBNAME)
    with (
        stage.fault("backend_killed (of a worker)", backend_killed(worker, victim.pid), record_property),
        pytest.raises(psycopg.OperationalError),
    ):
        # A postmaster tells its sessions to end one after the other.
        wait_until("it to be ended", lambda: bystander.execute("SELECT 1").fetchone() is None, deadline_s=20)
    bystander.close()
    assert victim.pid not in [one.pid for one in fetch_backends(worker, DBNAME)]
    assert other.execute("SELECT 1").fetchone() == (1,)
    other.close()


@citus
@crash_lines
def test_killed_backend_of_a_refresh_is_followed_by_a_right_one(
    stage: Stage, steps: Stepping, record_property: Record
) -> None:
    stage.change("distributed")
    stop = steps.order(stage.dsn, "distributed", 20)
    assert isinstance(stop, Stop)
    node = stage.site.local(stage.site.coordinator)
    with stage.fault(
        "backend_killed (of a refresh)", backend_killed(node, stop.backend), record_property, held="distributed"
    ):
        outcome = steps.go_on()
        assert outcome.error is not None, outcome
        assert outcome.is_ours, outcome


@crash_lines
def test_killed_backend_on_one_server(plain_stage: Stage, steps: Stepping, record_property: Record) -> None:
    plain_stage.change("local")
    stop = steps.order(plain_stage.dsn, "local", 12)
    assert isinstance(stop, Stop)
    node = plain_stage.site.local(plain_stage.site.coordinator)
    with plain_stage.fault(
        "backend_killed (of a refresh)", backend_killed(node, stop.backend), record_property, held="local"
    ):
        outcome = steps.go_on()
        assert outcome.error is not None, outcome
        assert outcome.is_ours, outcome


def _terminate(stage: Stage, steps: Stepping, record: Record) -> None:
    stage.change("local")
    stop = steps.order(stage.dsn, "local", 12)
    assert isinstance(stop, Stop)
    with stage.fault("backend_terminated", _terminated(stage, stop.backend), record, held="local"):
        outcome = steps.go_on()
        assert (outcome.action, outcome.is_ours) == (None, True), outcome


class _terminated:  # noqa: N801 - a context, as the others
    """pg_terminate_backend has nothing to undo."""

    def __init__(self, stage: Stage, pid: int) -> None:
        self._stage, self._pid = stage, pid

    def __enter__(self) -> None:
        assert terminate_backend(self._stage.site.coordinator, self._pid)

    def __exit__(self, *_error: object) -> None:
        assert not terminate_backend(self._stage.site.coordinator, self._pid)


@citus
def test_terminated_backend_of_a_refresh_on_a_cluster(stage: Stage, steps: Stepping, record_property: Record) -> None:
    _terminate(stage, steps, record_property)


def test_terminated_backend_of_a_refresh_on_one_server(
    plain_stage: Stage, steps: Stepping, record_property: Record
) -> None:
    _terminate(plain_stage, steps, record_property)


@citus
def test_frozen_backend_of_a_worker_makes_the_refresh_wait(
    stage: Stage, steps: Stepping, record_property: Record
) -> None:
    """Only that session stands still: its worker goes on with all others."""
    worker = stage.site.local(stage.site.workers[1])
    number = 1 + steps.find_step(stage.dsn, "distributed", "__pgt_delta", stage.change)
    stage.change("distributed")
    before = {one.pid for one in fetch_backends(worker, DBNAME)}
    stop = steps.order(stage.dsn, "distributed", number)
    assert isinstance(stop, Stop)
    mine = [
        one
        for one in fetch_backends(worker, DBNAME, application=f"citus_internal gpid=1%{stop.backend}")
        if one.pid not in before
    ]
    assert mine, fetch_backends(worker, DBNAME)
    others = [name for name in stage.names if name != "distributed"]
    outcomes: list[Outcome] = []
    with stage.fault(
        "backend_frozen (of a worker)",
        steps.ended_after(backend_frozen(worker, mine[0].pid), outcomes),
        record_property,
        names=others,
    ):
        steps.let_go()
        assert steps.is_silent(_SILENCE_S)
        assert worker.value("SELECT 1", dbname=DBNAME) == 1
    assert [outcome.action for outcome in outcomes] == ["DIFFERENTIAL"], outcomes
    stage.require("distributed")


def _freeze_and_kill_the_harness(stage: Stage, steps: Stepping, record: Record) -> None:
    number = steps.find_step(stage.dsn, "local", "BEGIN", stage.change)
    stage.change("local")
    stop = steps.order(stage.dsn, "local", number)
    assert isinstance(stop, Stop)
    with process_frozen(stop.pid):
        steps.let_go()
        assert steps.is_silent(_SILENCE_S)
    assert steps.end().error is None
    stage.change("local")
    stop = steps.order(stage.dsn, "local", number + 2)
    assert isinstance(stop, Stop)
    killed_at = time.monotonic()
    kill_process(stop.pid)
    assert steps.end().error == "killed"
    elapsed_s = stage.all_right_again(["local"], killed_at)
    where = "1+2" if stage.site.has_citus else "one server"
    record(f"harness killed, {where}: seconds to the next right refresh", round(elapsed_s, 2))
    print(f"| harness killed | {where} | {elapsed_s:.2f} |")  # noqa: T201


@citus
def test_harness_frozen_and_killed_on_a_cluster(stage: Stage, steps: Stepping, record_property: Record) -> None:
    _freeze_and_kill_the_harness(stage, steps, record_property)


def test_harness_frozen_and_killed_on_one_server(plain_stage: Stage, steps: Stepping, record_property: Record) -> None:
    _freeze_and_kill_the_harness(plain_stage, steps, record_property)
