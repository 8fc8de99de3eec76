"""Transactions, savepoints, writers at once: what was committed is followed, what was not leaves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import LiteralString

import pytest
from psycopg import sql

from scenarios.beside.shops import Shop
from scenarios.beside.sources import Source, make, read
from scenarios.capture import test_transactions
from scenarios.capture.capturing import Written

QUERIES: dict[str, LiteralString] = {
    "rows": "SELECT id, v FROM {t}",
    "groups": "SELECT v, count(*) AS c, max(id) AS m FROM {t} GROUP BY v",
}
WRITES: dict[str, Callable[[Written], None]] = {
    "many statements": test_transactions.write_many_statements,
    "rolled back": test_transactions.write_and_roll_back,
    "failed": test_transactions.write_and_fail,
    "savepoints": test_transactions.write_between_savepoints,
}


@pytest.fixture
def source(shop: Shop) -> Iterator[Source]:
    with read(make(shop, test_transactions.COLUMNS, test_transactions.ROWS), QUERIES) as made:
        yield made


@pytest.mark.parametrize("write", WRITES)
def test_transaction_is_followed(source: Source, write: str) -> None:
    WRITES[write](source)
    source.refreshed()
    source.run("UPDATE {t} SET v = v || '-' WHERE id % 3 = 0")
    source.refreshed()


def test_writers_at_the_same_time_are_all_followed(source: Source, shop: Shop) -> None:
    came = test_transactions.write_from_four_sessions(shop.cluster.coordinator, source.table)
    assert shop.connection.execute("SELECT count(*) FROM source").fetchone() == (40 + came,)
    source.refreshed()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_transaction_that_holds_a_snapshot_is_followed(source: Source, shop: Shop, level: LiteralString) -> None:
    """It reads what others have changed since as it was, and writes something else."""
    with shop.cluster.coordinator.connect(autocommit=False) as other:
        other.execute(sql.SQL("SET TRANSACTION ISOLATION LEVEL {}").format(sql.SQL(level)))
        other.execute("SELECT count(*) FROM source")
        source.run("UPDATE {t} SET v = 'other' WHERE id <= 10")
        other.execute("UPDATE source SET v = 'late' WHERE id > 30")
        other.commit()
    source.refreshed()


def test_refresh_after_a_session_that_was_a_replica_is_followed_from_then_on(source: Source, shop: Shop) -> None:
    """What a replica's session writes fires no ordinary trigger, so a refresh cannot know of it (in either engine)."""
    source.run("SET session_replication_role = replica")
    source.run("UPDATE {t} SET v = 'unseen' WHERE id = 1")
    source.run("RESET session_replication_role")
    for name in source.readers:
        shop.tables.refresh(name)
        assert not shop.tables.difference(name).is_equal, "a trigger would have told"
    source.run("UPDATE {t} SET v = 'seen' WHERE id = 2")
    for name in source.readers:
        shop.tables.refresh(name)
    assert shop.connection.execute("SELECT v FROM rows WHERE id = 2").fetchone() == ("seen",)
