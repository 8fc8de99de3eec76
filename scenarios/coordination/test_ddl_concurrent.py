"""DDL while others write, refresh and look: no write fails; where a lock is in the way capture is made anew later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness.errors import HarnessError
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.waiting import wait_until
from scenarios.coordination.ddl_shop import NAMES, Shop, open_shop, open_where, placements

COMMANDS = (
    "ALTER TABLE orders ADD COLUMN more int DEFAULT 1",
    "ALTER TABLE orders RENAME COLUMN amount TO price",
    "ALTER TABLE orders ALTER COLUMN spare TYPE bigint",
    "ALTER TABLE orders ALTER COLUMN note TYPE varchar(200)",
    "ALTER TABLE orders RENAME COLUMN price TO amount",
    "ALTER TABLE orders DROP COLUMN more",
    "ALTER TABLE orders ALTER COLUMN amount TYPE bigint",
    "ALTER TABLE orders DROP COLUMN spare",
)


@pytest.fixture(params=placements("plain", "reference", "distributed"))
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with open_shop(open_where(request, request.param), request.param) as opened:
        yield opened


def write(node: Node, first: int, enough: threading.Event) -> int:
    """Rows come and change until it is enough; how many came. Nothing may fail."""
    number = first
    with node.connect() as connection:
        while not enough.is_set():
            connection.execute("INSERT INTO orders (id, customer, note) VALUES (%s, %s, 'w')", [number, number % 9])
            connection.execute("UPDATE orders SET note = note || 'x' WHERE id = %s", [number - 20])
            number += 2
    return (number - first) // 2


def refresh(node: Node, enough: threading.Event) -> int:
    """Refreshes that went through; one that meets DDL may fail, and says so."""
    count = 0
    with node.connect() as connection, StreamTables(connection, errors_until_error=1000) as tables:
        while not enough.is_set():
            for name in NAMES:
                try:
                    tables.refresh(name)
                    count += 1
                except (HarnessError, psycopg.Error):
                    continue
    return count


def rows_come(shop: Shop) -> None:
    """Wait until a writer has gone on."""
    before = shop.value("SELECT count(*) FROM orders")
    wait_until("rows to come", lambda: shop.value("SELECT count(*) FROM orders") != before, deadline_s=30)


def test_ddl_while_two_write_and_one_refreshes(shop: Shop) -> None:
    enough = threading.Event()
    before = shop.value("SELECT count(*) FROM orders")
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, shop.node, 100_001 + place, enough) for place in range(2)]
        refreshing = pool.submit(refresh, shop.node, enough)
        try:
            for command in COMMANDS:
                shop.run(command)
                rows_come(shop)
        finally:
            enough.set()
        came = sum(writer.result() for writer in writers)
    assert refreshing.result() > 0
    assert isinstance(before, int)
    assert shop.value("SELECT count(*) FROM orders") == before + came
    for _ in range(2):
        for name in NAMES:
            shop.refresh(name)
    assert shop.value("SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE status = 'ACTIVE'") == 2
    shop.run("UPDATE orders SET customer = customer + 1 WHERE id % 7 = 0")
    for name in NAMES:
        assert shop.refresh(name) in {"DIFFERENTIAL", "NO_DATA"}


def test_a_lock_on_the_buffer_makes_capture_wait_and_not_the_owner(shop: Shop) -> None:
    shop.write()
    with shop.node.connect() as other, other.transaction():
        other.execute("LOCK TABLE pgtrickle_changes.changes_d6ad704b2cddddcd IN ACCESS SHARE MODE")
        shop.run("SET lock_timeout = '300ms'")
        shop.run("ALTER TABLE orders ADD COLUMN more int")
        shop.run("RESET lock_timeout")
        shop.write()
    assert shop.marked() == set(NAMES)
    assert shop.why("totals")[0] == "ACTIVE"
    assert "has to be made anew" in shop.why("totals")[1]
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "REINITIALIZE"
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"
