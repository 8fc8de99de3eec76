"""Partitions of a captured source are made, attached, detached, dropped and emptied while changes are pending."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.trickle import StreamTables
from scenarios.coordination.ddl_shop import Shop, open_where, placements

TABLES = """
CREATE TABLE parts (id int NOT NULL, at date NOT NULL, v int) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
CREATE TABLE other (id int NOT NULL, at date NOT NULL, v int)"""
MONTHS = "SELECT extract(month FROM at) AS m, count(*) AS n, sum(v) AS s FROM parts GROUP BY 1"
ROWS = """
INSERT INTO parts SELECT i, date '2026-01-01' + i, i FROM generate_series(0, 299) i;
INSERT INTO other SELECT i, '2028-02-02', i FROM generate_series(1000, 1010) i"""
WRITES = """
UPDATE parts SET v = v + 1 WHERE id % 10 = 0;
INSERT INTO parts SELECT i, date '2026-01-05', 1 FROM generate_series(500, 505) i;
DELETE FROM parts WHERE id % 17 = 3"""
# What is run, and whether rows came or went that no statement tells.
CASES = {
    "made": ("CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')", False),
    "attached": ("ALTER TABLE parts ATTACH PARTITION other FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')", True),
    "detached": ("ALTER TABLE parts DETACH PARTITION parts_2", True),
    "dropped": ("DROP TABLE parts_2", True),
    "emptied": ("TRUNCATE parts_2", True),
    "renamed": ("ALTER TABLE parts RENAME COLUMN v TO w", False),
    "altered": ("ALTER TABLE parts ALTER COLUMN v TYPE bigint", True),
}


@pytest.fixture(params=placements("plain", "local", "distributed"))
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    where = open_where(request, request.param)
    node = where.coordinator if isinstance(where, Cluster) else where
    upgrade(node.dsn())
    with node.connect() as connection, node.connect() as session, StreamTables(session) as tables:
        connection.execute(TABLES.encode())
        if request.param == "distributed":
            for table in ("parts", "other"):
                connection.execute("SELECT create_distributed_table(%s, 'id', shard_count => 4)", [table])
        for statement in ROWS.split(";"):
            connection.execute(statement.encode())
        tables.create(
            "months", "SELECT extract(month FROM at) AS m, count(*) AS n, sum(v) AS s FROM parts GROUP BY 1", None
        )
        yield Shop(node, (node,), connection, tables, request.param, "parts")


@pytest.mark.parametrize("what", CASES)
def test_partition_comes_or_goes_with_changes_pending(shop: Shop, what: str) -> None:
    statement, is_anew = CASES[what]
    writes = [one.replace("SET v = v", "SET w = w") if what == "renamed" else one for one in WRITES.split(";")]
    for one in WRITES.split(";"):
        shop.run(one)
    shop.run(statement)
    for one in writes:
        shop.run(one)
    if what == "detached":
        shop.run("UPDATE parts_2 SET v = 0")  # nobody's any more
    action = shop.refresh("months")
    assert (action in {"REINITIALIZE", "FULL"}) == is_anew, shop.why("months")
    for one in writes:
        shop.run(one)
    shop.refresh("months")
    assert shop.marked() == set()
    if what == "made":
        shop.run("INSERT INTO parts SELECT i, '2027-03-03', 1 FROM generate_series(900, 905) i")
    if what == "attached":
        shop.run("INSERT INTO other SELECT i, '2028-03-03', 1 FROM generate_series(900, 905) i")
    if what in {"made", "attached"}:
        shop.tables.refresh("months", mode="DIFFERENTIAL")
        shop.refresh("months")
