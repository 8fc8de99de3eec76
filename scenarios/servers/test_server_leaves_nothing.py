"""Nothing is left: after exit, Ctrl-C, SIGTERM, a failed start, and, by the next run, after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from harness.errors import BadInputError, PortTakenError, ServerError, ServerStartError
from harness.postgres import Installation, Server, lifetime, temporary_server
from harness.postgres.lifetime import destroy_all, sweep
from harness.postgres.places import servers_dir
from harness.postgres.ports import PORT_RANGE
from harness.postgres.processes import is_alive
from harness.settings import load_settings
from scenarios.fixtures.servers import MakeServer

PROJECT = Path(__file__).parents[2]
# What a program does that uses the harness: `how` is how it ends.
PROGRAM = """
import json, signal, sys
from harness.postgres import Server, choose_installation
from harness.logs import configure_logging
from harness.postgres.lifetime import install_signal_handlers
configure_logging()
how, keep = sys.argv[1], sys.argv[2] == "keep"
install_signal_handlers()
servers = [Server.create(choose_installation(), name=name, keep=keep) for name in ("one", "two")]
for server in servers:
    server.start()
print(json.dumps([[str(server.root), server.pid, server.port] for server in servers]), flush=True)
if how == "exit":
    sys.exit(0)
if how == "raise":
    raise RuntimeError("a bug of the program")
signal.pause()
"""


@dataclass(frozen=True)
class Left:
    """A server as its program saw it."""

    root: Path
    pid: int
    port: int


def run_program(how: str, *, keep: bool = False) -> tuple[subprocess.Popen[str], list[Left]]:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how, "keep" if keep else "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        start_new_session=True,
    )
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        pytest.fail(program.communicate()[1])
    return program, [Left(Path(root), pid, port) for root, pid, port in json.loads(line)]


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))


def segments() -> set[str]:
    """The System V shared memory of the whole machine, where the kernel lists it."""
    table = Path("/proc/sysvipc/shm")
    return {line.split()[1] for line in table.read_text().splitlines()[1:]} if table.exists() else set()


def segment_of(server: Server) -> str:
    return (server.data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1]


@pytest.mark.parametrize(
    ("how", "number", "exit_code"),
    [
        ("exit", None, 0),
        ("raise", None, 1),
        ("wait", signal.SIGINT, -signal.SIGINT),
        ("wait", signal.SIGTERM, 143),
        ("wait", signal.SIGHUP, 129),
    ],
    ids=["exit", "exception", "ctrl-c", "sigterm", "sighup"],
)
def test_program_that_ends_leaves_no_process_and_no_directory(
    own_run_dir: Path, how: str, number: signal.Signals | None, exit_code: int
) -> None:
    program, left = run_program(how)
    if number is not None:
        os.killpg(program.pid, number)
    program.communicate(timeout=30)
    assert program.returncode == exit_code
    assert [one for one in left if one.root.exists() or is_running(one.pid)] == []
    assert [path.name for path in servers_dir().iterdir()] == ["sweep.lock"]


def test_killed_program_is_swept_by_the_next_run(own_run_dir: Path, installation: Installation) -> None:
    program, left = run_program("wait")
    program.kill()
    program.communicate(timeout=30)
    assert all(is_running(one.pid) for one in left)
    with temporary_server(installation) as server:  # the next run's first server sweeps
        assert server.value("SELECT 1") == 1
        assert [one for one in left if one.root.exists() or is_running(one.pid)] == []


def test_sweep_leaves_running_and_detached_servers_alone(own_run_dir: Path, make_server: MakeServer) -> None:
    program, left = run_program("wait")
    mine = make_server(name="mine")
    gone = make_server(name="gone")
    gone.detach()
    assert sweep() == ()
    assert mine.value("SELECT 1") == 1
    assert all(is_running(one.pid) for one in left)
    back = Server.attach(gone.root)
    assert (back.port, back.value("SELECT 2")) == (gone.port, 2)
    with pytest.raises(BadInputError, match="still runs"):
        Server.attach(gone.root)
    back.restart()
    assert back.value("SELECT 3") == 3
    back.destroy()
    assert not back.root.exists()
    program.terminate()
    program.communicate(timeout=30)


def test_sweep_does_not_kill_a_process_that_got_the_pid(own_run_dir: Path) -> None:
    # A killed run's directory, and its postmaster's number now belongs to someone else: to us.
    data_dir = servers_dir() / "server-0000" / "data"
    data_dir.mkdir(parents=True)
    (data_dir / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir}\n0\n24000\n\n127.0.0.1\n1 1\nready\n")
    assert sweep() == (data_dir.parent,)
    assert not data_dir.exists()


def test_kept_directory_stays_without_processes_and_is_named(own_run_dir: Path) -> None:
    program, left = run_program("exit", keep=True)
    _, errors = program.communicate(timeout=30)
    for one in left:
        assert (one.root / "data" / "PG_VERSION").exists()
        assert not is_running(one.pid)
        assert str(one.root) in errors
    assert sweep() == ()
    for one in left:
        Server.attach(one.root).destroy()


def test_failed_start_shows_the_log_and_leaves_nothing(own_run_dir: Path, installation: Installation) -> None:
    before = set(servers_dir().iterdir())
    server = Server.create(installation, settings={"shared_buffers": "lots"})
    with pytest.raises(ServerStartError, match="ended while it started") as caught:
        server.start()
    assert 'invalid value for parameter "shared_buffers"' in caught.value.log_tail
    assert not server.root.exists()
    assert {path for path in set(servers_dir().iterdir()) - before if path.name.startswith("server-")} == set()


def test_start_that_is_too_slow_ends_at_its_deadline(own_run_dir: Path, installation: Installation) -> None:
    server = Server.create(installation)
    server.start(wait=False)
    with pytest.raises(ServerStartError, match="did not become ready within"):
        server.wait_ready(0.0)
    server.wait_ready()
    server.destroy()
    assert not server.root.exists()


def test_taken_port_is_refused_and_leaves_nothing(own_run_dir: Path, installation: Installation) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(port)):
            Server.create(installation, port=port)
    assert [path.name for path in servers_dir().iterdir()] == ["sweep.lock"]


def _server_at_a_port_asked_for(installation: Installation) -> Server:
    for port in PORT_RANGE:
        with contextlib.suppress(PortTakenError):
            return Server.create(installation, port=port)
    pytest.fail("no port is free")


def test_port_taken_between_create_and_start_is_an_error_or_another_port(
    own_run_dir: Path, installation: Installation
) -> None:
    with socket.socket() as stranger:
        chosen = Server.create(installation)
        asked = _server_at_a_port_asked_for(installation)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", chosen.port))
        stranger.listen()
        before = chosen.port
        chosen.start()
        assert chosen.port != before
        assert chosen.value("SHOW port") == str(chosen.port)
        chosen.destroy()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT are no hindrance
            other.bind(("127.0.0.1", asked.port))
            other.listen()
            with pytest.raises(PortTakenError):
                asked.start()
        assert not asked.root.exists()


def test_killed_server_leaves_no_shared_memory(make_server: MakeServer) -> None:
    server = make_server()
    segment = segment_of(server)
    server.kill()
    server.destroy()
    assert segment not in segments()
    assert not server.root.exists()


def test_two_programs_at_once_never_meet(own_run_dir: Path) -> None:
    first, second = run_program("wait"), run_program("wait")
    ports = [one.port for _, left in (first, second) for one in left]
    assert len(set(ports)) == 4
    for program, _ in (first, second):
        program.terminate()
    for program, left in (first, second):
        program.communicate(timeout=30)
        assert not any(one.root.exists() for one in left)


def test_servers_made_in_threads_at_once_all_work(own_run_dir: Path, make_server: MakeServer) -> None:
    made: list[Server] = []
    threads = [threading.Thread(target=lambda: made.append(make_server())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [server.value("SELECT 1") for server in made] == [1, 1, 1]
    assert len({server.port for server in made}) == 3


def test_deep_run_directory_gets_a_short_socket_path(
    own_run_dir: Path, monkeypatch: pytest.MonkeyPatch, installation: Installation
) -> None:
    deep = own_run_dir / ("deep, 'odd' " + "d" * 80)
    monkeypatch.setenv("HARNESS_RUN_DIR", str(deep))
    load_settings.cache_clear()
    with temporary_server(installation) as server:
        assert len(f"{server.socket_dir}/.s.PGSQL.{server.port}") <= 107
        with psycopg.connect(server.dsn(), host=str(server.socket_dir)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        socket_dir = server.socket_dir
    assert not socket_dir.exists()


def test_odd_characters_in_the_run_directory_do_no_harm(
    own_run_dir: Path, monkeypatch: pytest.MonkeyPatch, installation: Installation
) -> None:
    monkeypatch.setenv("HARNESS_RUN_DIR", str(own_run_dir / "a, 'b' \"c\" ü"))
    load_settings.cache_clear()
    with temporary_server(installation) as server:
        assert server.socket_dir.parent == server.root
        assert (server.socket_dir / f".s.PGSQL.{server.port}").exists()
        assert server.run("psql", "-XAtc", "SELECT 1").stdout == "1\n"


def test_server_starts_under_a_strict_umask(
    own_run_dir: Path, monkeypatch: pytest.MonkeyPatch, installation: Installation
) -> None:
    monkeypatch.setenv("HARNESS_RUN_DIR", str(own_run_dir / "below"))
    monkeypatch.delenv("HARNESS_CACHE_DIR")
    load_settings.cache_clear()
    before = os.umask(0o077)
    try:
        with temporary_server(installation) as server:
            assert server.run("psql", "-XAtc", "SELECT 1").stdout == "1\n"
    finally:
        os.umask(before)


def test_teardown_raises_all_failures_together(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [make_server(name="one", start=False), make_server(name="two", start=False)]

    def fail(*_: object) -> None:
        raise ServerError("cannot")

    with monkeypatch.context() as patch:
        patch.setattr(lifetime, "_alive", {id(server): server for server in servers})
        patch.setattr(Server, "destroy", fail)
        with pytest.raises(ExceptionGroup) as caught:
            destroy_all()
    assert len(caught.value.exceptions) == 2


def test_handler_of_an_embedding_program_is_kept_and_called() -> None:
    text = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from harness.postgres.lifetime import install_signal_handlers\n"
        "install_signal_handlers()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "signal.pause()\n"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=PROJECT, check=False, timeout=30)
    assert done.returncode == 7
