"""Faults of single server processes, found in the pg_stat_activity of the very node that they belong to."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psutil

from harness.errors import ServerError
from harness.faults.undoing import start
from harness.postgres.server import Server
from harness.postgres.server_node import ServerNode
from harness.waiting import wait_until

# A signal is taken within microseconds; a process in the middle of a write to disk takes it after that.
_SIGNAL_DEADLINE_S = 10.0
_BACKENDS: LiteralString = """
    SELECT pid, coalesce(application_name, ''), coalesce(state, ''), coalesce(query, '')
    FROM pg_catalog.pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() AND datname = %s
      AND application_name LIKE %s AND query LIKE %s
    ORDER BY pid"""


@dataclass(frozen=True)
class Backend:
    """A session's process on a node.

    Attributes:
        node: the name of the node.
        pid: the process, as that node's pg_stat_activity has it.
        application_name: of the session; those that Citus opens begin with ``citus_internal``.
        state: such as ``idle in transaction``.
        query: its present statement, or the last one.
    """

    node: str
    pid: int
    application_name: str
    state: str
    query: str


def fetch_backends(node: ServerNode, dbname: str, *, application: str = "%", query: str = "%") -> list[Backend]:
    """The sessions in a database of a node, but for the one that asks; runs on that node and changes nothing.

    Args:
        node: which node.
        dbname: the database.
        application: pattern of LIKE for the application's name, such as ``citus_internal%``.
        query: pattern of LIKE for the present statement, or the last one.
    """
    return [Backend(node.name, *row) for row in node.rows(_BACKENDS, [dbname, application, query])]


def backend_process(node: Server, pid: int) -> psutil.Process:
    """A backend as a process of this machine; only a child of this node's own postmaster counts.

    Raises:
        ServerError: there is no such process, or it is not this node's.
    """
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if node.pid is not None and process.ppid() == node.pid:
            return process
    raise ServerError(
        f"process {pid} is no backend of {node.name}",
        hint="take it from the node's own pg_stat_activity",
        node=node.name,
    )


@contextmanager
def backend_killed(node: Server, pid: int) -> Iterator[None]:
    """SIGKILL to one backend. PostgreSQL then ends every session of the node and recovers from its WAL, by itself.

    Runs on that node. Leaves: the node running. It is awaited at the end, and started if the crash took it down.

    Args:
        node: a local server of our own.
        pid: of a backend of that very node.

    Raises:
        ServerError: no such backend.
    """
    process = backend_process(node, pid)
    try:
        process.kill()
        node.close()
        # Only when its postmaster has taken note does the node end its sessions; before that it still answers.
        label = f"{node.name} to notice the end of backend {pid}"
        wait_until(label, lambda: not psutil.pid_exists(pid), deadline_s=_SIGNAL_DEADLINE_S, poll_s=0.001)
        yield
    finally:
        start(node)


def terminate_backend(node: ServerNode, pid: int) -> bool:
    """pg_terminate_backend: the session ends with 57P01, its transaction is undone; nothing is left to undo.

    Runs on that node.

    Args:
        node: which node.
        pid: of a backend there.

    Returns:
        Whether there was such a session; it is gone when this returns, unless it takes longer than 10 s.
    """
    # Citus adds an overload with a bigint: the types are said (ha.md, end of 3).
    return bool(
        node.value("SELECT pg_catalog.pg_terminate_backend(%s::int, %s::bigint)", [pid, int(_SIGNAL_DEADLINE_S * 1000)])
    )


@contextmanager
def backend_frozen(node: Server, pid: int) -> Iterator[None]:
    """SIGSTOP to one backend, SIGCONT at the end: its locks stay, its client waits, all other sessions go on.

    Runs on that node. Neither pg_terminate_backend nor any timeout ends it meanwhile. Leaves: nothing. A backend that
    is gone by the end, since its node was killed, is left alone: another process may have its number.

    Args:
        node: a local server of our own.
        pid: of a backend of that very node.

    Raises:
        ServerError: no such backend.
    """
    process = backend_process(node, pid)
    try:
        process.suspend()
        wait_until(
            f"backend {pid} to stand still",
            lambda: not _lives(process) or process.status() == psutil.STATUS_STOPPED,
            deadline_s=_SIGNAL_DEADLINE_S,
            poll_s=0.001,
        )
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()  # psutil looks at its start time first


def _wait_gone(process: psutil.Process) -> None:
    label = f"process {process.pid} to be gone"
    wait_until(label, lambda: not _lives(process), deadline_s=_SIGNAL_DEADLINE_S, poll_s=0.001)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def process_frozen(pid: int) -> Iterator[None]:
    """SIGSTOP to a process of ours, such as a harness; SIGCONT at the end, if it is still there.

    Args:
        pid: a child of this process, or of one of its children.

    Raises:
        ServerError: it is none of ours.
    """
    process = own_process(pid)
    try:
        process.suspend()
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def kill_process(pid: int) -> None:
    """SIGKILL to a process of ours, such as a harness. Who started it reaps it, and starts another if it likes.

    Args:
        pid: a child of this process, or of one of its children.

    Raises:
        ServerError: it is none of ours.
    """
    process = own_process(pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
    _wait_gone(process)


def own_process(pid: int) -> psutil.Process:
    """A process that this one started, or one that such a process started.

    Raises:
        ServerError: it is gone, or none of ours.
    """
    for process in psutil.Process().children(recursive=True):
        if process.pid == pid:
            return process
    raise ServerError(f"process {pid} is none that this process started", hint="only our own are killed or frozen")
