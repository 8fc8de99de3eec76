"""Tests of projects that are not ours."""

from __future__ import annotations

PLAIN = """
def test_database_is_empty_and_of_ones_own(postgres_database, postgres_server):
    assert postgres_database.value("SELECT count(*) FROM pg_stat_user_tables") == 0
    postgres_database.sql("CREATE TABLE t (id int)")

def test_next_database_is_another(postgres_database):
    assert postgres_database.value("SELECT count(*) FROM pg_stat_user_tables") == 0
"""
STREAM_TABLES = """
def test_stream_table_is_kept(migrated, stream_tables, trickle_options):
    distributed = trickle_options.cluster != "none"
    assert bool(migrated.workers) == distributed
    migrated.sql("CREATE TABLE orders (id bigint PRIMARY KEY, customer int, amount numeric)")
    if distributed:
        migrated.sql("SELECT create_distributed_table('orders', 'id')")
    stream_tables.create("totals", "SELECT customer, sum(amount) AS total FROM orders GROUP BY customer")
    migrated.sql("INSERT INTO orders SELECT i, i % 3, i FROM generate_series(1, 100) i")
    stream_tables.refresh("totals")
    assert migrated.value("SELECT sum(total) FROM totals") == 5050

def test_next_database_has_no_stream_table(migrated, stream_tables):
    assert list(stream_tables.list()) == []
"""
CLUSTER = """
def test_cluster_is_real(citus_cluster, cluster_database):
    cluster_database.sql("CREATE TABLE t (id int PRIMARY KEY)")
    cluster_database.sql("SELECT create_distributed_table('t', 'id')")
    cluster_database.sql("INSERT INTO t SELECT generate_series(1, 100)")
    nodes = "SELECT count(DISTINCT (nodename, nodeport)) FROM citus_shards WHERE table_name = 't'::regclass"
    assert cluster_database.value(nodes) == len(citus_cluster.workers) == 2
    assert citus_cluster.coordinator.show("work_mem") == "5MB"
"""
FACTORY = """
def test_cluster_is_started_while_a_test_captures(capsys, citus_cluster_factory):
    assert citus_cluster_factory(workers=0).workers == ()

def test_cluster_may_be_broken(citus_cluster_factory):
    made = citus_cluster_factory(workers=1, settings={"maintenance_work_mem": "17MB"})
    assert made.coordinator.show("maintenance_work_mem") == "17MB"
    assert made.coordinator.show("work_mem") == "5MB"
    made.workers[0].kill()
    assert not made.workers[0].is_running
"""
# Says where its server is, then waits to be ended.
WAITS = """
import signal

def test_waits(postgres_server):
    with open("server", "w") as file:
        print(postgres_server.root, postgres_server.pid, file=file)
    signal.pause()
"""
# Each worker of xdist says which cluster it has.
NAMES_ITS_CLUSTER = """
import os, pytest

@pytest.mark.parametrize("number", range(4))
def test_names_its_cluster(number, cluster_database, citus_cluster):
    with open(f"{os.environ['PYTEST_XDIST_WORKER']}-{number}", "w") as file:
        print(citus_cluster.coordinator.port, file=file)
"""
UNUSED = """
import sys

def test_that_uses_none_of_it():
    foreign = {"psycopg", "docker", "testcontainers", "sqlglot", "sqlalchemy", "alembic", "pydantic", "structlog"}
    assert not foreign & set(sys.modules)
    assert "harness.pytest_plugin.supply" not in sys.modules
"""
