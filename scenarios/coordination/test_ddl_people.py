"""DDL by people who own a source and nothing else, inside functions, on families of tables; names that swap."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from harness.postgres import Node
from scenarios.coordination.ddl_shop import NAMES, Shop, open_shop


@pytest.fixture
def shop(database: Node) -> Iterator[Shop]:
    with open_shop(database, "plain") as opened:
        yield opened


def test_the_owner_of_a_source_needs_no_other_right(shop: Shop) -> None:
    """And may drop a stream table that was given to them."""
    role = f"clerk_{abs(hash(shop.node.dsn())) % 10**9}"
    shop.run(f"CREATE ROLE {role}")
    try:
        shop.run(
            f"ALTER TABLE orders OWNER TO {role}; ALTER TABLE totals OWNER TO {role}; ALTER TABLE notes OWNER TO {role}"
        )
        shop.run(f"GRANT ALL ON SCHEMA public TO {role}")
        shop.run(f"SET ROLE {role}")
        shop.write()
        shop.run("ALTER TABLE orders RENAME COLUMN amount TO price")
        shop.run("ALTER TABLE orders RENAME TO sales")
        shop.run("ALTER TABLE sales ALTER COLUMN price TYPE numeric")
        with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="totals"):
            shop.run("ALTER TABLE sales DROP COLUMN price")
        shop.run("ALTER TABLE totals RENAME COLUMN total TO sum")
        shop.table = "public.sales"
        shop.write()
        shop.run("RESET ROLE")
        assert shop.marked() == {"totals"}
        for name in NAMES:
            shop.refresh(name)
        shop.run(f"SET ROLE {role}")
        shop.run("DROP TABLE totals")
        shop.run("DROP TABLE notes")
        shop.write()
        shop.run("RESET ROLE")
        assert shop.tracked() == set()
        assert shop.value("SELECT count(*) FROM pgtrickle.pgt_refresh_history") == 0
        assert shop.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pg_trickle%'") == 0
    finally:
        shop.run("RESET ROLE")
        shop.run(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_two_tables_swap_their_names(shop: Shop) -> None:
    """As a view would, the query goes on reading the table that it read."""
    shop.write()
    shop.run("CREATE TABLE fresh (LIKE orders INCLUDING ALL)")
    with shop.connection.transaction():
        shop.run("ALTER TABLE orders RENAME TO old")
        shop.run("ALTER TABLE fresh RENAME TO orders")
    shop.table = "public.old"
    shop.write()
    shop.run("INSERT INTO orders (id, customer) VALUES (1, 1)")
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"
    shop.run("DROP TABLE old")
    assert shop.why("totals")[0] == "ERROR"


def test_one_query_that_names_a_table_twice_and_all_of_its_row(shop: Shop) -> None:
    query = "SELECT a.id, b.note, b::text AS whole FROM orders a JOIN orders b ON a.customer = b.id WHERE a.amount > 20"
    shop.tables.create("twice", query, None, "AUTO", "local")
    shop.write()
    shop.run("ALTER TABLE orders RENAME COLUMN note TO remark")
    shop.run("ALTER TABLE orders RENAME TO o")
    shop.run("ALTER TABLE o RENAME COLUMN remark TO note")
    shop.table = "public.o"
    shop.write()
    shop.refresh("twice")
    shop.run("ALTER TABLE o ADD COLUMN more int DEFAULT 4")
    assert shop.marked() == {"twice"}, "its rows as a whole are others now"
    shop.write()
    shop.refresh("twice")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="twice"):
        shop.run("ALTER TABLE o DROP COLUMN spare")
    shop.write()
    shop.refresh("twice")


def test_a_partition_that_is_read_by_itself_follows_its_parent(shop: Shop) -> None:
    shop.run("CREATE TABLE parts (id int, v int) PARTITION BY RANGE (id)")
    shop.run("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)")
    shop.run("INSERT INTO parts SELECT i, i % 5 FROM generate_series(0, 99) i")
    shop.tables.create("one", "SELECT v, count(*) AS n FROM parts_1 GROUP BY v", None, "AUTO", "local")
    shop.run("UPDATE parts SET v = v + 1 WHERE id < 20")
    shop.run("ALTER TABLE parts RENAME COLUMN v TO w")
    shop.run("UPDATE parts SET w = w + 1 WHERE id < 10")
    shop.refresh("one")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="one"):
        shop.run("ALTER TABLE parts DROP COLUMN w")
    shop.run("ALTER TABLE parts ALTER COLUMN w TYPE bigint")
    shop.run("DELETE FROM parts WHERE id > 90")
    assert shop.refresh("one") == "REINITIALIZE"


def test_a_drop_inside_a_function_whose_text_is_not_to_be_seen(shop: Shop) -> None:
    """A function written in SQL: it goes through, and the stream table says why it is in ERROR."""
    shop.run("CREATE FUNCTION tidy() RETURNS void LANGUAGE sql AS 'ALTER TABLE orders DROP COLUMN amount'")
    shop.run("SELECT tidy()")
    status, reason = shop.why("totals")
    assert (status, "column amount of public.orders" in reason) == ("ERROR", True)
    shop.write()
    assert shop.refresh("notes") == "DIFFERENTIAL"


def test_a_prepared_transaction_with_ddl_in_it(shop: Shop) -> None:
    """Nothing that a hook does keeps a transaction from being prepared (a temporary view would)."""
    shop.write()
    if shop.value("SELECT current_setting('max_prepared_transactions')") == "0":
        pytest.skip("not_applicable: this server prepares nothing")
    shop.run("BEGIN")
    shop.run("ALTER TABLE orders RENAME COLUMN amount TO price")
    shop.run("ALTER TABLE orders ALTER COLUMN price TYPE bigint")
    shop.run("PREPARE TRANSACTION 'ddl'")
    shop.run("COMMIT PREPARED 'ddl'")
    shop.write()
    for name in NAMES:
        shop.refresh(name)
