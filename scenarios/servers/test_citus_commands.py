"""`harness.citus.run_on_nodes`: a statement on every node, each node's failure named with its SQLSTATE."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from harness import citus
from harness.clusters import Cluster, RunningCluster
from harness.postgres import AdministeredNode, Node
from scenarios.servers.addresses import label


@pytest.fixture
def plain(database: Node) -> Iterator[citus.Connection]:
    """A connection to a plain database of this test's own."""
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def coordinator(citus_database: Cluster) -> Iterator[citus.Connection]:
    """A connection to the coordinator of a database of this test's own."""
    with psycopg.connect(citus_database.coordinator.dsn(), autocommit=True) as connection:
        yield connection


def test_statement_on_a_plain_server_runs_there(plain: citus.Connection) -> None:
    (answer,) = citus.run_on_nodes(plain, "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)")
    assert (answer.succeeded, answer.node) == (True, None)
    assert [answer.result for answer in citus.ask_nodes(plain, "SELECT count(*) FROM t")] == ["2"]
    assert citus.run_on_nodes(plain, "SELECT 1", workers_only=True) == ()
    (failed,) = citus.run_on_nodes(plain, "SELECT 1 / 0")
    assert (failed.succeeded, failed.message, failed.sqlstate) == (False, "division by zero", "22012")
    (vacuumed,) = citus.run_on_nodes(plain, "VACUUM t", is_wrapped=False)
    assert vacuumed.result == "VACUUM"


def test_failure_on_a_plain_server_leaves_the_transaction_usable(plain: citus.Connection) -> None:
    with plain.transaction():
        (failed,) = citus.run_on_nodes(plain, "SELECT * FROM nothing_here")
        assert failed.sqlstate == "42P01"
        assert plain.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.citus(">= 13")
def test_statement_runs_on_the_coordinator_and_on_every_worker(
    citus_database: Cluster, coordinator: citus.Connection
) -> None:
    value = 'o\'brien %s \\ "x" {} $$ #12345# '
    citus.require_all(citus.run_on_nodes(coordinator, "CREATE SEQUENCE local_only"))
    citus.require_all(citus.run_on_nodes(coordinator, "CREATE TABLE local_rows (a text)", workers_only=True))
    statement = sql.SQL("INSERT INTO local_rows VALUES ({})").format(sql.Literal(value))
    answers = citus.run_on_nodes(coordinator, statement, workers_only=True)
    assert [(answer.node.group_id if answer.node else None, answer.succeeded) for answer in answers] == [
        (1, True),
        (2, True),
    ]
    for node in citus_database.nodes:
        assert node.value("SELECT count(*) FROM pg_class WHERE relname = 'local_only'") == 1
    for worker in citus_database.workers:
        assert worker.value("SELECT a FROM local_rows") == value
    asked = citus.ask_nodes(coordinator, "SELECT groupid FROM pg_dist_local_group")
    assert [answer.result for answer in asked] == ["0", "1", "2"]


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log(r"division by zero|does not exist|already exists", "the statements are meant to fail")
def test_failure_of_one_node_is_named_with_its_sqlstate(
    citus_database: Cluster[AdministeredNode], coordinator: citus.Connection
) -> None:
    citus_database.workers[1].sql("CREATE TABLE only_here (a int)")
    answers = citus.run_on_nodes(coordinator, "CREATE TABLE only_here (a int)")
    assert [answer.succeeded for answer in answers] == [True, True, False]
    failed = answers[2]
    assert failed.label == f"worker {label(citus_database.workers[1])} (group 2)"
    assert (failed.message, failed.sqlstate) == ('relation "only_here" already exists', "42P07")
    with pytest.raises(citus.NodesFailedError, match=r"1 of 3 nodes failed: worker .* \(42P07\)") as error:
        citus.require_all(answers)
    assert (error.value.node, error.value.sqlstate) == (failed.label, "42P07")
    assert "2 did it" in error.value.hint


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log(r"two|division by zero|syntax error|MESSAGE", "the statements are meant to fail")
def test_failure_on_all_nodes_names_each(coordinator: citus.Connection) -> None:
    answers = citus.run_on_nodes(coordinator, "DO $$BEGIN RAISE EXCEPTION E'two #x# \\nlines'; END$$")
    assert {(answer.sqlstate, answer.message) for answer in answers} == {("P0001", "two #x# ")}
    with pytest.raises(citus.NodesFailedError, match="3 of 3 nodes failed") as error:
        citus.require_all(citus.run_on_nodes(coordinator, "SELECT 1 / 0"))
    assert (error.value.node, error.value.sqlstate, error.value.hint) == (None, "22012", "")
    assert len(error.value.failures) == 3
    asked = citus.ask_nodes(coordinator, "SELECT 1 / 0")
    assert [(answer.succeeded, answer.sqlstate) for answer in asked] == [(False, None)] * 3


@pytest.mark.citus(">= 13")
def test_statement_on_all_nodes_outlives_a_rollback(citus_database: Cluster, coordinator: citus.Connection) -> None:
    with coordinator.transaction(force_rollback=True):
        citus.require_all(citus.run_on_nodes(coordinator, "CREATE TABLE stays (a int)"))
    found = citus_database.on_each(lambda node: node.value("SELECT to_regclass('stays')::text"))
    assert set(found.values()) == {"stays"}


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log(r".*", "a worker is stopped under the coordinator's feet")
def test_worker_that_is_down_is_named_and_the_others_answer(fresh_cluster: RunningCluster) -> None:
    with psycopg.connect(fresh_cluster.coordinator.dsn(), autocommit=True) as connection:
        fresh_cluster.workers[0].kill()
        answers = citus.run_on_nodes(connection, "SELECT 1")
        assert [answer.succeeded for answer in answers] == [True, False, True]
        assert answers[1].label == f"worker {label(fresh_cluster.workers[0])} (group 1)"
        assert answers[1].message
        assert answers[1].sqlstate is None


@pytest.mark.citus(">= 13")
def test_worker_that_is_not_active_counts_as_failed(fresh_cluster: RunningCluster) -> None:
    with psycopg.connect(fresh_cluster.coordinator.dsn(), autocommit=True) as connection:
        connection.execute("SELECT citus_disable_node(%s, %s, synchronous := true)", fresh_cluster.workers[1].address)
        assert [(node.host, node.port) for node in citus.fetch_workers(connection)] == [
            fresh_cluster.workers[0].address
        ]
        answers = citus.run_on_nodes(connection, "SELECT 1")
        assert [(answer.succeeded, answer.message) for answer in answers] == [
            (True, ""),
            (True, ""),
            (False, "it is not active and was not asked"),
        ]


@pytest.mark.citus(">= 13")
def test_coordinator_that_is_not_registered_answers_too(fresh_cluster: RunningCluster) -> None:
    with psycopg.connect(fresh_cluster.coordinator.dsn(), autocommit=True) as connection:
        connection.execute("SELECT citus_remove_node(%s, %s)", fresh_cluster.coordinator.address)
        assert [node.group_id for node in citus.fetch_nodes(connection)] == [1, 2]
        answers = citus.ask_nodes(connection, "SELECT groupid FROM pg_dist_local_group")
        assert [answer.result for answer in answers] == ["0", "1", "2"]
        assert answers[0].label == "the node of this connection"
