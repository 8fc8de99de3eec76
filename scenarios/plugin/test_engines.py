"""What is expected of the other engine is strict: it fails with these words, or the test fails."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness

pytest_plugins = ["pytester"]

HOME = Path(harness.__file__).parents[1]
CONFTEST = """
pytest_plugins = ["scenarios.fixtures.engines"]
"""
# No server is asked for: what is tried is what becomes of a failure.
TESTS = """
import pytest
from harness.clusters import Cluster
from harness.engines import ENGINES, OURS
from harness.errors import CheckFailedError
from scenarios.fixtures.engines import Ground

@pytest.fixture
def place(stream_engine):
    return Ground(stream_engine, Cluster("nowhere", None, ()))

LOST = pytest.mark.pg_trickle("lost", match="^1 of 3 rows", reason="the open transaction's row")

@LOST
def test_with_the_words(place):
    if place.engine is not OURS:
        raise CheckFailedError("1 of 3 rows are missing")

@LOST
def test_with_other_words(place):
    if place.engine is not OURS:
        raise CheckFailedError("2 of 3 rows are missing")

@LOST
def test_mended(place):
    pass

@LOST
def test_broken_here(place):
    raise CheckFailedError("1 of 3 rows are missing")

@LOST
def test_error_of_the_scenario(place):
    if place.engine is not OURS:
        raise KeyError("1 of 3 rows are missing")

def test_like_ours(place):
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(HOME))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_them=TESTS)
    return pytester


def _run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:locust", "-rx", *arguments, timeout=120)


def test_expected_failure_is_one_by_its_words_only(project: pytest.Pytester) -> None:
    result = _run(project, "--engine", "pg_trickle")
    # test_broken_here fails as expected, whatever the other engine does.
    result.assert_outcomes(passed=1, xfailed=2, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*pg_trickle does this now, and was expected not to: lost, the open transaction's row*",
            "XFAIL *test_with_the_words* - lost: the open transaction's row; seen: 1 of 3 rows are missing",
        ]
    )
    result.stdout.fnmatch_lines(["*pg_trickle was expected to fail otherwise: lost*"])


def test_nothing_is_expected_to_fail_with_our_own_engine(project: pytest.Pytester) -> None:
    result = _run(project, "--engine", "ours")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*test_broken_here*ours*"])


def test_both_engines_play_unless_one_is_named(project: pytest.Pytester) -> None:
    result = _run(project, "-k", "like_ours", "-v")
    result.assert_outcomes(passed=2)
    assert _run(project, "--engine", "others").ret == pytest.ExitCode.USAGE_ERROR
