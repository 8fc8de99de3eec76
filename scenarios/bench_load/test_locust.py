"""Loads by locust: they end by themselves, their exit code follows the thresholds, and they stay on this machine."""

from __future__ import annotations

import contextlib
import csv
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from psycopg import sql

from harness.bench.load.clients import run_threads
from harness.bench.load.document import by_strategy, read_slices
from harness.bench.load.samples import percentile
from harness.bench.load.scripts import workload
from harness.bench.load.tables import SCHEMA, Strategy, check_captured, load_tables, table_name
from harness.errors import EXIT_CHECK_FAILED, EXIT_REFUSED
from harness.postgres import Node
from harness.postgres.ports import lease_port
from harness.waiting import wait_until
from scenarios.bench_load.commands import environment, load_command, locust_command, require_locust, run

# How long the table is locked under an open loop.
STALL_S = 0.6


@pytest.fixture(autouse=True, scope="module")
def locust() -> None:
    require_locust()


def test_load_with_two_clients_counts_what_it_wrote_and_misses_a_threshold(database: Node, tmp_path: Path) -> None:
    done = run(
        load_command(
            *("--dsn", database.dsn(), "--workload", "mixed", "--users", "2", "--strategies", "none,capture"),
            *("--rounds", "1", "--slice-s", "3", "--out", str(tmp_path)),
            *("--threshold", "failures<=0", "--threshold", "capture.p50<=0"),
        )
    )
    assert done.returncode == EXIT_CHECK_FAILED, done.stdout + done.stderr
    # One of the two thresholds, by name, with what was measured.
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines() if "threshold missed" in line] == [
        "capture.p50<=0"
    ]
    assert "capture: captured rows: right" in done.stdout
    rows = list(csv.DictReader((tmp_path / "load.csv").read_text(encoding="utf-8").splitlines()))
    assert {(row["client"], row["strategy"]) for row in rows} == {
        (client, strategy) for client in ("locust", "pgbench") for strategy in ("none", "capture")
    }
    for row in rows:
        assert int(row["statements"]) > 0
        assert 0 < float(row["p50_ms"]) <= float(row["p99.9_ms"])
        assert row["failed"] == "0"
    assert done.stdout.count("they agree") + done.stdout.count("THEY DIFFER") == 3  # two rates and their ratio
    assert (tmp_path / "locust_2_stats.csv").is_file()
    assert database.value("SELECT to_regnamespace(%s)", [SCHEMA]) is None, "nothing is left"
    assert database.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 0


@contextmanager
def _stalled(node: Node, strategy: Strategy) -> Iterator[None]:
    """Once something was written, nobody can write for a while."""

    is_there = threading.Event()

    def stall() -> None:
        with node.connect() as connection:
            is_there.set()
            wait_until("the load writes", lambda: _is_writing(node), deadline_s=60)
            with connection.transaction():
                connection.execute(sql.SQL("LOCK TABLE {}").format(table_name(strategy)))
                connection.execute("SELECT pg_sleep(%s)", [STALL_S])

    thread = threading.Thread(target=stall)
    thread.start()
    assert is_there.wait(30)
    yield
    thread.join()


def _is_writing(node: Node) -> bool:
    return bool(
        node.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            # Not the INSERT .. SELECT that fills the tables before.
            " AND query LIKE 'INSERT INTO \"bench_load\"%VALUES%'"
        )
    )


def test_open_loop_counts_from_when_a_statement_was_due(database: Node, tmp_path: Path) -> None:
    with _stalled(database, Strategy.NONE):
        done = run(
            load_command(
                *("--dsn", database.dsn(), "--users", "2", "--strategies", "none", "--rounds", "1", "--no-pgbench"),
                *("--slice-s", "8", "--rate", "100", "--out", str(tmp_path), "--threshold", "failures<=0"),
            )
        )
    assert done.returncode == 0, done.stdout + done.stderr
    found = by_strategy(read_slices(tmp_path / "locust_2.json"))[Strategy.NONE]
    assert found.count == 800, "what was due was sent, late or not"
    # Two statements waited in the lock; some sixty were due meanwhile, and waited for half of it on average.
    late = [each for each in found.latencies_ms if each > 100]
    assert len(late) > 25
    assert percentile(found.latencies_ms, 0.1) < 100


def test_threads_count_from_when_a_statement_was_due(database: Node) -> None:
    with database.connect() as connection, load_tables(connection, [Strategy.CAPTURE], is_distributed=False) as tables:
        table = tables[Strategy.CAPTURE]
        with _stalled(database, Strategy.CAPTURE):
            found = run_threads(database.dsn(), workload("single"), table.name, clients=2, seconds=5, rate=100)
        assert found.count == 500
        assert len([each for each in found.latencies_ms if each > 100]) > 25
        checked = check_captured(connection, table)
        assert checked.passed, checked.detail


def test_check_notices_a_row_that_was_not_captured(database: Node) -> None:
    with database.connect() as connection, load_tables(connection, [Strategy.CAPTURE], is_distributed=False) as tables:
        table = tables[Strategy.CAPTURE]
        run_threads(database.dsn(), workload("mixed"), table.name, clients=2, seconds=0.2)
        assert check_captured(connection, table).passed
        connection.execute("SET session_replication_role = replica")
        connection.execute(sql.SQL("UPDATE {} SET amount = amount + 1 WHERE id = 1").format(table.name))
        assert not check_captured(connection, table).passed


@pytest.mark.parametrize("dsn", ["host=192.0.2.7 user=u password=secret", "postgresql://u:secret@db.example.org/x"])
def test_load_elsewhere_is_refused_by_name(dsn: str) -> None:
    done = run(load_command("--dsn", dsn))
    assert done.returncode == EXIT_REFUSED
    assert "no load is sent to 192.0.2.7" in done.stderr or "no load is sent to db.example.org" in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_locust_itself_refuses_other_machines_and_a_page_for_all() -> None:
    elsewhere = run(locust_command("--headless"), HARNESS_LOAD_DSN="host=192.0.2.7 user=u password=secret")
    assert elsewhere.returncode == EXIT_REFUSED
    assert "no load is sent to 192.0.2.7" in elsewhere.stderr
    assert "secret" not in elsewhere.stdout + elsewhere.stderr
    for_all = run(locust_command("--web-host", "*"), HARNESS_LOAD_DSN="host=127.0.0.1")
    assert for_all.returncode == EXIT_REFUSED
    assert "not bound to *" in for_all.stderr


def test_page_is_for_this_machine_alone(database: Node) -> None:
    lease = lease_port()
    process = subprocess.Popen(
        load_command("--dsn", database.dsn(), "--web", "--web-port", str(lease.port), "--strategies", "none"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until("locust's page", lambda: _listening(process.pid), deadline_s=90)
        assert _listening(process.pid) == {("127.0.0.1", lease.port)}
    finally:
        # Locust first: the command around it then takes its tables away.
        for each in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        process.wait(60)
        lease.release()
    assert database.value("SELECT to_regnamespace(%s)", [SCHEMA]) is None


def _listening(pid: int) -> set[tuple[str, int]]:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {
        (each.laddr.ip, each.laddr.port)
        for one in processes
        for each in one.net_connections(kind="inet")
        if each.status == psutil.CONN_LISTEN
    }
