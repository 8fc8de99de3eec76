"""No write on any node, no caller's text in SQL, one connection a node, at most four at once: tried to get around."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import psycopg
import pytest
from psycopg import sql

from harness.clusters import Cluster
from harness.errors import BadInputError
from harness.inspectors import Inspection, Reason, Status, inspect, opening, registry
from harness.inspectors.contract import Cost
from harness.inspectors.limits import Limits
from harness.inspectors.run import MOST_AT_ONCE
from harness.postgres import AdministeredNode
from harness.waiting import wait_until
from scenarios.inspectors import everything
from scenarios.inspectors.fixture_standard import Standard

pytestmark = pytest.mark.citus(">= 14")
_NEXT_XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
_HOSTILE = (
    "'; DROP TABLE app.orders; --",
    "$$; DROP TABLE app.orders; --",
    '"; DROP TABLE app.orders; --',
    "\\'; DROP TABLE app.orders; --",
    "%s {} %(name)s {0} \\",
    "') OR true --",
    "ordersé\u202e\x07\n\t",
)


# --------------------------------------------------------------------------------------------------------- writes


@pytest.mark.parametrize("name", everything.names())
def test_inspector_writes_on_no_node(standard: Standard, name: str) -> None:
    """Whoever writes anything, a temporary table included, takes a transaction number: none is taken on any node."""
    nodes = standard.cluster.nodes
    before = [node.value(_NEXT_XID) for node in nodes]
    inspect(standard.dsn(), name, everything.most_values(name))
    assert [node.value(_NEXT_XID) for node in nodes] == before


def test_next_transaction_number_tells_of_a_write(citus_database: Cluster[AdministeredNode]) -> None:
    """What the test above rests on."""
    before = citus_database.value(_NEXT_XID)
    citus_database.sql("CREATE TABLE written ()")
    assert citus_database.value(_NEXT_XID) != before


def test_statement_that_writes_is_refused_on_the_coordinator(citus_database: Cluster[AdministeredNode]) -> None:
    for statement in (
        sql.SQL("CREATE TABLE planted (a int)"),
        sql.SQL("SELECT pg_catalog.setval('pg_dist_node_nodeid_seq', 9)"),
        sql.SQL("COMMIT; CREATE TABLE planted (a int)"),
        sql.SQL("SET TRANSACTION READ WRITE; CREATE TABLE planted (a int)"),
    ):
        with everything.session(citus_database.coordinator) as session, pytest.raises(psycopg.Error) as caught:
            session.rows(statement)
        assert caught.value.sqlstate in {"25006", "25001"}  # read-only transaction; too late to say READ WRITE
    assert citus_database.value("SELECT to_regclass('planted')") is None


def test_question_that_writes_is_refused_on_every_node_even_for_a_superuser(
    citus_database: Cluster[AdministeredNode],
) -> None:
    """The transaction on the coordinator does not protect the nodes; what is shipped does."""
    for node in citus_database.nodes:
        with node.connect() as connection:
            connection.execute("SET citus.enable_ddl_propagation = off")
            connection.execute("CREATE TABLE planted (a int)")
            connection.execute(
                "CREATE FUNCTION plant() RETURNS text LANGUAGE plpgsql AS"
                " 'BEGIN INSERT INTO public.planted VALUES (1); RETURN ''done''; END'"
            )
    question = sql.SQL("SELECT pg_catalog.json_build_array(pg_catalog.json_build_object('a', public.plant()))")
    with everything.session(citus_database.coordinator) as session:
        gathered = session.on_all_nodes(question)
    assert gathered.rows == ()
    assert len(gathered.failed) == 3
    assert all("read-only transaction" in each.reason for each in gathered.failed)
    assert [node.value("SELECT count(*) FROM planted") for node in citus_database.nodes] == [0, 0, 0]


def test_question_cannot_be_more_than_one_select(citus_database: Cluster[AdministeredNode]) -> None:
    for text in (
        "WITH w AS (INSERT INTO planted VALUES (1) RETURNING a) SELECT json_agg(a) FROM w",
        "SELECT '[]'::json); CREATE TABLE public.planted2 (a int); --",
    ):
        with everything.session(citus_database.coordinator) as session:
            gathered = session.on_all_nodes(sql.SQL(text))
        assert len(gathered.failed) == 3
        assert gathered.answered == ()
    for node in citus_database.nodes:
        assert node.value("SELECT to_regclass('public.planted2')") is None


@pytest.mark.parametrize("role", [None, "inspector", "mon"])
def test_answer_says_whether_the_role_can_write_on_the_nodes(standard: Standard, role: str | None) -> None:
    assert inspect(standard.dsn(role), "list_nodes").readonly_enforced is (role == "inspector")


# --------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("name", everything.names())
def test_hostile_name_is_a_name_and_nothing_else(standard: Standard, name: str) -> None:
    named = [each.name for each in fields(registry.get(name).inputs) if each.metadata["kind"] == "identifier"]
    with Inspection(standard.dsn()) as inspection:
        for field in named:
            for hostile in _HOSTILE:
                try:
                    found = inspection.inspect(name, {**everything.values(name), field: hostile})
                except BadInputError:
                    continue  # an inspector that knows all values that it takes
                assert (found.status, found.rows) in {(Status.OK, ()), (Status.UNAVAILABLE, ())}, found
                assert found.reason in {None, Reason.NOT_FOUND, Reason.GUC_OFF, Reason.PGTRICKLE_MISSING}
    for node in standard.cluster.nodes:
        assert node.value("SELECT to_regclass('app.orders')") is not None


# ---------------------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize("name", everything.names())
def test_inspector_opens_one_connection_a_node(standard: Standard, name: str) -> None:
    """Counted in the logs: the caller's own, and one to each node; an inspector of inspectors, one for each of them."""
    looks = len(everything.names()) if registry.get(name).cost is Cost.SUM else 1
    marks = {node.name: node.log.mark() for node in standard.cluster.nodes}
    inspect(standard.dsn("mon"), name, everything.most_values(name))
    for node in standard.cluster.nodes:
        opened = re.findall(r"connection authorized: user=mon .*", node.log.since(marks[node.name]))
        own = 1 if node is standard.cluster.coordinator else 0
        assert len(opened) - own <= looks, opened


def test_fan_out_of_a_look_is_seen_in_the_logs(standard: Standard) -> None:
    """What the test above rests on: a connection of Citus' is in the log of the node."""
    worker = standard.cluster.workers[0]
    mark = worker.log.mark()
    inspect(standard.dsn("mon"), "list_nodes")
    assert len(re.findall(r"connection authorized: user=mon ", worker.log.since(mark))) == 1


def test_no_more_than_four_looks_of_a_process_run_at_once(standard: Standard) -> None:
    """A lock makes every look wait until as many do as may; twelve are asked for, and somebody counts."""
    done = threading.Event()
    seen: list[int] = []

    def count() -> None:
        with psycopg.connect(standard.dsn(), autocommit=True) as connection:
            while not done.is_set():
                row = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'",
                    [opening.APPLICATION_NAME],
                ).fetchall()
                seen.append(row[0][0])

    limits = Limits(statement_timeout_ms=60_000, lock_timeout_ms=60_000)
    with ThreadPoolExecutor(13) as pool, psycopg.connect(standard.dsn()) as locking:
        counting = pool.submit(count)
        try:
            locking.execute("LOCK TABLE pg_catalog.pg_dist_schema IN ACCESS EXCLUSIVE MODE")
            looks = [pool.submit(inspect, standard.dsn(), "list_distributed_tables", limits=limits) for _ in range(12)]
            wait_until("four looks to wait", lambda: MOST_AT_ONCE in seen, deadline_s=25)
            more = len(seen) + 200
            wait_until("others to come in, if they may", lambda: len(seen) > more, deadline_s=25)
        finally:
            locking.rollback()
            done.set()
        counting.result()
        found = [look.result() for look in looks]
    assert {(each.status, each.reason) for each in found} == {(Status.OK, None)}
    assert max(seen) == MOST_AT_ONCE
