"""CITUS_ENABLE switched on over plain data, off over distributed data, and on again: nothing is lost."""

from __future__ import annotations

import psycopg
import pytest

from scenarios.roles.conftest import MakeNode, start_cluster

pytestmark = pytest.mark.citus(">= 13")


def test_on_over_plain_data_off_and_on_again(make_node: MakeNode) -> None:
    node = make_node("switched", CITUS_ENABLE="false", POSTGRES_DB="shop")
    node.start()
    with psycopg.connect(node.dsn(dbname="shop"), autocommit=True) as client:
        client.execute("CREATE TABLE items AS SELECT i AS id FROM generate_series(1, 100) AS i")
        client.execute("ALTER TABLE items ADD PRIMARY KEY (id)")
    node.stop()
    node.start(CITUS_ENABLE="true")
    assert node.health() == (0, "healthy: coordinator")
    with psycopg.connect(node.dsn(dbname="shop"), autocommit=True) as client:
        client.execute("SELECT create_distributed_table('items', 'id')")
    node.stop()

    # Off: without the library the table would look empty, and what is written to it would be lost to Citus.
    node.start()
    said = next(line for line in node.own_words() if "CITUS_ENABLE is false" in line)
    assert "'shop'" in said
    assert "It stays loaded" in said
    assert node.own_words()[-1].endswith("with Citus loaded")
    assert node.health() == (0, "healthy: plain")
    with psycopg.connect(node.dsn(dbname="shop"), autocommit=True) as client:
        assert client.execute("SELECT count(*) FROM items").fetchone() == (100,)
        client.execute("INSERT INTO items VALUES (101)")
        assert client.execute("SHOW shared_preload_libraries").fetchone() == ("citus",)
    node.stop()
    node.start(CITUS_ENABLE="true")
    with psycopg.connect(node.dsn(dbname="shop"), autocommit=True) as client:
        assert client.execute("SELECT count(*), max(id) FROM items").fetchone() == (101, 101)
        # Off for good, as the documentation says.
        client.execute("SELECT undistribute_table('items')")
        client.execute("DROP EXTENSION citus")
    node.stop()
    node.start()
    assert node.own_words()[-1].startswith("ready: PostgreSQL on port")
    assert not any("CITUS_ENABLE" in line for line in node.own_words())
    with psycopg.connect(node.dsn(dbname="shop"), autocommit=True) as client:
        assert client.execute("SHOW shared_preload_libraries").fetchone() == ("",)
        assert client.execute("SELECT count(*) FROM items").fetchone() == (101,)


def test_off_in_a_cluster_keeps_every_node_in_its_place(make_node: MakeNode) -> None:
    cluster = start_cluster(make_node, workers=1)
    coordinator, worker = cluster.nodes
    with coordinator.session() as client:
        client.sql("CREATE TABLE items (id int PRIMARY KEY)")
        client.sql("SELECT create_distributed_table('items', 'id')")
        client.sql("INSERT INTO items SELECT generate_series(1, 100)")
        before = client.rows("SELECT * FROM pg_dist_node ORDER BY groupid")
        # A transaction that was prepared with Citus there must not hinder a start without it.
        client.sql("CREATE TABLE alone (id int)")
    with psycopg.connect(coordinator.dsn(), autocommit=True) as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO alone VALUES (1)")
        session.execute("PREPARE TRANSACTION 'in doubt'")
    for node in (worker, coordinator):
        node.stop()
        node.start(CITUS_ENABLE="false")
        assert "It stays loaded" in node.said()
    with coordinator.session() as client:
        assert client.value("SELECT count(*) FROM items") == 100
        client.sql("INSERT INTO items SELECT generate_series(101, 200)")
        client.sql("COMMIT PREPARED 'in doubt'")
        assert client.value("SELECT count(*) FROM alone") == 1
    for node in (worker, coordinator):
        node.stop()
        node.start()
    with coordinator.session() as client:
        assert client.rows("SELECT * FROM pg_dist_node ORDER BY groupid") == before
        assert client.value("SELECT count(*) FROM items") == 200
    assert worker.health() == (0, "healthy: worker")
    assert coordinator.health() == (0, "healthy: coordinator")


def test_citus_taken_out_by_alter_system_is_refused(make_node: MakeNode) -> None:
    node = make_node("unloaded")
    node.start()
    with node.session() as client:
        client.sql("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    node.stop()
    assert "ALTER SYSTEM has set shared_preload_libraries without citus" in node.refused()
    # What it is for works through the environment: Citus is put first.
    (node.data_dir / "postgresql.auto.conf").write_text("")
    node.start(POSTGRES_SETTING_SHARED_PRELOAD_LIBRARIES="pg_stat_statements, citus")
    with node.session() as client:
        assert client.value("SHOW shared_preload_libraries") == "citus,pg_stat_statements"
