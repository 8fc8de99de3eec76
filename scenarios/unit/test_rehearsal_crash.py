"""When the blow falls, that it falls once, and that the chain goes on after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest

from harness.chain.runner import ChainEvent
from harness.errors import CheckFailedError, ServerGoneError
from harness.postgres import Server
from harness.rehearsal.crash import CrashMoment, Killer, draw_moment, explain_death, run_with_crash


class FakeServer:
    """Counts what is done to it."""

    name = "copy"

    def __init__(self) -> None:
        self.killed = threading.Event()
        self.kills = 0
        self.starts = 0

    @property
    def is_running(self) -> bool:
        return self.starts >= self.kills

    def kill(self) -> None:
        self.kills += 1
        self.killed.set()

    def start(self) -> None:
        self.starts += 1


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


def event(kind: str) -> ChainEvent:
    return ChainEvent(kind, "0002", "up", "public.a" if kind == "source_moved" else None)


def test_moment_is_the_same_for_the_same_seed_and_revision() -> None:
    moments = [draw_moment(7, revision, "up", "up", 24) for revision in ("0002", "0003", "0004")]
    assert moments == [draw_moment(7, revision, "up", "up", 24) for revision in ("0002", "0003", "0004")]
    assert len(set(moments)) == 3
    assert draw_moment(8, "0002", "up", "up", 24) != moments[0]
    drawn = [draw_moment(seed, "0002", "up", "up", 24) for seed in range(200)]
    assert {moment.after_sources for moment in drawn} >= set(range(1, 24))
    assert all(0 <= moment.after_sources < 24 and 0 <= moment.delay_ms <= 150 for moment in drawn)


def test_blow_falls_after_the_drawn_source(fake: FakeServer) -> None:
    killer = Killer(cast("Server", fake), CrashMoment(2, 0.0))
    for kind in ("revision_begin", "source_moved"):
        killer.take(event(kind))
    assert not fake.killed.is_set()
    killer.take(event("source_moved"))
    assert fake.killed.wait(5)
    killer.take(event("revision_end"))
    killer.stand_down()
    assert fake.kills == 1


def test_blow_falls_at_the_end_at_the_latest(fake: FakeServer) -> None:
    killer = Killer(cast("Server", fake), CrashMoment(99, 0.0))
    killer.take(event("revision_begin"))
    killer.take(event("revision_end"))
    assert fake.kills == 1


def test_no_blow_falls_after_standing_down(fake: FakeServer) -> None:
    killer = Killer(cast("Server", fake), CrashMoment(0, 60_000.0))
    killer.take(event("revision_begin"))
    killer.stand_down()
    assert fake.kills == 0


def test_chain_is_run_again_after_the_crash(fake: FakeServer) -> None:
    runs: list[str] = []

    def go(listener: Callable[[ChainEvent], None]) -> None:
        listener(event("revision_begin"))
        if not runs:
            runs.append("killed")
            assert fake.killed.wait(5)
            raise ServerGoneError("the server went away")
        runs.append("done")

    crashed: list[bool] = []
    moment = CrashMoment(0, 0.0)
    count = run_with_crash(cast("Server", fake), moment, go, on_crash=lambda: crashed.append(fake.is_running))
    assert (count, runs, crashed) == (1, ["killed", "done"], [False])
    assert (fake.kills, fake.starts) == (1, 1)


def test_failure_that_is_no_crash_is_not_hidden(fake: FakeServer) -> None:
    def go(_listener: Callable[[ChainEvent], None]) -> None:
        raise CheckFailedError("a column is missing")

    with pytest.raises(CheckFailedError):
        run_with_crash(cast("Server", fake), CrashMoment(0, 0.0), go, on_crash=lambda: None)
    assert fake.kills == 0


def test_death_of_the_copy_is_told_only_if_it_is_dead(fake: FakeServer) -> None:
    assert explain_death(cast("Server", fake), ValueError("x")) is None
    fake.kill()
    death = explain_death(cast("Server", fake), ValueError("server closed the connection"))
    assert death is not None
    assert "died in the middle: server closed the connection" in death.message
