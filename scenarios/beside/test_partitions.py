"""Partitioned sources on both engines: rows come in through the parent, through a partition, and move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

import pytest

from scenarios.beside.shops import Shop
from scenarios.beside.sources import Source, make, read
from scenarios.capture import test_partitions

QUERIES: dict[str, LiteralString] = {
    "rows": "SELECT id, day, v FROM {t}",
    "days": "SELECT day, count(*) AS n, max(v) AS m FROM {t} GROUP BY day",
}


@pytest.fixture
def table(shop: Shop) -> Source:
    """January and February."""
    made = make(shop, test_partitions.COLUMNS)
    test_partitions.make_partitions(shop.connection, made.name)
    made.run(test_partitions.ROWS)
    return made


@pytest.fixture
def source(table: Source) -> Iterator[Source]:
    with read(table, QUERIES) as made:
        yield made


def test_writes_through_the_parent_are_followed(source: Source) -> None:
    source.run("INSERT INTO {t} SELECT i, date '2026-01-01' + i % 60, 'new' FROM generate_series(100, 159) i")
    source.refreshed()
    source.run("UPDATE {t} SET v = v || '!'")
    source.run("DELETE FROM {t} WHERE id % 3 = 0")
    source.refreshed()


@pytest.mark.pg_trickle(
    "lost",
    match=r"^after NO_DATA: 30 rows missing, 0 extra",
    reason="0.67 does not see what is written to a partition: 30 of 30 rows, without an error",
)
def test_writes_to_a_partition_are_followed(source: Source) -> None:
    source.run("INSERT INTO source_jan SELECT i, '2026-01-05', 'p' FROM generate_series(100, 129) i")
    source.refreshed()
    source.run("UPDATE source_jan SET v = v || '?' WHERE id >= 100")
    source.run("DELETE FROM source_jan WHERE id % 2 = 0")
    source.refreshed()


def test_rows_that_move_between_partitions_are_followed(source: Source) -> None:
    source.run("UPDATE {t} SET day = day + 31 WHERE day < '2026-02-01'")
    source.refreshed()


@pytest.mark.pg_trickle(
    "wrong",
    match=r"^after DIFFERENTIAL: 9 rows missing, 9 extra",
    reason="0.67 does not see what is written to a partition: 9 of 9 rows, without an error",
)
def test_partition_made_later_is_followed(source: Source) -> None:
    source.run("CREATE TABLE source_mar PARTITION OF {t} FOR VALUES FROM ('2026-03-05') TO ('2026-04-01')")
    source.run("INSERT INTO {t} SELECT i, '2026-03-10', 'later' FROM generate_series(200, 219) i")
    source.run("UPDATE source_mar SET v = 'direct' WHERE id > 210")
    source.refreshed()


@pytest.mark.pg_trickle(
    "wrong",
    match=r"^after NO_DATA: 0 rows missing, 31 extra",
    reason="0.67 does not see that a partition is emptied: 31 of 31 rows stay, without an error",
)
def test_truncate_of_a_partition_is_not_missed(source: Source) -> None:
    source.run("TRUNCATE source_jan")
    source.refreshed()


@pytest.mark.pg_trickle(
    "lost",
    match=r"^after DIFFERENTIAL: 38 rows missing, 0 extra",
    reason="0.67 does not see what comes into a partition through its parent: 38 rows, without an error",
)
def test_partition_that_is_itself_the_source_sees_its_own_rows_only(table: Source) -> None:
    with (
        read(table, QUERIES),
        read(Source(table.shop, "source_feb", ()), {"own": "SELECT id, day, v FROM {t}"}) as partition,
    ):
        table.run("INSERT INTO {t} SELECT i, date '2026-01-01' + i % 60, 'both' FROM generate_series(300, 359) i")
        table.run("UPDATE {t} SET day = day + 31 WHERE day < '2026-01-10'")
        partition.run("DELETE FROM {t} WHERE id % 5 = 0")
        for name in ("own", *QUERIES):
            table.shop.refreshed(name)
