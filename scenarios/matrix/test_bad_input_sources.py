"""Sources that are no plain tables: views are looked through, foreign tables recomputed, the rest refused by name."""

from __future__ import annotations

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from harness.clusters import Cluster
from harness.errors import RefusedError
from harness.matrix.play import TOTALS, refresh_all, require_totals
from harness.matrix.proofs import captured, prove_captured_on_workers, prove_source
from harness.matrix.stage import Stage, open_stage
from harness.matrix.workload import Orders
from harness.postgres import Node, Server

OVER_A_VIEW = TOTALS.replace("FROM orders", "FROM seen_orders")


def check_view(stage: Stage, placement: str) -> None:
    """A view of a view of the table: what is captured is the table."""
    orders = Orders()
    orders.create(stage.connection, placement)
    stage.run("CREATE VIEW priced_orders AS SELECT id, region, amount FROM orders WHERE id > 0")
    stage.run("CREATE VIEW seen_orders AS SELECT region, amount FROM priced_orders")
    orders.insert(stage.connection)
    stage.tables.create("totals", OVER_A_VIEW, schedule=None, mode="DIFFERENTIAL", placement="local")
    prove_source(stage, orders.table, placement)
    orders.churn(stage.connection)
    assert captured(stage, orders.table) > 0
    if placement == "distributed":
        prove_captured_on_workers(stage, orders.table)
    refresh_all(stage, ["totals"])
    require_totals(stage, orders)
    stage.require_count(orders.table.identifier, len(orders.rows), "orders")


def test_view_is_looked_through_on_one_server(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        check_view(stage, "local")


@pytest.mark.citus(">= 13")
def test_view_of_a_distributed_table_is_looked_through(citus_database: Cluster) -> None:
    with open_stage(citus_database) as stage:
        check_view(stage, "distributed")


def test_foreign_table_is_recomputed_and_differential_is_refused(database: Node, server: Server) -> None:
    far = f"{database.name}_far"
    server.create_database(far)
    try:
        with open_stage(Cluster("plain", database, ())) as stage, server.connect(far) as connection:
            connection.execute("CREATE TABLE readings (id int PRIMARY KEY, v int)")
            connection.execute("INSERT INTO readings SELECT i, i FROM generate_series(1, 10) i")
            _make_foreign_table(stage, server.dsn(far))
            query = "SELECT v % 3 AS third, count(*) AS readings FROM readings GROUP BY 1"
            with pytest.raises(RefusedError, match="readings"):
                stage.tables.create("thirds", query, mode="DIFFERENTIAL")
            stage.tables.create("thirds", query, mode="AUTO")
            assert stage.tables.explain("thirds").mode == "FULL"
            assert "readings" in stage.tables.explain("thirds").reason
            connection.execute("DELETE FROM readings WHERE id < 4")
            assert stage.tables.refresh("thirds").action == "FULL"
            stage.require_oracle("thirds")
            assert stage.value("SELECT sum(readings)::int FROM thirds") == 7
    finally:
        database.close()
        server.drop_database(far)


def _make_foreign_table(stage: Stage, dsn: str) -> None:
    parts = conninfo_to_dict(dsn)
    stage.run("CREATE EXTENSION postgres_fdw")
    options = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(str(parts[name])))
        for name in ("host", "port", "dbname")
    )
    stage.run(sql.SQL("CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})").format(options))
    stage.run(
        sql.SQL("CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user {}, password {})").format(
            sql.Literal(str(parts["user"])), sql.Literal(str(parts["password"]))
        )
    )
    stage.run("CREATE FOREIGN TABLE readings (id int, v int) SERVER far OPTIONS (schema_name 'public')")


def test_temporary_table_is_refused_as_a_source(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        stage.run("CREATE TEMPORARY TABLE gone_soon (id int)")
        with pytest.raises(RefusedError, match="gone_soon"):
            stage.tables.create("ids", "SELECT id FROM gone_soon", mode="DIFFERENTIAL")
        assert stage.own.list() == []


@pytest.mark.citus(">= 13")
def test_columnar_stream_table_is_refused_and_says_why(citus_database: Cluster) -> None:
    with open_stage(citus_database) as stage:
        if not stage.value("SELECT count(*) FROM pg_am WHERE amname = 'columnar'"):
            stage.run("CREATE EXTENSION citus_columnar")
        orders = Orders()
        orders.create(stage.connection, "distributed")
        stage.run("SET default_table_access_method = columnar")
        try:
            with pytest.raises(RefusedError, match=r"(?i)columnar"):
                stage.tables.create("totals", TOTALS, placement="local")
        finally:
            stage.run("RESET default_table_access_method")
        assert stage.own.list() == []
        assert stage.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 0


@pytest.mark.citus(">= 13")
def test_nothing_is_left_of_a_creation_that_the_target_refuses(citus_database: Cluster) -> None:
    with open_stage(citus_database) as stage:
        orders = Orders()
        orders.create(stage.connection, "distributed")
        orders.insert(stage.connection)
        stage.run("CREATE TABLE totals (mine int)")
        with pytest.raises(RefusedError, match="totals"):
            stage.tables.create("totals", TOTALS, mode="DIFFERENTIAL", placement="distributed")
        assert stage.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 0
        for node in citus_database.nodes:
            assert node.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^pg_trickle_cdc'") == 0
        orders.churn(stage.connection)
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
