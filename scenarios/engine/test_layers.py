"""Stream tables over stream tables, on one server and distributed over distributed."""

from __future__ import annotations

import psycopg
import pytest

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.errors import RefusedError
from harness.postgres import Node
from harness.trickle import StreamTables
from scenarios.engine.shop import CHANGES, TOTALS, Connection, open_shop, refreshed

SPREAD = "SELECT n, count(*) AS customers, sum(total) AS total FROM totals GROUP BY n"
LARGE = "SELECT customer, n * 2 AS twice FROM totals WHERE total > 30"
SALES = (
    "CREATE TABLE orders (id int, customer int NOT NULL, amount numeric, PRIMARY KEY (customer, id))",
    "SELECT create_distributed_table('orders', 'customer', shard_count => 4)",
    "INSERT INTO orders SELECT i, i % 20, i % 7 FROM generate_series(1, 300) i",
)
SALES_CHANGES = (
    "UPDATE orders SET amount = amount + 1 WHERE id % 10 = 0",
    "DELETE FROM orders WHERE id % 25 = 1 OR customer = 3",
    "INSERT INTO orders SELECT (SELECT max(id) FROM orders) + i, i, i FROM generate_series(1, 5) i",
)


def change(connection: Connection) -> None:
    for statement in SALES_CHANGES:
        connection.execute(statement.encode())


def test_layers_follow_one_another_whatever_way_the_lower_one_took(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        stream_tables.create("spread", SPREAD, None, "DIFFERENTIAL")
        stream_tables.create("top", "SELECT max(customers) AS most FROM spread", None, "DIFFERENTIAL")
        for mode in (None, "FULL", None):
            connection.execute(CHANGES)
            assert refreshed(connection, stream_tables, "top").action == "NO_DATA", "what it reads has not moved"
            for name in ("totals", "spread", "top"):
                done = refreshed(connection, stream_tables, name, mode=mode if name == "totals" else None)
                assert done.action == (mode if mode and name == "totals" else "DIFFERENTIAL"), done.reason
        connection.execute("BEGIN; SET LOCAL pgtrickle.refreshing = 'on'; DELETE FROM totals WHERE n > 0; COMMIT")
        connection.execute("DELETE FROM orders WHERE customer = 5")
        assert refreshed(connection, stream_tables, "totals").action == "REINITIALIZE"
        for name in ("spread", "top"):
            refreshed(connection, stream_tables, name)


def test_stream_table_cannot_be_made_to_read_itself(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        with pytest.raises(RefusedError, match="itself"):
            stream_tables.alter("totals", query="SELECT customer, n, total FROM totals")
        connection.execute(CHANGES)
        assert refreshed(connection, stream_tables, "totals").action == "DIFFERENTIAL"


def test_view_on_a_stream_table_keeps_it_from_being_dropped(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        connection.execute("CREATE VIEW seen AS SELECT customer FROM totals")
        with pytest.raises(RefusedError, match="seen"):
            stream_tables.drop("totals")
        connection.execute(CHANGES)
        refreshed(connection, stream_tables, "totals")
        stream_tables.drop("totals", cascade=True)
        assert connection.execute("SELECT to_regclass('seen')").fetchone() == (None,)


def test_diamond_is_dropped_as_a_whole(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("first", TOTALS, None, "DIFFERENTIAL")
        stream_tables.create("second", "SELECT n, count(*) AS c FROM first GROUP BY n", None, "DIFFERENTIAL")
        stream_tables.create(
            "third", "SELECT f.customer, s.c FROM first f JOIN second s ON s.n = f.n", None, "DIFFERENTIAL"
        )
        stream_tables.drop("first", cascade=True)
        assert stream_tables.list() == []
        assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)


@pytest.mark.citus(">= 13")
def test_distributed_over_distributed(citus_database: Cluster) -> None:
    upgrade(citus_database.coordinator.dsn())
    with citus_database.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        for statement in SALES:
            connection.execute(statement.encode())
        totals = stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL", "distributed")
        spread = stream_tables.create("spread", SPREAD, None, "DIFFERENTIAL", "distributed")
        large = stream_tables.create("large", LARGE, None, "DIFFERENTIAL", "distributed")
        assert [table.distribution_column for table in (totals, spread, large)] == [
            "customer",
            "__pgt_row_id",
            "customer",
        ]
        together = connection.execute(
            "SELECT count(DISTINCT colocation_id) FROM citus_tables WHERE table_name::text IN ('orders', 'totals',"
            " 'large')"
        ).fetchone()
        assert together == (1,), "the layers' rows are beside those of the source"
        nodes = connection.execute(
            "SELECT count(DISTINCT (nodename, nodeport)) FROM citus_shards WHERE table_name::text = 'totals'"
        ).fetchone()
        assert nodes == (2,)
        for mode in (None, "FULL", None):
            change(connection)
            for name in ("totals", "spread", "large"):
                done = refreshed(connection, stream_tables, name, mode=mode if name == "totals" else None)
                assert done.action == (mode if mode and name == "totals" else "DIFFERENTIAL"), done.reason
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            connection.execute("DELETE FROM totals")
        with pytest.raises(RefusedError, match=r"large.*spread|spread.*large"):
            stream_tables.drop("totals")
        change(connection)
        assert refreshed(connection, stream_tables, "totals").action == "DIFFERENTIAL", "the refusal changed nothing"
        stream_tables.drop("totals", cascade=True)
        assert stream_tables.list() == []
        for node in citus_database.nodes:
            assert node.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^pg_trickle_cdc'") == 0
            assert node.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'pgtrickle_changes'") == 0
