"""Harnesses in processes of their own, which a test can freeze, thaw and kill; and places where they wait."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from psycopg import sql

from harness.postgres import Node
from harness.waiting import wait_until
from scenarios.coordination.refresher import APPLICATION, GATE

ROOT = Path(__file__).parents[2]


class Client:
    """A process of ours.

    Args:
        arguments: for Python, such as ``["-m", "harness", ...]``.
        dsn: the database, as HARNESS_DSN.
    """

    def __init__(self, arguments: Sequence[str], dsn: str) -> None:
        environment = {**os.environ, "HARNESS_DSN": dsn, "PYTHONPATH": str(ROOT), "HARNESS_LOG_LEVEL": "info"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def freeze(self) -> None:
        """Stop it where it is, until it is thawed."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)

    def end(self, timeout_s: float = 60.0) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, complaint = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, complaint


@contextlib.contextmanager
def client(arguments: Sequence[str], dsn: str) -> Iterator[Client]:
    """A process that does not outlive this block, frozen or not."""
    started = Client(arguments, dsn)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.thaw()
            started.kill()
        for stream in (started.process.stdout, started.process.stderr):
            if stream is not None:
                stream.close()


def st(*arguments: str) -> list[str]:
    """The arguments of ``harness st ...``."""
    return ["-m", "harness", "st", *arguments]


@contextlib.contextmanager
def held_before_its_commit(node: Node) -> Iterator[None]:
    """Refreshes wait with all their work done, at the row of history that is their last statement."""
    with contextlib.closing(node.connect(autocommit=False)) as blocker:
        blocker.execute("LOCK TABLE pgtrickle.pgt_refresh_history IN EXCLUSIVE MODE")
        yield


def wait_for_refresh_before_its_commit(node: Node, count: int = 1) -> int:
    """Until so many refreshes wait at their last statement; the process id of one."""
    found = wait_until(
        "a refresh to wait before its commit",
        lambda: node.rows(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            " AND query LIKE '%%pgt_refresh_history%%' AND pid <> pg_backend_pid()"
        )[count - 1 :],
        deadline_s=30,
    )
    return int(found[0][0])


def wait_for_session_end(node: Node, pid: int, *, deadline_s: float) -> None:
    """Until a session whose client is gone, or that was told to end, has ended: what it held is free by then."""
    left = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    wait_until(f"session {pid} to end", lambda: not node.value(left, [pid]), deadline_s=deadline_s)


def set_lock_timeout(node: Node, span: str) -> None:
    """For sessions that come after this."""
    with node.connect() as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET pgtrickle.lock_timeout = {}").format(name, sql.Literal(span)))


def completed(node: Node, name: str) -> list[tuple[Any, ...]]:
    """The refreshes of a stream table that were done, in order: action, start, end."""
    return node.rows(
        "SELECT h.action, h.start_time, h.end_time FROM pgtrickle.pgt_refresh_history h"
        " JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE t.pgt_name = %s AND h.status = 'COMPLETED'"
        " ORDER BY h.refresh_id",
        [name],
    )


def documents(text: str) -> list[dict[str, Any]]:
    """JSON documents, one a line."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def two_refreshers(node: Node, *, count: int, wait_s: float) -> Iterator[tuple[Client, Client]]:
    """Two processes that began in one moment, and one of which came while the other was before its COMMIT."""
    start = ["-m", "scenarios.coordination.refresher", "balances", str(count), str(wait_s)]
    at_the_gate = (
        "SELECT count(*) = 2 FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = %s AND wait_event = 'advisory'"
    )
    with contextlib.ExitStack() as stack:
        with contextlib.closing(node.connect()) as gate, held_before_its_commit(node):
            gate.execute("SELECT pg_advisory_lock(%s)", [GATE])
            one = stack.enter_context(client([*start, "1000"], node.dsn()))
            other = stack.enter_context(client([*start, "2000"], node.dsn()))
            wait_until("both to be at the gate", lambda: node.value(at_the_gate, [APPLICATION]), deadline_s=60)
            gate.execute("SELECT pg_advisory_unlock(%s)", [GATE])
            wait_for_refresh_before_its_commit(node)
            if not wait_s:
                said = [stream for each in (one, other) if (stream := each.process.stdout) is not None]
                wait_until("one to be turned away", lambda: select.select(said, [], [], 0)[0], deadline_s=30)
        yield one, other


def refresh_from_two(node: Node, *, count: int, wait_s: float) -> list[tuple[int, str, str]]:
    """Two refreshers of ``balances`` and a third writer, until the two have ended; what they ended with."""
    with two_refreshers(node, count=count, wait_s=wait_s) as both:
        for entry in itertools.count(1):
            if all(each.process.poll() is not None for each in both):
                break
            node.sql("INSERT INTO entries VALUES (%s, 3, 1)", [-entry])
        return [each.end() for each in both]
