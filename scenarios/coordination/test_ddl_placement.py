"""Where a source is kept changes: whatever Citus calls it, writers go on, and one refresh fills the readers anew."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from harness.clusters import Cluster
from harness.trickle.oracle import assert_equal
from scenarios.coordination.ddl_shop import NAMES, Shop, open_shop

pytestmark = pytest.mark.citus(">= 14")

RELEASE = "BEGIN; SELECT pgtrickle.release_capture('orders'); {} COMMIT"
# Where orders is, what is done, where it is then.
CASES = {
    "undistribute": ("distributed", "SELECT undistribute_table('orders')", "local"),
    "undistribute a reference": ("reference", "SELECT undistribute_table('orders')", "local"),
    "more shards": (
        "distributed",
        "SELECT alter_distributed_table('orders', shard_count := 8, cascade_to_colocated := true)",
        "distributed",
    ),
    "more shards, alone": (
        "distributed",
        "SELECT alter_distributed_table('orders', shard_count := 6, cascade_to_colocated := false)",
        "distributed",
    ),
    "another column": (
        "distributed",
        (
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey;"
            " SELECT alter_distributed_table('orders', distribution_column := 'amount')"
        ),
        "distributed",
    ),
    "distribute": ("local", RELEASE.format("SELECT create_distributed_table('orders', 'id');"), "distributed"),
    "distribute, one shard": (
        "local",
        RELEASE.format("SELECT create_distributed_table('orders', NULL);"),
        "distributed",
    ),
    "reference": ("local", RELEASE.format("SELECT create_reference_table('orders');"), "reference"),
    "managed": ("local", "SELECT citus_add_local_table_to_metadata('orders')", "local"),
    "managed, and not": (
        "local",
        "SELECT citus_add_local_table_to_metadata('orders'); SELECT undistribute_table('orders')",
        "local",
    ),
    "foreign key": (
        "local",
        (
            "CREATE TABLE kinds (k int PRIMARY KEY); SELECT create_reference_table('kinds');"
            " ALTER TABLE orders ADD FOREIGN KEY (spare) REFERENCES kinds (k)"
        ),
        "local",
    ),
}


@pytest.fixture
def shop(citus_database: Cluster, request: pytest.FixtureRequest) -> Iterator[Shop]:
    with open_shop(citus_database, request.param) as opened:
        yield opened


@pytest.mark.parametrize(
    ("shop", "statements", "becomes"), [pytest.param(*case, id=name) for name, case in CASES.items()], indirect=["shop"]
)
def test_placement_changes_with_changes_pending(shop: Shop, statements: str, becomes: str) -> None:
    shop.write()
    for statement in statements.split("; "):
        shop.run(statement)
    assert shop.marked() == set(NAMES)
    assert shop.value("SELECT pgtrickle.placement_of('orders'::regclass)") == becomes
    assert shop.value("SELECT bool_and(status = 'ACTIVE') FROM pgtrickle.pgt_stream_tables")
    shop.write()
    assert shop.refresh("totals") == "REINITIALIZE"
    shop.write()
    assert shop.refresh("notes") == "REINITIALIZE"
    for _ in range(2):
        shop.write()
        for name in NAMES:
            assert shop.refresh(name) == "DIFFERENTIAL"
    for name in NAMES:
        shop.tables.drop(name)
    assert shop.tracked() == set()
    shop.write()


@pytest.mark.parametrize("shop", ["local"], indirect=True)
@pytest.mark.parametrize("how", ["create_distributed_table('orders', 'id')", "create_reference_table('orders')"])
def test_citus_distributes_no_table_with_triggers_and_its_hint_is_safe_to_follow(shop: Shop, how: str) -> None:
    """It refuses, as for any trigger. Whoever then drops them as it says gets stream tables that know of it."""
    shop.write()
    with pytest.raises(psycopg.errors.InternalError_, match="because it has triggers"):
        shop.run(f"SELECT {how}")
    assert shop.marked() == set()
    assert shop.refresh("totals") == "DIFFERENTIAL"
    names = shop.connection.execute(
        "SELECT format('DROP TRIGGER %I ON orders', tgname) FROM pg_trigger WHERE tgrelid = 'orders'::regclass"
        " AND NOT tgisinternal"
    ).fetchall()
    for (statement,) in names:
        shop.run(statement)
    shop.write()
    shop.run(f"SELECT {how}")
    assert shop.marked() == set(NAMES)
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "REINITIALIZE"
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"


@pytest.mark.parametrize("shop", ["distributed"], indirect=True)
def test_a_colocated_buffer_makes_citus_ask_what_to_do_with_it(shop: Shop) -> None:
    """The one thing that capture changes for alter_distributed_table: the table is not alone in its group."""
    with pytest.raises(psycopg.errors.InternalError_, match="cascade_to_colocated parameter is necessary"):
        shop.run("SELECT alter_distributed_table('orders', shard_count := 8)")
    shop.write()
    for name in NAMES:
        assert shop.refresh(name) == "DIFFERENTIAL"


@pytest.mark.parametrize("shop", ["distributed"], indirect=True)
def test_the_stream_tables_own_storage_moves(shop: Shop) -> None:
    """It goes on under its new OID; it is filled anew, since how a delta gets in is another matter there."""
    shop.tables.create(
        "away", "SELECT customer, count(*) AS n FROM orders GROUP BY 1", None, "DIFFERENTIAL", "distributed"
    )
    shop.tables.create("above", "SELECT n, count(*) AS c FROM away GROUP BY 1", None, "DIFFERENTIAL", "local")
    shop.write()
    shop.run("SELECT alter_distributed_table('away', shard_count := 6, cascade_to_colocated := false)")
    for _ in range(2):
        shop.write()
        shop.refresh("away")
        shop.refresh("above")
    shop.run("SELECT undistribute_table('away')")
    for _ in range(2):
        shop.write()
        shop.refresh("away")
        shop.refresh("above")
    assert shop.refresh("away") == "NO_DATA"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="only a refresh writes"):
        shop.run("DELETE FROM away")
    shop.tables.drop("away", cascade=True)
    assert_equal(shop.connection, "totals") if shop.refresh("totals") else None


@pytest.mark.parametrize("shop", ["distributed"], indirect=True)
def test_a_view_between_the_table_and_its_reader_is_made_again(shop: Shop) -> None:
    """Citus drops the views on a table that it converts, and makes them again under other OIDs."""
    shop.run("CREATE VIEW seen AS SELECT id, customer, amount AS price FROM orders WHERE id > 5")
    shop.tables.create("over", "SELECT customer, sum(price) AS s FROM seen GROUP BY 1", None, "DIFFERENTIAL", "local")
    shop.write()
    shop.run("SELECT undistribute_table('orders')")
    assert shop.why("over")[0] == "ACTIVE"
    shop.write()
    assert shop.refresh("over") == "REINITIALIZE"
    shop.run("CREATE OR REPLACE VIEW seen AS SELECT id, customer, amount + 1 AS price FROM orders")
    assert "over" in shop.marked(), "the new view is the one that is watched"
    shop.write()
    assert shop.refresh("over") == "REINITIALIZE"
    shop.write()
    assert shop.refresh("over") == "DIFFERENTIAL"


@pytest.mark.parametrize("shop", ["distributed"], indirect=True)
@pytest.mark.parametrize("storage", ["reference", "distributed"])
def test_types_of_storage_on_the_workers_follow(shop: Shop, storage: str) -> None:
    shop.tables.create(
        "away", "SELECT customer, sum(amount) AS t FROM orders GROUP BY 1", None, "DIFFERENTIAL", storage
    )
    shop.tables.create("rows", "SELECT id, amount, note FROM orders", None, "DIFFERENTIAL", storage)
    shop.write()
    shop.run("ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12, 3) USING amount * 1.5")
    shop.write()
    for name in ("away", "rows"):
        assert shop.refresh(name) == "REINITIALIZE"
    shop.run("ALTER TABLE orders ALTER COLUMN note TYPE bytea USING note::bytea")
    shop.run("UPDATE orders SET note = NULL WHERE id % 5 = 0")
    for name in ("away", "rows"):
        shop.refresh(name)
    shop.run("DELETE FROM orders WHERE id % 7 = 0")
    for name in ("away", "rows"):
        assert shop.refresh(name) == "DIFFERENTIAL"
