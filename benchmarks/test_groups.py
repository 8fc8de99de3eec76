"""Each group of ``harness bench`` as one benchmark of pytest-benchmark: its figures are in ``extra_info``.

What pytest-benchmark times is a whole group, once. What the group found (medians and quartiles of its measurements,
its ratios with their intervals, its goals) goes into pytest-benchmark's storage with ``--benchmark-autosave`` or
``--benchmark-save``, and then the document of ``harness bench run`` is kept beside it, for ``harness bench compare``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.bench.document import to_document
from harness.bench.examine import examined
from harness.bench.facts import describe_machine, describe_servers
from harness.bench.keep import named_place
from harness.bench.model import BenchResult, GroupResult, Profile
from harness.bench.registry import GROUPS, Group
from harness.bench.run import choose_maker
from harness.bench.statistics import quartiles
from harness.bench.supply import Supply
from harness.errors import BinariesNotFoundError, EnvironmentMissingError
from harness.report.document import dump_document
from harness.report.write import write_file
from scenarios.fixtures.skips import skip_environment


@pytest.fixture(scope="module")
def profile(pytestconfig: pytest.Config) -> Profile:
    return Profile(pytestconfig.getoption("--bench-profile"))


@pytest.fixture(scope="module")
def supply() -> Iterator[Supply]:
    """One cluster and one server for all groups, as ``harness bench run`` has them."""
    try:
        provider, missing = choose_maker()
    except EnvironmentMissingError as error:
        skip_environment(error.message)
    with closing(Supply(provider, missing)) as found:
        yield found


@pytest.fixture(scope="module")
def found(pytestconfig: pytest.Config, supply: Supply, profile: Profile) -> Iterator[list[GroupResult]]:
    """What the groups found; kept beside pytest-benchmark's storage where that is kept."""
    results: list[GroupResult] = []
    begun, started_at = time.monotonic(), datetime.now(UTC)
    facts = {**describe_machine(), **describe_servers(supply.provider, supply.missing)}
    yield results
    saved = pytestconfig.getoption("benchmark_save") or pytestconfig.getoption("benchmark_autosave")
    if not saved or not results:
        return
    result = BenchResult(
        profile, tuple(results), facts, started_at.isoformat(timespec="seconds"), time.monotonic() - begun
    )
    place = named_place(f"pytest-{started_at:%Y%m%d_%H%M%S}")
    place.parent.mkdir(parents=True, exist_ok=True)
    command = f"pytest benchmarks/test_groups.py --bench-profile {profile.value}"
    write_file(place, dump_document(to_document(result, command)).encode(), option="--rootdir")


def extra_info(result: GroupResult) -> dict[str, Any]:
    """The group's figures as pytest-benchmark keeps them."""
    return {
        "measurements": {
            each.name: {"unit": each.unit, "quartiles": quartiles(each.samples), "rounds": len(each.samples)}
            for each in result.measurements
        },
        "ratios": {each.name: [each.interval.value, each.interval.low, each.interval.high] for each in result.ratios},
        "goals": {goal.name: goal.verdict.value for goal in result.goals},
        "refused": {refusal.name: refusal.error for refusal in result.refusals},
    }


# A full profile takes up to half an hour a group; pytest-timeout's own limit is for tests.
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_group(
    benchmark: BenchmarkFixture, supply: Supply, profile: Profile, found: list[GroupResult], group: Group
) -> None:
    if group.needs_citus and supply.provider is None:
        skip_environment(supply.missing)
    run: Callable[..., GroupResult] = benchmark.pedantic  # it has no annotations
    begun = time.monotonic()
    try:
        answered = run(group.load(), args=(supply, profile, lambda _words: None), rounds=1)
    except BinariesNotFoundError as error:
        skip_environment(error.message)
    if answered.skipped:
        skip_environment(answered.skipped)
    result = replace(examined(answered), elapsed_s=time.monotonic() - begun)
    benchmark.extra_info.update(extra_info(result))
    found.append(result)
    assert [check for check in result.checks if not check.passed] == []
    assert [refusal for refusal in result.refusals if not refusal.was_expected] == []
