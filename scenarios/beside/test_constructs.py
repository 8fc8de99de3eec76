"""Each construct of the engine's scenarios on both engines: made, changed three times, equal to its query each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.engines import OURS, Engine
from scenarios.beside.expected import INCREMENTAL_CONSTRUCTS, RECOMPUTED_CONSTRUCTS
from scenarios.beside.shops import Shop, each_of, open_shop
from scenarios.engine import test_constructs, test_constructs_by_name

ROUNDS = 3
INCREMENTAL = {**test_constructs.INCREMENTAL, **test_constructs_by_name.INCREMENTAL}
RECOMPUTED = {
    **test_constructs.RECOMPUTED,
    **{construct: query for construct, (query, _word) in test_constructs_by_name.RECOMPUTED.items()},
}


@pytest.fixture
def shop(stream_engine: Engine, request: pytest.FixtureRequest) -> Iterator[Shop]:
    surroundings = (test_constructs.SURROUNDINGS, test_constructs_by_name.SURROUNDINGS)
    with open_shop(stream_engine, request, *surroundings, more_changes=(test_constructs_by_name.MORE_CHANGES,)) as made:
        yield made


@pytest.mark.parametrize("query", each_of(INCREMENTAL, INCREMENTAL_CONSTRUCTS))
def test_incremental_construct_follows_its_changes(shop: Shop, query: str) -> None:
    with shop.kept(query, "DIFFERENTIAL"):
        for _round in range(ROUNDS):
            shop.change()
            done = shop.refreshed("stream")
            assert shop.engine is not OURS or done.action == "DIFFERENTIAL", done.reason


@pytest.mark.parametrize("query", each_of(RECOMPUTED, RECOMPUTED_CONSTRUCTS))
def test_other_construct_follows_its_changes_in_some_way(shop: Shop, query: str) -> None:
    with shop.kept(query, "AUTO"):
        for _round in range(ROUNDS):
            shop.change()
            done = shop.refreshed("stream")
            assert shop.engine is not OURS or done.action == "FULL", done.reason
