"""What the tests here share: looks, and sessions that wait in the background."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from harness.clusters import RunningCluster
from harness.inspectors import Envelope, Inspection, Reason, Status
from harness.inspectors.contract import Finding
from harness.inspectors.redaction import Redactor
from harness.inspectors.registry import get
from harness.postgres import Node
from harness.postgres.deadlines import DeadlineConnection
from harness.waiting import wait_until
from scenarios.inspectors.patience import look_until_heard

KEY = b"a key of tests"


def look(dsn: str, name: str, **values: Any) -> Envelope[Any]:
    """One look, as a person would have it, on a connection of its own."""
    with Inspection(dsn, redactor=Redactor(KEY)) as inspection:
        return inspection.inspect(name, values)


def look_whole(dsn: str, name: str, **values: Any) -> Envelope[Any]:
    """A look that must see everything."""
    found = look_until_heard(lambda: look(dsn, name, **values))
    assert (found.status, found.reason, found.message) == (Status.OK, None, "")
    return found


def findings(envelope: Envelope[Any]) -> list[Finding]:
    """What a person must act on, as the inspector grades it."""
    severity = get(envelope.name).severity
    assert severity is not None
    return list(severity(envelope))


def assert_partial(envelope: Envelope[Any], reason: Reason, *words: str) -> None:
    """The answer says that it is not whole, why, and names what is missing."""
    assert (envelope.status, envelope.reason) == (Status.PARTIAL, reason), envelope.message
    for word in words:
        assert word in envelope.message


def gpid_of(connection: psycopg.Connection[Any]) -> int:
    """A session's number in the whole cluster, by its own word."""
    row = connection.execute("SELECT pg_catalog.citus_backend_gpid()").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def opened(node: Node, *statements: str, user: str | None = None) -> Iterator[DeadlineConnection]:
    """A session that ran these and stays; rolled back at the end."""
    with node.connect(user=user) as connection:
        for statement in statements:
            connection.execute(statement)
        try:
            yield connection
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")


_WAITS = """
    SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.get_all_active_transactions() t ON t.process_id = l.pid
    WHERE NOT l.granted AND t.global_pid = %s"""


@contextmanager
def waiting(cluster: RunningCluster, node: Node, statement: str, *before: str) -> Iterator[int]:
    """A session whose statement waits for a lock, on whatever node, from the beginning of the block to its end.

    Yields:
        Its number in the whole cluster.
    """
    with node.connect() as connection:
        for each in before:
            connection.execute(each)
        with waiting_in(cluster, connection, statement) as gpid:
            yield gpid


@contextmanager
def waiting_in(cluster: RunningCluster, connection: DeadlineConnection, statement: str) -> Iterator[int]:
    """As `waiting`, in a session that is there already; cancelled and rolled back at the end."""
    gpid = gpid_of(connection)
    with running(connection, statement):
        wait_until(f"{gpid} to wait", lambda: any(each.rows(_WAITS, [gpid]) for each in cluster.nodes), deadline_s=20)
        yield gpid


@contextmanager
def running(connection: DeadlineConnection, statement: str) -> Iterator[None]:
    """A statement that runs meanwhile; cancelled and rolled back at the end."""

    def run() -> None:
        with contextlib.suppress(psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected):
            connection.execute(statement)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        connection.cancel_safe(timeout=10)
        thread.join(20)
        assert not thread.is_alive()
        connection.execute("ROLLBACK")
