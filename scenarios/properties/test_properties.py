"""Random schemas, queries of the supported operators and statements: each refresh leaves what the query returns.

500 cases on plain PostgreSQL and 100 on Citus; ``--property-cases 5000`` tries 5,000 and 1,000. A case that fails is
made small by Hypothesis and shown as a script; ``--hypothesis-seed`` with the seed of the header plays the same cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from scenarios.properties.cases import Case, Player, Tally, cases
from scenarios.properties.kinds import MAKE_MOOD

# Making a failing case small plays it again and again.
pytestmark = pytest.mark.timeout(1800)


@contextmanager
def _player(node: Node, *, on_citus: bool = False) -> Iterator[Player]:
    upgrade(node.dsn())
    with node.connect() as connection, node.connect() as writer, StreamTables(connection) as stream_tables:
        writer.execute(MAKE_MOOD)
        yield Player(connection, writer, stream_tables, on_citus=on_citus)


def _play(player: Player, count: int, start: int, *, on_citus: bool, is_incremental: bool = True) -> Tally:
    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(cases(on_citus=on_citus, is_incremental=is_incremental))
    def play(case: Case) -> None:
        player.play(case)

    play()
    print(player.tally)  # noqa: T201 - what the cases were made of, beside the verdict
    return player.tally


def _assert_worth_something(tally: Tally, count: int) -> None:
    """The cases were what they should be, or their success says nothing."""
    seen = tally.seen
    if count < 50:  # too few to be judged by their numbers
        return
    assert seen["cases"] >= 0.6 * count, tally
    assert seen["refresh DIFFERENTIAL"] >= 0.5 * seen["cases"], tally
    assert seen["recomputed"] <= 0.4 * seen["cases"], tally
    assert seen["statements"] > 2 * seen["statements that broke a rule"], tally
    for operator in ("join", "aggregate", "distinct", "subquery", "cte", "union all", "having"):
        assert seen[operator] >= 0.02 * count, f"{operator}: {tally}"


@pytest.mark.slow
def test_random_queries_stay_equal_on_postgresql(database: Node, property_cases: int, property_seed: int) -> None:
    with _player(database) as player:
        _assert_worth_something(_play(player, property_cases, property_seed, on_citus=False), property_cases)


@pytest.mark.slow
@pytest.mark.citus(">= 13")
def test_random_queries_stay_equal_on_citus(citus_database: Cluster, property_cases: int, property_seed: int) -> None:
    count = max(1, property_cases // 5)
    with _player(citus_database.coordinator, on_citus=True) as player:
        _assert_worth_something(_play(player, count, property_seed, on_citus=True), count)


def test_queries_without_an_incremental_form_are_refused_as_such_and_recomputed(
    database: Node, property_cases: int, property_seed: int
) -> None:
    with _player(database) as player:
        count = max(20, property_cases // 10)
        tally = _play(player, count, property_seed, on_citus=False, is_incremental=False)
    assert tally.seen["refresh FULL"] > count / 2, tally
    assert not tally.seen["refresh DIFFERENTIAL"], tally
