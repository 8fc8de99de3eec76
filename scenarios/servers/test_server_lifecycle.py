"""A server's life: started, stopped, crashed, frozen, asked."""

from __future__ import annotations

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.rows import TupleRow

from harness.errors import BadInputError, ServerError, WaitTimeoutError
from harness.postgres import DsnNode, Node, Server
from harness.postgres.processes import processes_below
from harness.waiting import wait_until
from scenarios.fixtures.servers import MakeServer


def test_server_speaks_utf8_with_builtin_locale_on_loopback_only(server: Server) -> None:
    assert server.show("server_encoding") == "UTF8"
    assert server.show("listen_addresses") == "127.0.0.1"
    assert server.row("SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'postgres'") == (
        "b",
        "C.UTF-8",
    )
    assert server.value("SELECT upper('straße ümlaut')") == "STRASSE ÜMLAUT".replace("STRASSE", "STRAßE")


def test_server_asks_everybody_for_a_scram_password(server: Server) -> None:
    methods = server.rows("SELECT DISTINCT auth_method FROM pg_catalog.pg_hba_file_rules")
    assert methods == [("scram-sha-256",)]
    for host in (server.host, str(server.socket_dir)):
        address = f"host={host} port={server.port} user=postgres dbname=postgres"
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"{address} password=wrong")
        with psycopg.connect(f"{address} password={server.password}") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_server_directories_are_closed_to_others(server: Server) -> None:
    for path in (server.data_dir, server.socket_dir, server.scratch_dir):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.root / "pgpass").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.log.path.stat().st_mode) == 0o600


def test_two_servers_have_passwords_of_their_own(server: Server, make_server: MakeServer) -> None:
    other = make_server(name="other")
    assert other.password != server.password
    assert other.port != server.port
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn(), password=other.password)


def test_database_fixture_gives_an_empty_database(database: Node) -> None:
    database.sql("CREATE TABLE t (n int)")
    database.sql("INSERT INTO t SELECT generate_series(1, %s)", [3])
    assert database.rows("SELECT n FROM t ORDER BY n") == [(1,), (2,), (3,)]
    with pytest.raises(ValueError, match="one row was expected"):
        database.row("SELECT n FROM t")
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        _index_then_fail(connection)
    assert database.value("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass") == 0


def _index_then_fail(connection: psycopg.Connection[TupleRow]) -> None:
    connection.execute("CREATE UNIQUE INDEX ON t (n)")
    raise ZeroDivisionError


def test_server_keeps_its_port_and_data_over_restart_and_crash(make_server: MakeServer) -> None:
    server = make_server()
    port = server.port
    server.sql("CREATE TABLE t AS SELECT 1 AS n")
    server.restart()
    assert (server.port, server.value("SELECT n FROM t")) == (port, 1)
    server.sql("INSERT INTO t VALUES (2)")
    mark = server.log.mark()
    server.kill()
    assert not server.is_running
    assert processes_below(server.root) == []
    server.start()
    assert server.log.search("was not properly shut down", mark)
    assert (server.port, server.value("SELECT sum(n) FROM t")) == (port, 3)


def test_server_starts_at_once_after_only_its_postmaster_was_killed(make_server: MakeServer) -> None:
    server = make_server()
    forever = threading.Thread(target=_loop_forever, args=(server,))
    forever.start()
    wait_until(
        "a busy backend",
        lambda: server.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ '^DO '"),
        deadline_s=5,
    )
    assert server.pid is not None
    psutil.Process(server.pid).kill()
    wait_until("the postmaster's end", lambda: not server.is_running, deadline_s=5)
    assert processes_below(server.data_dir), "the busy backend holds the shared memory"
    server.start()
    assert server.value("SELECT 1") == 1
    forever.join(10)


def _loop_forever(server: Server) -> None:
    with suppress(psycopg.Error), server.connect() as connection:
        connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")


def test_kept_connection_is_reopened_after_its_backend_was_ended(server: Server) -> None:
    node = DsnNode("by address", server.dsn())
    before = node.value("SELECT pg_backend_pid()")
    assert node.value("SELECT pg_backend_pid()") == before
    server.value("SELECT pg_terminate_backend(%s, 5000)", [before])
    assert node.value("SELECT pg_backend_pid()") != before
    node.close()


def test_frozen_server_ends_every_wait_at_the_clients_deadline(make_server: MakeServer) -> None:
    server = make_server()
    assert server.value("SELECT 1") == 1
    with server.frozen():
        started = time.monotonic()
        with pytest.raises(WaitTimeoutError, match="an answer from the server") as caught:
            server.value("SELECT 1", deadline_s=0.3)
        assert caught.value.node == "server"
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            server.connect(connect_timeout_s=2)
        assert time.monotonic() - started < 15
        assert server.is_running
    assert server.value("SELECT 2") == 2


def test_two_threads_have_connections_of_their_own_and_one_has_one(server: Server) -> None:
    with ThreadPoolExecutor(2) as threads:
        server.sql("CREATE TABLE gate (n int)")
        with server.transaction() as holder:
            holder.execute("LOCK TABLE gate")
            waiting = threads.submit(server.value, "SELECT count(*) FROM gate")
            wait_until(
                "a waiter", lambda: server.value("SELECT count(*) FROM pg_locks WHERE NOT granted"), deadline_s=5
            )
        assert waiting.result(5) == 0
    server.sql("DROP TABLE gate")


def test_frozen_server_can_be_stopped_and_destroyed(make_server: MakeServer) -> None:
    stopped, destroyed = make_server(name="stopped"), make_server(name="destroyed")
    stopped.freeze()
    stopped.stop()
    assert not stopped.is_running
    destroyed.freeze()
    destroyed.destroy()
    assert not destroyed.root.exists()
    with pytest.raises(ServerError, match="not running"):
        stopped.freeze()


def test_setting_is_in_force_when_set_returns(make_server: MakeServer) -> None:
    server = make_server(settings={"work_mem": "5MB", "pgtrickle.note": "it's \\ here"})
    assert (server.show("work_mem"), server.show("pgtrickle.note")) == ("5MB", "it's \\ here")
    assert server.set("work_mem", "6MB") is False
    with server.connect() as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("6MB",)
    assert server.set("search_path", "public, pg_catalog") is False
    assert server.show("search_path") == "public, pg_catalog"
    assert server.set("max_connections", "33") is True
    server.restart()
    assert server.show("max_connections") == "33"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("work_mem", "a lot"), ("no_such_setting", "1"), ("port", "1"), ("work_mem", "1\n2"), ("a b", "1")],
    ids=["bad value", "unknown", "ours", "line break", "no name"],
)
def test_setting_that_cannot_be_is_refused_with_its_name(server: Server, setting: str, value: str) -> None:
    with pytest.raises(BadInputError, match=setting) as caught:
        server.set(setting, value)
    assert caught.value.hint


def test_log_is_searched_by_sqlstate_from_a_mark(server: Server) -> None:
    mark = server.log.mark()
    with pytest.raises(psycopg.errors.DivisionByZero):
        server.sql("SELECT 1 / 0")
    assert "division by zero" in server.log.wait_for(r" 22012 ERROR:", mark)


def test_program_runs_as_the_servers_user_without_a_password_in_sight(server: Server) -> None:
    sleeper = server.connect()
    try:
        done = server.run("psql", "-XAtc", "SELECT current_user, 'é'")
        assert done.stdout == "postgres|é\n"
        assert server.run("psql", "-XAt", input="SELECT 7").stdout == "7\n"
        server.run("pg_dump", "-Fd", "-f", "dump", "postgres")
        assert (server.scratch_dir / "dump" / "toc.dat").stat().st_uid == server.data_dir.stat().st_uid
    finally:
        sleeper.close()
    with pytest.raises(ServerError, match=r"psql failed with exit code 1.*does not exist"):
        server.run("psql", "-Xc", "SELECT * FROM nothing_here")
    with pytest.raises(WaitTimeoutError, match="psql"):
        server.run("psql", "-Xc", "SELECT pg_sleep(20)", timeout_s=0.5)


def test_password_is_in_no_process_list_and_no_log(make_server: MakeServer) -> None:
    server = make_server(settings={"log_statement": "all"})
    server.create_role("writer")
    with server.connect(user="writer") as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("writer",)
    assert server.run("psql", "-XAtc", "SELECT current_user", user="writer").stdout == "writer\n"
    secrets = [word.encode() for word in server._passwords.values()]
    seen = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes()
            if int(entry.name) != os.getpid():
                text += (entry / "environ").read_bytes()
        except OSError:
            continue
        seen += 1
        assert not any(secret in text for secret in secrets), entry
    assert seen or not Path("/proc/self").exists()
    log = server.log.path.read_bytes()
    assert not any(secret in log for secret in secrets)
    with pytest.raises(BadInputError, match="stranger"):
        server.dsn(user="stranger")
