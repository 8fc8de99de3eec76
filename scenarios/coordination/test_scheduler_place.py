"""Where a scheduler may run, what it says where it may not, and how it comes back after its database went away."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo, sql

from harness.clusters import Cluster, LocalCluster
from harness.postgres import Installation, Node, Server
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until
from scenarios.coordination.clients import client, held_before_its_commit, wait_for_refresh_before_its_commit
from scenarios.coordination.schedulers import RUN, scheduler
from scenarios.coordination.stages import QUERY, change, prepare
from scenarios.fixtures.servers import MakeServer

SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'harness scheduler%' AND pid <> pg_backend_pid()"
)


def _refused(dsn: str, *arguments: str) -> str:
    """What it says when it refuses: exit code 2, message and hint, no traceback."""
    with client([*RUN, "--no-metrics", *arguments], dsn) as refused:
        code, out, complaint = refused.end()
    assert code == 2, (code, out, complaint)
    assert "Traceback" not in complaint
    assert "hint" in complaint
    return complaint


@pytest.mark.citus(">= 13")
def test_worker_is_refused_and_the_coordinator_named(citus_database: Cluster) -> None:
    prepare(citus_database.coordinator, is_distributed=True)
    complaint = _refused(citus_database.workers[0].dsn())
    assert "is a worker of a cluster" in complaint
    port = conninfo.conninfo_to_dict(citus_database.coordinator.dsn())["port"]
    assert f"the coordinator is 127.0.0.1:{port}" in complaint or f":{port}" in complaint


def test_database_without_a_catalog_or_with_another_is_refused(empty_database: Node) -> None:
    database = empty_database
    assert "harness migrate up" in _refused(database.dsn())
    prepare(database, is_distributed=False)
    database.sql("UPDATE pgtrickle.alembic_version SET version_num = '0007'")
    complaint = _refused(database.dsn())
    assert "0007" in complaint
    assert "harness migrate up" in complaint
    database.sql("UPDATE pgtrickle.alembic_version SET version_num = '9999'")
    complaint = _refused(database.dsn())
    assert "9999" in complaint
    assert "pip install -U" in complaint


def test_scheduler_of_another_version_is_named(database: Node) -> None:
    prepare(database, is_distributed=False)
    with database.connect() as other:
        other.execute("SET application_name = 'harness scheduler 9.9.9'")
        complaint = _refused(database.dsn())
        assert "version 9.9.9 is at work (server process" in complaint
        assert "pip install pgtrickle-citus-harness==9.9.9" in complaint
        other.execute("RESET application_name")
    with scheduler(database.dsn()) as one, scheduler(database.dsn()) as same:
        one.wait_for("started")
        same.wait_for("started")


def test_read_only_server_is_refused_or_waited_for(database: Node) -> None:
    prepare(database, is_distributed=False, schedule="1s")
    name = sql.Identifier(str(database.value("SELECT current_database()")))
    database.sql(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    assert "read-only" in _refused(database.dsn())
    with scheduler(database.dsn(), "--wait-for-coordinator") as running:
        lost = running.wait_for("lost")
        assert "read-only" in lost["message"]
        assert running.process.poll() is None
        with database.connect() as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        running.wait_for("started")
        running.wait_for("refreshed")
        assert running.finish() == 0
    with scheduler("host=127.0.0.1 port=1 dbname=nowhere user=nobody", "--wait-for-coordinator") as waiting:
        waiting.wait_for("lost")
        assert waiting.finish() == 0, "it can be told to stop while it waits"


def test_nobody_at_the_address_is_told_without_a_password() -> None:
    complaint = _refused("host=127.0.0.1 port=1 dbname=nowhere user=nobody password=secret-word")
    assert "secret-word" not in complaint
    assert "port=1" in complaint


def test_circle_is_refused_by_naming_it(database: Node) -> None:
    prepare(database, is_distributed=False, schedule="1s")
    with database.connect() as connection, StreamTables(connection) as tables:
        tables.create("over", "SELECT n, count(*) AS accounts FROM balances GROUP BY n", "1s")
    # No command makes one: the catalog was written by somebody else.
    database.sql(
        "INSERT INTO pgtrickle.pgt_dependencies"
        " (pgt_id, source_relid, source_type, source_stable_name, source_placement)"
        " SELECT b.pgt_id, o.pgt_relid, 'STREAM_TABLE', pgtrickle.stable_name(o.pgt_relid), 'local'"
        " FROM pgtrickle.pgt_stream_tables b, pgtrickle.pgt_stream_tables o"
        " WHERE b.pgt_name = 'balances' AND o.pgt_name = 'over'"
    )
    complaint = _refused(database.dsn())
    assert "read each other in a circle" in complaint
    assert "public.balances" in complaint
    assert "public.over" in complaint
    assert "harness st drop" in complaint


def test_bad_schedule_and_missing_table_are_told_and_the_others_go_on(database: Node) -> None:
    prepare(database, is_distributed=False, schedule="1s")
    with database.connect() as connection, StreamTables(connection) as tables:
        tables.create("other", QUERY, "1s")
        tables.create("gone", QUERY, "1s")
        connection.execute("UPDATE pgtrickle.pgt_stream_tables SET schedule = 'every day' WHERE pgt_name = 'other'")
        with connection.transaction():
            # Dropped where no event trigger looked.
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute("DROP TABLE gone")
    with scheduler(database.dsn()) as running:
        messages = {running.wait_for("refused")["stream_table"] for _ in range(2)}
        assert messages == {"public.other", "public.gone"}
        refused = {event["stream_table"]: event for event in running.seen("refused")}
        assert "'every day'" in refused["public.other"]["message"]
        assert "harness st alter" in refused["public.other"]["hint"]
        assert "no table any more" in refused["public.gone"]["message"]
        for _round in range(3):
            running.wait_for("refreshed", stream_table="public.balances")
        assert len(running.seen("refused")) == 2, "told once"
        assert running.finish() == 0


@pytest.fixture(params=["plain", pytest.param("citus", marks=pytest.mark.citus(">= 13"))])
def place(request: pytest.FixtureRequest) -> Node:
    if request.param == "plain":
        node: Node = request.getfixturevalue("database")
        prepare(node, is_distributed=False, schedule="1s")
        return node
    cluster: Cluster = request.getfixturevalue("citus_database")
    prepare(cluster.coordinator, is_distributed=True, schedule="1s")
    return cluster.coordinator


@pytest.mark.allow_log("terminating connection due to administrator command", "the test ends the scheduler's sessions")
def test_ended_sessions_come_back_and_nothing_is_lost(place: Node) -> None:
    with scheduler(place.dsn()) as running:
        running.wait_for("refreshed")
        for _round in range(3):
            with held_before_its_commit(place):
                change(place)
                wait_for_refresh_before_its_commit(place)
                # The control session, and the one in the middle of a refresh.
                for (pid,) in place.rows(SESSIONS):
                    place.sql("SELECT pg_terminate_backend(%s::int)", [pid])
                begun = time.monotonic()
            running.wait_for("connected")
            running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
            elapsed_s = time.monotonic() - begun
            print(f"all its sessions ended, to the next right refresh: {elapsed_s:.2f} s")  # noqa: T201
        change(place)
        running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
        assert running.finish() == 0
    with place.connect() as connection:
        assert_equal(connection, "balances")
    assert place.value("SELECT consecutive_errors FROM pgtrickle.pgt_stream_tables") == 0, "no fault of the table"


def test_restarted_server_is_found_again(make_server: MakeServer) -> None:
    server = make_server()
    prepare(server, is_distributed=False, schedule="1s")
    with scheduler(server.dsn()) as running:
        running.wait_for("refreshed")
        for way in ("restart", "kill"):
            change(server)
            if way == "restart":
                server.restart()
            else:
                server.kill()
                running.wait_for("lost")
                server.start()
            begun = time.monotonic()
            running.wait_for("connected")
            change(server)
            running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
            elapsed_s = time.monotonic() - begun
            print(f"server is back after a {way}, to the next right refresh: {elapsed_s:.2f} s")  # noqa: T201
            while server.value("SELECT sum(n) FROM balances") != server.value("SELECT count(*) FROM entries"):
                running.wait_for("refreshed", stream_table="public.balances")
        assert running.finish() == 0
    with server.connect() as connection:
        assert_equal(connection, "balances")
    assert server.value("SELECT sum(n) FROM balances") == server.value("SELECT count(*) FROM entries")


@pytest.mark.citus(">= 13")
@pytest.mark.allow_log("", "a worker and the coordinator are killed under it")
def test_killed_nodes_of_a_cluster_are_waited_for(fresh_cluster: LocalCluster) -> None:
    coordinator = fresh_cluster.coordinator
    prepare(coordinator, is_distributed=True, schedule="1s")
    with scheduler(coordinator.dsn()) as running:
        running.wait_for("refreshed")
        for victim in (fresh_cluster.workers[0], coordinator):
            victim.kill()
            running.wait_for("failed" if victim is not coordinator else "lost", deadline_s=60)
            victim.start()

            def write() -> bool:
                with contextlib.suppress(psycopg.Error):
                    change(coordinator)
                    return True
                return False

            wait_until("a write to pass", write, deadline_s=30)
            begun = time.monotonic()
            running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL", deadline_s=60)
            elapsed_s = time.monotonic() - begun
            print(f"{victim.name} is back, to the next right refresh: {elapsed_s:.2f} s")  # noqa: T201
        assert running.finish() == 0
    with coordinator.connect() as connection, StreamTables(connection) as tables:
        assert tables.list()[0].status == "ACTIVE", "a node that is down is no fault of the table"
        tables.refresh("balances")
        assert_equal(connection, "balances")
    assert coordinator.value("SELECT sum(n) FROM balances") == coordinator.value("SELECT count(*) FROM entries")


@contextlib.contextmanager
def _standby(primary: Server, installation: Installation) -> Iterator[Server]:
    """A streaming standby of a server, running."""
    standby = Server.create(installation, name="standby", password=primary.password)
    try:
        data = standby.data_dir
        kept = {path.name: path.read_bytes() for path in data.glob("*.conf") if path.name != "postgresql.auto.conf"}
        for path in list(data.iterdir()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        primary.run("pg_basebackup", f"--pgdata={data}", "--checkpoint=fast", "--no-sync", "--write-recovery-conf")
        for name, content in kept.items():
            (data / name).write_bytes(content)
        standby._template_password = ""
        standby.start()
        yield standby
    finally:
        standby.destroy()


def test_new_primary_is_found_after_a_failover(make_server: MakeServer, installation: Installation) -> None:
    primary = make_server(settings={"wal_level": "replica", "max_wal_senders": "5"})
    prepare(primary, is_distributed=False, schedule="1s")
    with _standby(primary, installation) as standby:
        assert "is a standby" in _refused(standby.dsn())
        dsn = conninfo.make_conninfo(
            primary.dsn(),
            host=f"{primary.host},{standby.host}",
            port=f"{primary.port},{standby.port}",
            target_session_attrs="read-write",
        )
        with scheduler(dsn) as running:
            running.wait_for("refreshed")
            change(primary)
            running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
            wait_until(
                "the standby to have all",
                lambda: standby.value("SELECT count(*) FROM entries") == primary.value("SELECT count(*) FROM entries"),
                deadline_s=20,
            )
            begun = time.monotonic()
            primary.kill()
            standby.sql("SELECT pg_promote()")
            found = running.wait_for("connected")
            assert str(standby.port) in found["message"]
            change(standby)
            running.wait_for("refreshed", stream_table="public.balances")
            print(f"failover to the next refresh: {time.monotonic() - begun:.1f} s")  # noqa: T201
            while standby.value("SELECT sum(n) FROM balances") != standby.value("SELECT count(*) FROM entries"):
                running.wait_for("refreshed", stream_table="public.balances")
            assert running.finish() == 0
        with standby.connect() as connection:
            assert_equal(connection, "balances")


def test_server_that_becomes_read_only_under_it_is_left_until_it_writes_again(database: Node) -> None:
    prepare(database, is_distributed=False, schedule="1s")
    name = sql.Identifier(str(database.value("SELECT current_database()")))
    with scheduler(database.dsn()) as running:
        running.wait_for("refreshed")
        database.sql(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        for (pid,) in database.rows(SESSIONS):
            database.sql("SELECT pg_terminate_backend(%s::int)", [pid])
        lost = running.wait_for("lost")
        while "read-only" not in lost["message"]:
            lost = running.wait_for("lost")
        with database.connect() as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        running.wait_for("connected")
        change(database)
        running.wait_for("refreshed", stream_table="public.balances", action="DIFFERENTIAL")
        assert running.finish() == 0
    assert database.value("SELECT status FROM pgtrickle.pgt_stream_tables") == "ACTIVE"
