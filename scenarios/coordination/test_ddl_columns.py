"""ALTER TABLE on a captured source: what a query uses marks it, what it does not use leaves it alone."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from harness.errors import QueryRefusedError
from scenarios.coordination.ddl_shop import NAMES, PLACEMENTS, Shop, open_shop, open_where, placements

# What is run, what orders is called afterwards, and who has to be filled anew.
CASES: dict[str, tuple[str, str, set[str]]] = {
    "add": ("ALTER TABLE orders ADD COLUMN extra int NOT NULL DEFAULT 3", "public.orders", set()),
    "drop unused": ("ALTER TABLE orders DROP COLUMN spare", "public.orders", set()),
    "rename unused": ('ALTER TABLE orders RENAME COLUMN spare TO "Spä\'re"', "public.orders", set()),
    "rename used": ('ALTER TABLE orders RENAME COLUMN amount TO "Pr""ice"', "public.orders", set()),
    "type of unused": ("ALTER TABLE orders ALTER COLUMN spare TYPE text", "public.orders", set()),
    "type": (
        "ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12, 3) USING amount * 1.5",
        "public.orders",
        {"totals"},
    ),
    "type of a row": ("ALTER TABLE orders ALTER COLUMN note TYPE varchar(40)", "public.orders", {"notes"}),
    "not null": ("ALTER TABLE orders ALTER COLUMN amount SET NOT NULL", "public.orders", {"totals"}),
    "primary key": ("ALTER TABLE orders DROP CONSTRAINT orders_pkey", "public.orders", set(NAMES)),
    "rename": ("ALTER TABLE orders RENAME TO \"Or.ders 'x'\"", "public.\"Or.ders 'x'\"", set()),
    "move": ('CREATE SCHEMA "Ä b"; ALTER TABLE orders SET SCHEMA "Ä b"', '"Ä b".orders', set()),
    "move twice": (
        "CREATE SCHEMA a; ALTER TABLE orders SET SCHEMA a; ALTER SCHEMA a RENAME TO b",
        "b.orders",
        set(),
    ),
    "back and forth": (
        (
            "ALTER TABLE orders RENAME TO o; ALTER TABLE o RENAME TO orders; ALTER TABLE orders RENAME COLUMN id TO k;"
            " ALTER TABLE orders RENAME COLUMN k TO id"
        ),
        "public.orders",
        set(),
    ),
}


@pytest.fixture(params=placements(*PLACEMENTS))
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with open_shop(open_where(request, request.param), request.param) as opened:
        yield opened


@pytest.mark.parametrize("what", CASES)
def test_alter_table_with_changes_pending_and_writers_going_on(shop: Shop, what: str) -> None:
    statements, table, marked = CASES[what]
    shop.write()  # pending when the DDL comes
    for statement in statements.split("; "):
        shop.run(statement)
    shop.table = table
    assert shop.marked() == marked
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == ("REINITIALIZE" if name in marked else "DIFFERENTIAL"), shop.why(name)
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL", "filled anew once, and not again"
    assert shop.marked() == set()


@pytest.mark.parametrize("is_one", [True, False], ids=["one transaction", "rolled back"])
def test_ddl_and_writes_in_one_transaction(shop: Shop, is_one: bool) -> None:
    if shop.placement != "plain":
        shop.run("SET citus.multi_shard_modify_mode = 'sequential'")
    with shop.connection.transaction(force_rollback=not is_one):
        shop.write()
        shop.run("ALTER TABLE orders RENAME COLUMN customer TO client")
        shop.run("UPDATE orders SET client = client + 1 WHERE id % 3 = 0")
        shop.run("ALTER TABLE orders RENAME COLUMN client TO customer")
        shop.run("ALTER TABLE orders ALTER COLUMN amount TYPE bigint")
        shop.write()
    assert shop.marked() == ({"totals"} if is_one else set())
    shop.write()
    for name in NAMES:
        shop.refresh(name)


DROPS = {
    "statement": "ALTER TABLE orders DROP COLUMN amount{}",
    "block": "DO $$ BEGIN ALTER TABLE orders DROP COLUMN amount{}; END $$",
    "dynamic": "DO $$ BEGIN EXECUTE 'ALTER TABLE orders DROP COLUMN amount{}'; END $$",
    "with others": "ALTER TABLE orders ADD COLUMN later int, DROP COLUMN amount{} /* no cascade here */",
}


@pytest.mark.parametrize("how", DROPS)
def test_a_used_column_is_not_dropped_without_cascade(shop: Shop, how: str) -> None:
    shop.write()
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match=r"column amount .*public\.totals") as refused:
        shop.run(DROPS[how].format(""))
    assert "notes" not in str(refused.value)
    assert "harness st" in (refused.value.diag.message_hint or "")
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"
    shop.run(DROPS[how].format(" CASCADE"))
    status, reason = shop.why("totals")
    assert status == "ERROR"
    assert "column amount of public.orders" in reason
    shop.write()
    assert shop.refresh("notes") == "DIFFERENTIAL", "it does not use the column"
    with pytest.raises(QueryRefusedError, match="amount"):
        shop.tables.refresh("totals")
    shop.tables.alter("totals", query="SELECT customer, count(*) AS n FROM orders GROUP BY customer")
    shop.write()
    assert shop.refresh("totals") == "DIFFERENTIAL"


def test_truncate_is_seen_by_both(shop: Shop) -> None:
    shop.write()
    shop.run("TRUNCATE orders")
    shop.run("INSERT INTO orders (id, customer, note) SELECT i, i, 'after' FROM generate_series(1, 5) i")
    for name in NAMES:
        assert shop.refresh(name) in {"FULL", "REINITIALIZE"}
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"


def test_a_plan_of_before_the_ddl_is_not_used_by_another_session(shop: Shop) -> None:
    """Another session fills it anew; this one's plan is of before, and the catalog looks as it did."""
    shop.write()
    for name in NAMES:
        shop.refresh(name)
    shop.run("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    with shop.node.connect() as session, type(shop.tables)(session) as others:
        for name in NAMES:
            others.refresh(name)
    shop.run("INSERT INTO orders (id, customer, note) SELECT id, customer, note FROM orders WHERE id < 20")
    for name in NAMES:
        shop.refresh(name)
    shop.run("DELETE FROM orders WHERE id < 10")
    for name in NAMES:
        shop.refresh(name)


def test_a_source_that_is_dropped_and_made_again(shop: Shop) -> None:
    shop.write()
    shop.run("DROP TABLE orders")
    for name in NAMES:
        status, reason = shop.why(name)
        assert status == "ERROR"
        assert "public.orders, which its query reads, was dropped" in reason
        with pytest.raises(QueryRefusedError, match="orders"):
            shop.tables.refresh(name)
    shop.run("CREATE TABLE orders (customer int, amount int DEFAULT 2, id int PRIMARY KEY, note text)")
    for _ in range(2):
        shop.write()
        for name in NAMES:
            shop.refresh(name)
    assert shop.refresh("totals") == "NO_DATA"
    shop.write()
    assert shop.refresh("totals") == "DIFFERENTIAL"
    assert shop.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 1
