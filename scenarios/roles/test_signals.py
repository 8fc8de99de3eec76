"""How a node ends: asked to, at any moment, or by a crash; and that it starts again whatever happened."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from harness.postgres.processes import find_postmaster, is_alive, kill_family, processes_below
from harness.waiting import wait_until
from scenarios.roles.conftest import MakeNode, worker_of
from scenarios.roles.role_nodes import RoleNode

pytestmark = pytest.mark.citus(">= 13")


def assert_nothing_runs(node: RoleNode) -> None:
    wait_until(f"the end of all processes of {node.name}", lambda: not processes_below(node.root), deadline_s=5)
    assert not (node.data_dir / "postmaster.pid").exists()
    assert not (node.root / "run" / "password").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_fast_and_clean_with_clients_connected(make_node: MakeNode, number: signal.Signals) -> None:
    node = make_node("stopped", CITUS_ENABLE="false")
    node.start()
    with psycopg.connect(node.dsn()) as client:
        client.execute("SELECT 1")
        assert node.stop(number) == 0
        client.close()
    assert "received fast shutdown request" in node.said()
    assert "database system is shut down" in node.said()
    assert_nothing_runs(node)
    node.start()
    assert "database system was shut down at" in node.said()  # no recovery was needed


def test_sigquit_is_immediate_and_the_next_start_recovers(make_node: MakeNode) -> None:
    node = make_node("quit", CITUS_ENABLE="false")
    node.start()
    with node.session() as client:
        client.sql("CREATE TABLE kept AS SELECT 1 AS id")
    assert node.stop(signal.SIGQUIT) == 0
    assert "received immediate shutdown request" in node.said()
    assert_nothing_runs(node)
    node.start()
    assert "automatic recovery in progress" in node.said()
    with node.session() as client:
        assert client.value("SELECT count(*) FROM kept") == 1


def test_sighup_reads_the_configuration_again(make_node: MakeNode) -> None:
    node = make_node("reloaded", CITUS_ENABLE="false")
    node.start()
    with node.session() as client:
        client.sql("ALTER SYSTEM SET work_mem = '7MB'")
        psutil.Process(node.pid).send_signal(signal.SIGHUP)
        wait_until("work_mem to be loaded", lambda: client.value("SHOW work_mem") == "7MB", deadline_s=5)
    assert node.stop() == 0


def test_a_stop_at_any_moment_of_the_first_start_does_no_harm(make_node: MakeNode) -> None:
    node = make_node("interrupted", volume="empty", CITUS_ENABLE="true")
    # From the first line of the script to a server that is nearly prepared; the last one may already be ready.
    for after_s in (0.02, 0.2, 0.5, 0.8, 1.1):
        node.begin()
        time.sleep(after_s)
        code = node.stop()
        assert code == 0 or (code == -signal.SIGTERM and not node.said()), node.said()
        assert_nothing_runs(node)
    node.start()
    assert node.health() == (0, "healthy: coordinator")


def _start_slowly(node: RoleNode) -> Path:
    """Its server takes a second before it listens to signals; a line of the file that is returned for each start."""
    bindir, starts = Path(node.environment["PG_BINDIR"]), node.root / "run" / "starts"
    own = node.root / "bin"
    own.mkdir(mode=0o755)
    for program in bindir.iterdir():
        if program.name != "postgres":
            (own / program.name).symlink_to(program)
    slow = own / "postgres"
    slow.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" -C "* | *" --version "*) exec "{bindir}/postgres" "$@" ;; esac\n'
        f'echo start >>"{starts}"\nsleep 1\nexec "{bindir}/postgres" "$@"\n',
        encoding="utf-8",
    )
    slow.chmod(0o755)
    node.environment["PG_BINDIR"] = str(own)
    return starts


@pytest.mark.parametrize("start", [1, 2], ids=["prepared", "opened"])
def test_a_stop_before_the_server_listens_to_signals_reaches_it(make_node: MakeNode, start: int) -> None:
    """A shell starts what it puts in the background with SIGINT ignored, and a stop sends that."""
    node = make_node("early", CITUS_ENABLE="false")
    starts = _start_slowly(node)
    node.begin()
    wait_until(
        f"start {start} of its server",
        lambda: starts.exists() and len(starts.read_text(encoding="utf-8").splitlines()) == start,
        deadline_s=30,
    )
    assert node.stop() == 0
    assert_nothing_runs(node)


def test_a_kill_at_any_moment_of_the_first_start_does_no_harm(make_node: MakeNode) -> None:
    node = make_node("killed", volume="empty", CITUS_ENABLE="true")
    for after_s in (0.3, 0.6, 0.9):
        node.begin()
        time.sleep(after_s)
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            kill_family(psutil.Process(node.pid))
        node.wait_end()
        wait_until("the killed to be gone", lambda: not processes_below(node.root), deadline_s=20)
    node.start()
    with node.session() as client:
        assert client.value("SELECT count(*) FROM pg_dist_node") == 1


def test_a_worker_that_waits_for_its_coordinator_stops_at_once(make_node: MakeNode) -> None:
    coordinator = make_node("absent")
    node = make_node("waiting", **worker_of(coordinator))
    node.begin()
    node.wait_said("not registered yet (try 6)")  # the next one is 8 s away
    assert node.health()[0] == 1
    started = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - started < 6.0, "it does not sleep to the end"
    assert_nothing_runs(node)


def test_a_server_that_dies_takes_the_node_along_and_the_next_start_recovers(make_node: MakeNode) -> None:
    node = make_node("dying")
    node.start()
    postmaster = find_postmaster(node.data_dir)
    assert postmaster is not None
    postmaster.kill()
    assert node.wait_end() == 128 + signal.SIGKILL
    wait_until("the server's processes to notice", lambda: not processes_below(node.root), deadline_s=10)
    node.start()
    assert node.health() == (0, "healthy: coordinator")


def test_what_a_killed_entry_point_leaves_holds_the_volume(make_node: MakeNode) -> None:
    node = make_node("orphan", CITUS_ENABLE="false")
    node.start()
    postmaster = find_postmaster(node.data_dir)
    assert postmaster is not None
    psutil.Process(node.pid).kill()
    node.wait_end()
    node.begin()
    assert node.wait_end() == 2
    assert "another node runs on PGDATA" in node.said()
    assert is_alive(postmaster)
    postmaster.send_signal(signal.SIGINT)
    wait_until("the orphan to stop", lambda: not processes_below(node.root), deadline_s=5)
    node.start()
