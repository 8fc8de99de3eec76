"""The runner with groups that measure nothing: what breaks a run off, what fails it, and how long it says it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import psycopg
import pytest

from harness.bench import run as bench_run
from harness.bench.examine import examined
from harness.bench.model import Better, Check, Goal, GroupResult, Interval, Measurement, Point, Profile, Ratio, Tell
from harness.bench.registry import GROUPS, Group, choose_groups
from harness.bench.run import Clock, Moment, Run, guess_s, run_bench
from harness.bench.supply import Supply
from harness.errors import BadInputError, CheckFailedError, CitusMissingError, ServerGoneError
from scenarios.fixtures.bench import make_growth, make_positions

Answer = Callable[[Supply, Profile, Tell], GroupResult]


@dataclass(frozen=True)
class MadeGroup(Group):
    """A group whose answer is given."""

    answer: Answer = lambda _supply, _profile, _tell: GroupResult("x", "X")

    def load(self) -> Answer:
        return self.answer


def made(name: str, answer: Answer, *, needs_citus: bool = False) -> MadeGroup:
    return MadeGroup(name, name.upper(), dict.fromkeys(Profile, 2.0), needs_citus, answer)


def answers(result: GroupResult) -> Answer:
    return lambda _supply, _profile, _tell: result


def raises(error: BaseException) -> Answer:
    def answer(_supply: Supply, _profile: Profile, _tell: Tell) -> GroupResult:
        raise error

    return answer


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Runs groups on one server, which none of them starts; the machine's facts take their time elsewhere."""
    monkeypatch.setattr(bench_run, "describe_machine", lambda: {"cpus": "2"})
    return lambda *groups, **options: run_bench(groups, Profile.SMOKE, is_plain=True, **options)


def test_good_answers_pass(run: Callable[..., Run]) -> None:
    done = run(made("a", answers(make_positions())), made("b", answers(make_growth())))
    assert (done.exit_code, done.result.passed, done.result.error) == (0, True, "")
    assert [group.name for group in done.result.groups] == ["positions", "growth"]
    assert done.result.facts["missing"] == "asked for with --plain"
    assert "load at the end" in done.result.facts


def test_a_fast_wrong_answer_fails_the_run(run: Callable[..., Run]) -> None:
    wrong = replace(make_positions(), checks=(Check("xid", passed=False, detail="99,999 rows"),))
    done = run(made("a", answers(wrong)), made("b", answers(make_growth())))
    assert (done.exit_code, done.result.passed) == (1, False)
    assert len(done.result.groups) == 2


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (CheckFailedError("a row is lost"), 1, "b: CheckFailedError: a row is lost"),
        (ServerGoneError("it died", hint="look", node="worker-1"), 3, "b: ServerGoneError [worker-1]: it died (look)"),
        (BadInputError("no such table"), 3, "b: BadInputError: no such table"),
        (psycopg.errors.UndefinedTable("no t, password=hunter2"), 3, "Traceback"),
        (ZeroDivisionError("by zero"), 3, "ZeroDivisionError: by zero"),
    ],
)
def test_a_group_that_raises_breaks_the_run_off_and_what_was_found_is_kept(
    run: Callable[..., Run], error: Exception, code: int, said: str
) -> None:
    after = made("c", raises(AssertionError("it ran")))
    done = run(made("a", answers(make_positions())), made("b", raises(error)), after)
    assert (done.exit_code, done.result.passed) == (code, False)
    assert said in done.result.error
    assert "hunter2" not in done.result.error
    assert [group.name for group in done.result.groups] == ["positions"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interruption_closes_the_servers_and_goes_on(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    closed: list[Supply] = []

    def close(supply: Supply) -> None:
        closed.append(supply)

    monkeypatch.setattr(Supply, "close", close)
    with pytest.raises(type(interruption)):
        run(made("a", raises(interruption)))
    assert len(closed) == 1


def test_groups_that_need_citus_are_skipped_beside_others_and_refused_alone(run: Callable[..., Run]) -> None:
    needy = made("b", raises(AssertionError("it ran")), needs_citus=True)
    done = run(made("a", answers(make_positions())), needy)
    assert done.exit_code == 0
    assert done.result.groups[1].skipped == "asked for with --plain"
    with pytest.raises(CitusMissingError, match="nothing to run without Citus: b"):
        run(needy)


def test_a_run_in_which_nothing_ran_does_not_pass(run: Callable[..., Run]) -> None:
    done = run(made("a", answers(GroupResult("a", "A", skipped="no room"))))
    assert (done.exit_code, done.result.passed) == (3, False)
    assert done.result.error == "no group ran: no room"


def test_what_goes_on_is_told_with_the_time_left(run: Callable[..., Run]) -> None:
    def answer(_supply: Supply, _profile: Profile, tell: Tell) -> GroupResult:
        tell("ten rows")
        return make_positions()

    moments: list[Moment] = []
    run(made("a", answer), made("b", answer), on_moment=moments.append)
    assert [(at.group, at.number, at.of, at.words) for at in moments] == [
        ("a", 1, 2, "begins"),
        ("a", 1, 2, "ten rows"),
        ("b", 2, 2, "begins"),
        ("b", 2, 2, "ten rows"),
    ]
    assert moments[0].left_s == pytest.approx(4, abs=0.5)
    assert moments[-1].left_s < 2.1


def test_time_left_follows_what_the_groups_took() -> None:
    now = [100.0]
    groups = [made(name, answers(make_growth())) for name in "abc"]
    clock = Clock(groups, Profile.SMOKE, lambda: now[0])
    assert clock.left_s == 6.0
    now[0] = 101.5
    assert (clock.left_s, clock.elapsed_s) == (4.5, 1.5)
    now[0] = 105.0  # longer than it was to take: the two others are left
    assert clock.left_s == 4.0
    now[0] = 106.0
    clock.end_group()
    assert clock.left_s == 12.0  # the first took three times its guess
    clock.end_group()
    now[0] = 900.0
    clock.end_group()
    assert clock.left_s == 0.0


def test_group_of_another_profile_that_was_named_has_a_guess() -> None:
    assert guess_s(Group("x", "X", {Profile.STANDARD: 20.0, Profile.FULL: 600.0}), Profile.SMOKE) == 20.0


def test_groups_of_the_profiles_stay_within_their_budgets() -> None:
    smoke, standard = choose_groups([], Profile.SMOKE), choose_groups([], Profile.STANDARD)
    assert sum(group.seconds[Profile.SMOKE] for group in smoke) < 50
    assert sum(group.seconds[Profile.STANDARD] for group in standard) < 600
    assert {group.name for group in smoke} < {group.name for group in standard}
    assert choose_groups([], Profile.FULL) == GROUPS
    assert [group.name for group in choose_groups(["matrix", "positions"], Profile.SMOKE)] == ["positions", "matrix"]
    with pytest.raises(BadInputError, match="there is no group 'refesh'"):
        choose_groups(["refesh"], Profile.SMOKE)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_no_numbers_are_left_out_and_fail(value: float) -> None:
    broken = Interval(1.0, 0.9, value)
    result = replace(
        make_growth(),
        measurements=(
            Measurement("m", "s", (1.0, value)),
            Measurement("empty", "s", ()),
            Measurement("good", "s", (1.0,)),
        ),
        ratios=(Ratio("r", "a", "b", broken), Ratio("s", "a", "b", Interval(1, 1, 1))),
        goals=(Goal("g", 1.0, Better.LOWER, interval=broken),),
        series=(*make_growth().series, replace(make_growth().series[0], name="t", points=(Point(value, broken),))),
    )
    found = examined(result)
    assert [each.name for each in found.measurements] == ["good"]
    assert [each.name for each in found.ratios] == ["s"]
    assert found.goals == ()
    assert found.series == make_growth().series
    assert [check.passed for check in found.checks] == [False]
    for name in ("'m'", "'empty'", "'r'", "'g'", "'t'"):
        assert name in found.checks[0].detail


def test_a_name_that_is_there_twice_fails() -> None:
    twice = replace(make_positions(), ratios=(*make_positions().ratios, make_positions().ratios[0]))
    found = examined(twice)
    assert len(found.ratios) == len(make_positions().ratios)
    assert "'empty_trigger : none' is there 2 times" in found.checks[-1].detail
    assert examined(make_positions()) == make_positions()
