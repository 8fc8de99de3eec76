"""A refresh cut into its exchanges with the servers: who takes part dies before and after each of them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import pytest
from psycopg import sql

from harness.errors import LockedError
from harness.faults import fetch_backends, kill_process, terminate_backend
from harness.waiting import wait_until
from scenarios.faults.stages import Stage
from scenarios.faults.stepping import Outcome, Stepping, Stop

# For the whole file: what a killed node's last processes say is written whenever they notice, in the next test too.
pytestmark = [
    pytest.mark.allow_log(r"connection to client lost|could not (send|receive) data", "the client was killed"),
    pytest.mark.allow_log("unexpected postmaster exit", "Citus' own processes on a node that was killed"),
    pytest.mark.allow_log("postmaster was shut down, exiting", "a session in its COMMIT on a node that was killed"),
]

# HARNESS_EVERY_STEP=1 makes each victim die at each exchange, for each table, also while the refresh finds out how the
# table follows its query. Else the exchanges are dealt out: harness and session die at each of them for one of the
# tables, coordinator and worker at every other one each, so that a node dies at each of them.
IS_WHOLE = bool(os.environ.get("HARNESS_EVERY_STEP"))
# What the server says to a client that it lost, and what we make of it.
LOST = {"ServerGoneError", "AdminShutdown", "OperationalError", "LeaseLostError", "InternalError_", "ConnectionFailure"}
# A refresh takes a lease, reads the catalog, looks, begins, reads snapshots, applies, deletes, writes, commits.
FEWEST_STEPS = 12

TABLES = ("local", "reference", "distributed", "shared")
PLAIN_TABLES = ("local", "shared")

Kill = Callable[[Stage, Stop], None]


def _harness(_stage: Stage, stop: Stop) -> None:
    kill_process(stop.pid)


def _backend(stage: Stage, stop: Stop) -> None:
    assert terminate_backend(stage.site.coordinator, stop.backend)


def _coordinator(stage: Stage, _stop: Stop) -> None:
    stage.site.coordinator.kill()
    stage.site.coordinator.start()


def _worker(stage: Stage, stop: Stop) -> None:
    worker = stage.site.workers[stop.at % len(stage.site.workers)]
    worker.kill()


VICTIMS: dict[str, Kill] = {"harness": _harness, "backend": _backend, "coordinator": _coordinator, "worker": _worker}


def _count_steps(stage: Stage, steps: Stepping, name: str, *, is_planned: bool) -> int:
    """How many exchanges a refresh has that takes something."""
    stage.change(name)
    done = steps.order(stage.dsn, name, is_planned=is_planned)
    assert isinstance(done, Outcome)
    assert done.action == "DIFFERENTIAL", done
    assert done.steps >= FEWEST_STEPS, done.names
    assert any("commit" in word.lower() for word in done.names), done.names
    if os.environ.get("HARNESS_EVERY_STEP") == "show":
        print(*(f"{number:3} {word}" for number, word in enumerate(done.names, 1)), sep="\n")  # noqa: T201
    return done.steps


def _hand(victim: str, name: str, names: Sequence[str]) -> tuple[int, int]:
    """Which of how many hands: each table has one. Those that stop a whole node, which takes longest, share it."""
    place, count = names.index(name), len(names)
    if victim in {"harness", "backend"}:
        return place, count
    return 2 * place + (victim == "worker"), 2 * count


def _chosen(count: int, hand: int, hands: int) -> Sequence[int]:
    return range(1, count + 1) if IS_WHOLE else range(1 + hand, count + 1, hands)


def _die_at_each(
    stage: Stage, steps: Stepping, name: str, victim: str, hand: tuple[int, int], *, is_planned: bool = True
) -> None:
    """Args: hand: which of how many hands the exchanges are dealt to."""
    count = _count_steps(stage, steps, name, is_planned=is_planned)
    stage.right_again(name, time.monotonic())
    slowest_s, outcomes = 0.0, Counter[str]()
    for number in _chosen(count, *hand):
        stage.change(name)
        stop = steps.order(stage.dsn, name, number, is_planned=is_planned)
        if isinstance(stop, Outcome):  # an answer came in one piece this time, and not in two
            assert number > stop.steps >= count - 4, (number, count, stop)
            continue
        died_at = time.monotonic()
        VICTIMS[victim](stage, stop)
        outcome = steps.end() if victim == "harness" else steps.go_on()
        if victim == "worker":
            stage.site.workers[stop.at % len(stage.site.workers)].start()
        assert outcome.error is None or outcome.error == "killed" or outcome.error in LOST, (stop, outcome)
        assert victim != "harness" or outcome.error == "killed"
        outcomes[outcome.error or "done"] += 1
        slowest_s = max(slowest_s, stage.right_again(name, died_at))
        if victim in {"coordinator", "worker"}:
            stage.settle()
        if name == "shared":
            stage.refresh("shared_too")
            stage.require("shared_too")
        stage.require_nothing_left(name)
    where = "1+2" if stage.site.has_citus else "one server"
    print(  # noqa: T201
        f"every step, {where}, {name}: {victim} died at {outcomes.total()} of {count} steps, {dict(outcomes)},"
        f" slowest to the next right refresh {slowest_s:.2f} s"
    )
    assert outcomes.total() >= FEWEST_STEPS // hand[1]


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("name", TABLES)
def test_death_at_every_step_is_followed_by_a_right_refresh(
    stage: Stage, steps: Stepping, name: str, victim: str
) -> None:
    _die_at_each(stage, steps, name, victim, _hand(victim, name, TABLES))


@pytest.mark.parametrize("victim", ["harness", "backend", "coordinator"])
@pytest.mark.parametrize("name", PLAIN_TABLES)
def test_death_at_every_step_on_one_server(plain_stage: Stage, steps: Stepping, name: str, victim: str) -> None:
    _die_at_each(plain_stage, steps, name, victim, _hand(victim, name, PLAIN_TABLES))


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("victim", ["harness", "worker"])
def test_death_while_a_refresh_finds_out_how_to_follow_its_query(stage: Stage, steps: Stepping, victim: str) -> None:
    _die_at_each(stage, steps, "distributed", victim, (0, 24), is_planned=False)


@pytest.mark.parametrize("stop_at", ["got.token", "pgt_refresh_history"], ids=["lease taken", "all written"])
@pytest.mark.citus(">= 13")
def test_lease_is_renewed_by_another_session_when_its_keeper_dies(stage: Stage, steps: Stepping, stop_at: str) -> None:
    """A lease of five seconds, which is renewed; the session that renews it is ended once meanwhile."""
    name, dbname = "local", stage.session.info.dbname
    of_five_seconds = sql.SQL("ALTER DATABASE {} SET pgtrickle.lock_timeout = '5s'").format(sql.Identifier(dbname))
    stage.session.execute(of_five_seconds)
    try:
        stage.change(name)
        stop = steps.order(stage.dsn, name, stop_at)
        assert isinstance(stop, Stop)
        node = stage.site.coordinator

        def keepers() -> set[int]:
            return {one.pid for one in fetch_backends(node, dbname, application="harness lease")}

        (keeper,) = wait_until("the lease to be renewed", keepers, deadline_s=20)
        assert terminate_backend(node, keeper)
        wait_until("another session to renew it", lambda: keepers() - {keeper}, deadline_s=20)
        before = _deadline(stage)
        wait_until("its deadline to move on", lambda: _deadline(stage) > before, deadline_s=20)
        with pytest.raises(LockedError):
            stage.refresh(name, wait_s=0)
        assert steps.go_on().action == "DIFFERENTIAL"
        assert stage.refresh(name).action == "NO_DATA"
        stage.require(name)
    finally:
        stage.session.execute(sql.SQL("ALTER DATABASE {} RESET pgtrickle.lock_timeout").format(sql.Identifier(dbname)))
        stage.hang_up()


def _deadline(stage: Stage) -> datetime:
    (row,) = stage.session.execute("SELECT deadline FROM pgtrickle.st_locks").fetchall()
    found = row[0]
    assert isinstance(found, datetime)
    return found
