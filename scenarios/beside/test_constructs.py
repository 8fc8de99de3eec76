"""Each construct of the engine's scenarios on both engines: made, changed three times, equal to its query each time."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from harness.engines import OURS, Engine
from harness.errors import RefusedError
from scenarios.beside.expected import INCREMENTAL_CONSTRUCTS, RECOMPUTED_CONSTRUCTS
from scenarios.beside.shops import Shop, each_of, open_shop
from scenarios.engine import test_constructs, test_constructs_by_name
from scenarios.fixtures.skips import skip_not_applicable

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


@pytest.mark.parametrize("query", each_of(INCREMENTAL, INCREMENTAL_CONSTRUCTS, test_constructs_by_name.SINCE))
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


@pytest.mark.parametrize("function", test_constructs_by_name.VOLATILE)
def test_volatile_function_is_not_kept_by_deltas(shop: Shop, function: str) -> None:
    shop.connection.execute("CREATE SEQUENCE tickets")
    shop.connection.execute(b"CREATE VIEW lots AS SELECT id, " + function.encode() + b" AS lot FROM orders")
    with pytest.raises(RefusedError):
        shop.tables.create("lottery", "SELECT id, lot FROM lots", mode="DIFFERENTIAL")


def test_collation_that_equates_different_texts_follows_in_some_way(shop: Shop) -> None:
    try:
        shop.connection.execute(test_constructs_by_name.LOOSE)
    except psycopg.errors.FeatureNotSupported:
        skip_not_applicable("PostgreSQL was built without ICU, and only its collations can be non-deterministic")
    with shop.kept(test_constructs_by_name.BY_LOOSE_NOTE, "AUTO"):
        for note in ("upper(note)", "NULL", "'New'"):
            shop.connection.execute(b"UPDATE orders SET note = " + note.encode() + b" WHERE id % 4 = 0")
            shop.refreshed("stream")
