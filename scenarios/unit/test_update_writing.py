"""What is said of the writers beside an update of the extension: errors, deadlocks, writes that wait for ever."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.rehearsal.extension.model import WRITERS_CHECK, StepRun, VersionFindings
from harness.rehearsal.extension.writing import judge_writers
from harness.rehearsal.model import CheckResult, LatencySample, Verdict
from harness.rehearsal.writer import WriteError
from harness.rehearsal.writers import WriterReport

# The update runs from 10 to 12 seconds.
STEP = StepRun("1.0", "1.1", Verdict.PASSED, 10.0, 2.0)
SKIPPED = StepRun("1.1", "1.2", Verdict.SKIPPED, 30.0)
EVERYWHERE = (1.0, 9.0, 10.5, 12.5)


@dataclass(frozen=True)
class Written:
    """Writers that have ended: when what committed began, what failed, what was cancelled."""

    began_s: tuple[float, ...] = EVERYWHERE
    errors: tuple[WriteError, ...] = ()
    cancelled_at_s: tuple[float, ...] = ()

    def report(self) -> WriterReport:
        return WriterReport(len(self.began_s), 0, 0, {}, (), self.errors, self.cancelled_at_s)

    def samples(self) -> tuple[LatencySample, ...]:
        return tuple(LatencySample(at_s, 2.0, "shop.orders", 0) for at_s in self.began_s)


def _error(at_s: float, sqlstate: str, lasted_s: float = 0.0) -> WriteError:
    return WriteError(at_s, 0, "shop.orders", sqlstate, "said no", "in pgtrickle", lasted_s)


def _judged(written: Written) -> tuple[CheckResult, CheckResult]:
    versions = [VersionFindings(version, "installs", (), (), frozenset(), frozenset(), "", 1, 1) for version in "ab"]
    first, second = judge_writers(versions, [STEP, SKIPPED], written, 2)
    assert {first.name, second.name} == {WRITERS_CHECK}
    assert (first.phase, second.phase) == ("a", "b")
    return first, second


def test_versions_at_which_writers_wrote_and_met_nothing_pass() -> None:
    first, second = _judged(Written())
    assert (first.verdict, first.detail) == (second.verdict, second.detail) == (Verdict.PASSED, "")


def test_error_fails_the_version_that_it_was_met_at() -> None:
    first, second = _judged(Written(errors=(_error(9.5, "42883"),)))
    assert (first.verdict, second.verdict) == (Verdict.FAILED, Verdict.PASSED)
    assert first.detail == "1 error(s), the first on shop.orders: 42883 said no"


def test_write_that_never_ended_fails_though_others_committed() -> None:
    first, second = _judged(Written(cancelled_at_s=(42.0, 42.5)))
    assert (first.verdict, second.verdict) == (Verdict.PASSED, Verdict.FAILED)
    assert second.detail == "2 write(s) still waited when the writers were to end, and were cancelled"


def test_version_after_whose_step_nothing_committed_fails() -> None:
    """What began while the step ran and committed says nothing of the version."""
    first, second = _judged(Written(began_s=(1.0, 9.0, 11.9)))
    assert (first.verdict, second.verdict) == (Verdict.PASSED, Verdict.FAILED)
    assert second.detail == "no write that began at it committed"
    first, second = _judged(Written(began_s=(12.5,)))
    assert (first.verdict, second.verdict) == (Verdict.FAILED, Verdict.PASSED)


@pytest.mark.parametrize(
    ("at_s", "lasted_s"), [(11.0, 0.0), (12.3, 1.2)], ids=["while it runs", "told when it had ended"]
)
def test_deadlock_with_the_step_is_told_and_does_not_fail(at_s: float, lasted_s: float) -> None:
    _, second = _judged(Written(errors=(_error(at_s, "40P01", lasted_s),)))
    assert second.verdict is Verdict.PASSED
    assert second.detail.startswith("1 deadlock(s) with the step")


def test_deadlock_beside_no_step_fails() -> None:
    first, second = _judged(Written(errors=(_error(5.0, "40P01"), _error(14.0, "40P01", 1.0), _error(11.0, "40001"))))
    assert (first.verdict, second.verdict) == (Verdict.FAILED, Verdict.FAILED)
    assert second.detail.startswith("2 error(s)")
