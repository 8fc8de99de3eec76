"""How steps, revisions and stalls are written down."""

from __future__ import annotations

import pytest

from harness.chain.runner import ChainEvent
from harness.rehearsal.model import CheckResult, LatencySample, RevisionRun, Verdict, WaitedFor
from harness.rehearsal.options import Progress
from harness.rehearsal.steps import Clock, RevisionRecord, StepLog, longest_stalls


def test_step_is_recorded_with_its_detail_and_told() -> None:
    told: list[Progress] = []
    log = StepLog(Clock(), told.append)
    with log.step("copy") as step:
        step.say("half", 0.5)
        step.detail = "all there"
    assert [(event.step, event.message, event.fraction) for event in told] == [
        ("copy", "begins", 0.0),
        ("copy", "half", 0.5),
        ("copy", "all there", 1.0),
    ]
    (result,) = log.results
    assert (result.name, result.verdict, result.detail) == ("copy", Verdict.PASSED, "all there")
    assert result.elapsed_s >= 0


def test_step_that_raises_is_recorded_as_failed() -> None:
    log = StepLog(Clock(), lambda _event: None)
    with pytest.raises(KeyboardInterrupt), log.step("up"):
        raise KeyboardInterrupt
    assert log.results[0].verdict is Verdict.FAILED


def test_step_with_a_failed_check_fails() -> None:
    log = StepLog(Clock(), lambda _event: None)
    verdicts = (Verdict.PASSED, Verdict.SKIPPED, Verdict.FAILED)
    with log.step("check_up") as step:
        step.judge([CheckResult("x", "up", "t", verdict) for verdict in verdicts])
    assert log.results[0].verdict is Verdict.FAILED
    assert log.results[0].detail == "2 checks, 1 failed"


def test_revision_counts_the_events_of_the_chain() -> None:
    record = RevisionRecord("0002", "up", 1.0)
    for event in (
        ChainEvent("revision_begin", "0002", "up"),
        ChainEvent("source_moved", "0002", "up", "public.a", 4.0),
        ChainEvent("waiting", "0002", "up", "public.b", 50.0, {"holder": "pid 7 (app)"}),
        ChainEvent("waiting", "0002", "up", "public.b", 51.0, {"holder": "pid 7 (app)"}),
        ChainEvent("source_moved", "0002", "up", "public.b", 6.0),
        ChainEvent("revision_end", "0002", "up", None, 120.0),
    ):
        record.take(event)
    record.ended_s = 2.0
    run = record.freeze([LatencySample(1.9, 500.0, "public.a", 0), LatencySample(5.0, 900.0, "public.a", 0)])
    assert run.sources_moved == 2
    assert run.source_ms == {"public.a": 4.0, "public.b": 6.0}
    assert run.lock_retries == 2
    assert run.waits == (WaitedFor("public.b", "pid 7 (app)", 101.0),)
    assert run.longest_stall_ms == 500.0


def test_stall_belongs_to_the_revision_that_it_met() -> None:
    runs = [RevisionRun("0002", "up", 1.0, 2.0), RevisionRun("0003", "up", 3.0, 4.0)]
    samples = [
        LatencySample(0.5, 10.0, "public.a", 0),
        LatencySample(0.9, 300.0, "public.a", 0),  # began before and ran into it
        LatencySample(2.5, 40.0, "public.b", 1),
    ]
    first, second = longest_stalls(samples, runs)
    assert (first.source, first.stall_ms, first.revision) == ("public.a", 300.0, "0002 up")
    assert (second.source, second.stall_ms, second.revision) == ("public.b", 40.0, None)
