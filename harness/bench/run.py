"""Runs groups of benchmarks one after the other, and says how long it will still take."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from harness.bench.examine import examined
from harness.bench.facts import describe_machine, describe_servers, load_average
from harness.bench.model import BenchResult, GroupResult, Profile, Tell
from harness.bench.registry import Group
from harness.bench.supply import Supply
from harness.clusters.providers import Provider, choose_provider
from harness.errors import (
    EXIT_CHECK_FAILED,
    EXIT_ENVIRONMENT,
    EXIT_GOOD,
    CheckFailedError,
    CitusMissingError,
    HarnessError,
    UnsupportedVersionError,
)
from harness.logs import redact
from harness.settings import load_settings

# How far the groups that are done may stretch the guess for those that are not: one of them may be an outlier.
_MOST_STRETCH = 5.0


@dataclass(frozen=True)
class Moment:
    """Where a run is.

    Attributes:
        group: which one runs.
        number: of that group, from 1.
        of: how many groups there are.
        words: what it does.
        elapsed_s: seconds since the run began.
        left_s: about how many seconds are left.
    """

    group: str
    number: int
    of: int
    words: str
    elapsed_s: float
    left_s: float


@dataclass(frozen=True)
class Run:
    """A run that ended, perhaps early.

    Attributes:
        result: what was found.
        exit_code: 0 it passed, 1 an answer was wrong, 3 the environment.
    """

    result: BenchResult
    exit_code: int


OnMoment = Callable[[Moment], None]


class Clock:
    """Guesses the time left: from the registry's seconds, stretched by how long the groups took that are done.

    Args:
        groups: in the order in which they run.
        profile: whose seconds.
        now_s: a clock.
    """

    def __init__(self, groups: Sequence[Group], profile: Profile, now_s: Callable[[], float] = time.monotonic) -> None:
        self._guesses = [guess_s(group, profile) for group in groups]
        self._now_s = now_s
        self._begun_s = self._group_begun_s = now_s()
        self._done = 0
        self._took_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self._now_s() - self._begun_s

    @property
    def group_s(self) -> float:
        """Seconds since the running group began."""
        return self._now_s() - self._group_begun_s

    @property
    def left_s(self) -> float:
        """About how many seconds are left; what runs over its guess counts as nearly done."""
        done_s = sum(self._guesses[: self._done])
        stretch = min(max(self._took_s / done_s, 1 / _MOST_STRETCH), _MOST_STRETCH) if done_s else 1.0
        running_s = self._guesses[self._done] * stretch - self.group_s if self._done < len(self._guesses) else 0.0
        return max(running_s, 0.0) + sum(self._guesses[self._done + 1 :]) * stretch

    def end_group(self) -> None:
        """The running group has ended, the next one begins."""
        self._took_s += self.group_s
        self._group_begun_s = self._now_s()
        self._done += 1


def guess_s(group: Group, profile: Profile) -> float:
    """Seconds that a group takes; one that is not of the profile, but was named, takes those of its shortest."""
    return group.seconds.get(profile, min(group.seconds.values()))


def choose_maker(cluster: str | None = None, *, is_plain: bool = False) -> tuple[Provider | None, str]:
    """Who makes the cluster, or why there is none.

    Args:
        cluster: ``local`` or ``containers``; None: ``HARNESS_CLUSTER``, else what is there.
        is_plain: no cluster, also where there is Citus.

    Raises:
        EnvironmentMissingError: what was named, or is required (``HARNESS_REQUIRE_CITUS``), is not to be had.
        RefusedError: an existing cluster: its figures would be those of whatever else it does.
    """
    if is_plain:
        return None, "asked for with --plain"
    settings = load_settings()
    try:
        provider = choose_provider(cluster)
    except (CitusMissingError, UnsupportedVersionError) as error:
        if cluster or settings.cluster or settings.require_citus:
            raise
        return None, f"environment: {error.message}"
    if not provider.can_start:
        provider.start()  # says why not
    return provider, ""


def run_bench(
    groups: Sequence[Group],
    profile: Profile,
    *,
    cluster: str | None = None,
    is_plain: bool = False,
    on_moment: OnMoment = lambda _moment: None,
    clock: Clock | None = None,
) -> Run:
    """Run groups on servers of their own, which are gone afterwards, also after Ctrl-C.

    A group that raises breaks the run off: what was found before it is kept, with the error.

    Args:
        groups: in this order.
        profile: how long it may take.
        cluster, is_plain: see `choose_maker`.
        on_moment: told what is going on.
        clock: of these groups; who shows the time left passes its own.

    Raises:
        EnvironmentMissingError, RefusedError: see `choose_maker`.
        CitusMissingError: none of the groups can run without Citus, and there is none.
        BinariesNotFoundError: there is no PostgreSQL at all.
    """
    clock = clock or Clock(groups, profile)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    provider, missing = choose_maker(cluster, is_plain=is_plain)
    if provider is None and all(group.needs_citus for group in groups):
        raise CitusMissingError(
            f"nothing to run without Citus: {', '.join(group.name for group in groups)}; {missing}",
            hint="harness doctor says how to get it",
        )
    facts = {**describe_machine(), **describe_servers(provider, missing)}
    found: list[GroupResult] = []
    error, code = "", EXIT_GOOD
    with closing(Supply(provider, missing)) as supply:
        for number, group in enumerate(groups, 1):
            tell = _teller(group, number, len(groups), clock, on_moment)
            tell("begins")
            try:
                found.append(_run_group(group, profile, supply, tell, clock))
            except Exception as raised:
                error = f"{group.name}: {describe_error(raised)}"
                code = EXIT_CHECK_FAILED if isinstance(raised, CheckFailedError) else EXIT_ENVIRONMENT
                break
            clock.end_group()
    if not error and all(result.skipped for result in found):
        error, code = f"no group ran: {found[0].skipped}", EXIT_ENVIRONMENT
    facts["load at the end"] = load_average()
    result = BenchResult(profile, tuple(found), facts, started_at, clock.elapsed_s, error)
    return Run(result, code or (EXIT_GOOD if result.passed else EXIT_CHECK_FAILED))


def _teller(group: Group, number: int, of: int, clock: Clock, on_moment: OnMoment) -> Tell:
    def tell(words: str) -> None:
        on_moment(Moment(group.name, number, of, words, clock.elapsed_s, clock.left_s))

    return tell


def _run_group(group: Group, profile: Profile, supply: Supply, tell: Tell, clock: Clock) -> GroupResult:
    if group.needs_citus and supply.provider is None:
        return GroupResult(group.name, group.title, skipped=supply.missing)
    result = examined(group.load()(supply, profile, tell))
    return replace(result, elapsed_s=result.elapsed_s or clock.group_s)


def describe_error(error: Exception) -> str:
    """What a person can mend in a line; anything else with its traceback."""
    if isinstance(error, HarnessError):
        node = f" [{error.node}]" if error.node else ""
        hint = f" ({error.hint})" if error.hint else ""
        return redact(f"{type(error).__name__}{node}: {error.message}{hint}")
    return redact("".join(traceback.format_exception(error)).strip())
