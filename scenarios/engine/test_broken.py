"""A refresh is all or nothing: servers that die in the middle, transactions that nobody resolves, tables of before."""

from __future__ import annotations

import contextlib
import threading

import psycopg
import pytest

from harness.chain.runner import upgrade
from harness.clusters import Cluster, RunningCluster
from harness.errors import ServerGoneError, UnresolvedTransactionError
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.engine.shop import CHANGES, TABLES, TOTALS
from scenarios.fixtures.servers import MakeServer
from scenarios.upgrade.small_installation import CHANGES as CHANGES_BEFORE
from scenarios.upgrade.small_installation import build_small_installation


def test_server_killed_in_the_middle_of_a_refresh(make_server: MakeServer) -> None:
    server = make_server()
    server.create_database("shop")
    dsn = server.dsn("shop")
    upgrade(dsn)
    # Closed and not committed at the end: by then there is no server.
    with contextlib.closing(server.connect("shop")) as connection, StreamTables(connection) as stream_tables:
        connection.execute(TABLES.encode())
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        connection.execute(CHANGES)
        # The refresh has its delta applied and waits to write where it stopped.
        with contextlib.closing(server.connect("shop", autocommit=False)) as blocker:
            blocker.execute("LOCK TABLE pgtrickle.pgt_refresh_history IN EXCLUSIVE MODE")

            def refresh() -> None:
                with contextlib.suppress(psycopg.Error, ServerGoneError):
                    stream_tables.refresh("totals")

            refreshing = threading.Thread(target=refresh)
            refreshing.start()
            wait_until(
                "the refresh to wait",
                lambda: server.value(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s",
                    ["%pgt_refresh_history%"],
                    dbname="shop",
                ),
                deadline_s=20,
            )
            server.kill()
            refreshing.join()
    server.start()
    with server.connect("shop") as connection, StreamTables(connection) as stream_tables:
        assert stream_tables.status("totals")[0].pending["public.orders"] > 0, "nothing of it was done"
        assert stream_tables.refresh("totals").action == "DIFFERENTIAL"
        assert_equal(connection, "totals")
        connection.execute(CHANGES)
        stream_tables.refresh("totals")
        assert_equal(connection, "totals")


def test_upgraded_stream_tables_are_filled_anew_and_lose_nothing(empty_database: Node) -> None:
    """Rows have pg_trickle's row ids, and changes were captured before the upgrade and not applied."""
    build_small_installation(empty_database)
    with empty_database.connect() as connection:
        connection.execute(CHANGES_BEFORE.encode())
        upgrade(empty_database.dsn())
        connection.execute(CHANGES_BEFORE.encode())
        with StreamTables(connection) as stream_tables:
            names = [found.qualified for found in stream_tables.list()]
            assert names
            for name in names:
                assert stream_tables.refresh(name).action == "REINITIALIZE"
                assert_equal(connection, name)
            connection.execute(CHANGES_BEFORE.encode())
            for name in names:
                done = stream_tables.refresh(name)
                assert done.action == "DIFFERENTIAL", done.reason
                assert_equal(connection, name)
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                    connection.execute(b"DELETE FROM " + name.encode())
            guarded = connection.execute(
                "SELECT count(*) FROM pgtrickle.pgt_stream_tables t JOIN pg_constraint c ON c.conrelid = t.pgt_relid"
                " AND c.contype = 'p'"
            ).fetchone()
            assert guarded == (len(names),)


def test_upgraded_stream_table_without_incremental_form_holds_no_captured_rows(empty_database: Node) -> None:
    build_small_installation(empty_database)
    with empty_database.connect() as connection:
        upgrade(empty_database.dsn())
        connection.execute(
            "UPDATE pgtrickle.pgt_stream_tables SET defining_query = 'SELECT cust, max(amt) AS total FROM public.orders"
            " WHERE id IN (SELECT id FROM public.orders) GROUP BY cust' WHERE pgt_name = 'by_cust'"
        )
        with StreamTables(connection) as stream_tables:
            stream_tables.refresh("by_cust")
            connection.execute("INSERT INTO orders VALUES (7777, 3, 5)")
            assert stream_tables.refresh("by_cust").action == "FULL"
            assert_equal(connection, "by_cust")
            assert stream_tables.status("by_cust")[0].pending == {}


@pytest.mark.citus(">= 13")
def test_unresolved_prepared_transaction_stops_create_and_refresh(citus_database: Cluster) -> None:
    """D9. It is younger than any that counts at first, so this waits for it to come of age."""
    upgrade(citus_database.coordinator.dsn())
    citus_database.sql("CREATE TABLE events (id int PRIMARY KEY, kind text)")
    citus_database.sql("SELECT create_distributed_table('events', 'id', shard_count => 4)")
    citus_database.sql("INSERT INTO events SELECT i, 'k' || i % 3 FROM generate_series(1, 60) i")
    worker = citus_database.workers[0]
    query = "SELECT kind, count(*) AS n FROM events GROUP BY kind"
    with citus_database.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        stream_tables.create("per_kind", query, None, "DIFFERENTIAL")
        with worker.connect(autocommit=False) as other:
            other.execute("CREATE TABLE left_over (i int)")
            other.execute("PREPARE TRANSACTION 'nobody resolves this'")
        try:
            wait_until(
                "the transaction to be old enough",
                lambda: worker.value("SELECT bool_and(now() - prepared > interval '5 s') FROM pg_prepared_xacts"),
                deadline_s=20,
            )
            citus_database.sql("DELETE FROM events WHERE id < 10")
            with pytest.raises(UnresolvedTransactionError, match="nobody resolves this"):
                stream_tables.refresh("per_kind")
            with pytest.raises(UnresolvedTransactionError, match="nobody resolves this"):
                stream_tables.create("again", query, None, "DIFFERENTIAL")
            assert len(stream_tables.list()) == 1
        finally:
            worker.sql("ROLLBACK PREPARED 'nobody resolves this'")
        assert stream_tables.refresh("per_kind").action == "DIFFERENTIAL"
        assert_equal(connection, "per_kind")


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log(r"connection to the remote node|terminat|could not connect", "this test kills a worker")
def test_worker_killed_before_a_refresh_is_named_and_nothing_changes(fresh_cluster: RunningCluster) -> None:
    fresh_cluster.create_database("shop")
    coordinator, worker = fresh_cluster.coordinator, fresh_cluster.workers[0]
    upgrade(coordinator.dsn("shop"))
    with coordinator.connect("shop") as connection, StreamTables(connection) as stream_tables:
        connection.execute("CREATE TABLE events (id int PRIMARY KEY, kind text)")
        connection.execute("SELECT create_distributed_table('events', 'id', shard_count => 4)")
        connection.execute("INSERT INTO events SELECT i, 'k' || i % 3 FROM generate_series(1, 60) i")
        stream_tables.create(
            "per_kind", "SELECT kind, count(*) AS n FROM events GROUP BY kind", None, "DIFFERENTIAL", "distributed"
        )
        connection.execute("DELETE FROM events WHERE id < 10")
        worker.kill()
        with pytest.raises(ServerGoneError):
            stream_tables.refresh("per_kind")
        worker.start()
        wait_until("the cluster to answer", lambda: _answers(connection), deadline_s=30)
        assert stream_tables.refresh("per_kind").action == "DIFFERENTIAL"
        assert_equal(connection, "per_kind")


def _answers(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    try:
        return connection.execute("SELECT count(*) FROM events").fetchone() == (51,)
    except psycopg.OperationalError:
        return False
