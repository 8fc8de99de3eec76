"""A refresh that is cut off in its middle, on both engines: nothing of it was done, and nothing is lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pytest

from harness.clusters import Cluster
from harness.engines import PG_TRICKLE, SERVER_SETTINGS, Engine, choose_extension_installation
from harness.errors import EnvironmentMissingError, HarnessError
from harness.postgres import DsnNode, Server
from harness.waiting import wait_until
from scenarios.engine.shop import CHANGES, TABLES, TOTALS
from scenarios.fixtures.engines import Ground
from scenarios.fixtures.servers import MakeServer

WAITING = "SELECT max(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
def own_server(stream_engine: Engine, make_server: MakeServer) -> Iterator[Server]:
    """A server of the test's own, that the engine can be put into."""
    if stream_engine is not PG_TRICKLE:
        yield make_server()
        return
    try:
        installation = choose_extension_installation()
    except EnvironmentMissingError as error:
        pytest.skip(f"environment: {error.message}")
    server = Server.create(installation, name="broken", settings=SERVER_SETTINGS)
    try:
        server.start()
        yield server
    finally:
        server.destroy()


@pytest.fixture
def broken_ground(stream_engine: Engine, own_server: Server) -> Iterator[Ground]:
    own_server.create_database("shop")
    with contextlib.closing(DsnNode("shop", own_server.dsn("shop"))) as node:
        stream_engine.prepare(node)
        yield Ground(stream_engine, Cluster("broken", node, ()))


@pytest.mark.parametrize("how", ["server", "session", "statement"])
def test_refresh_cut_off_in_its_middle_is_done_again(broken_ground: Ground, own_server: Server, how: str) -> None:
    """Its delta is half applied, and waits for a row that somebody else has locked."""
    node, engine = broken_ground.cluster.coordinator, broken_ground.engine
    # Closed and not committed at the end: by then there may be no server.
    with contextlib.closing(node.connect()) as connection, engine.open(connection) as tables:
        connection.execute(TABLES.encode())
        tables.create("totals", TOTALS, mode="DIFFERENTIAL")
        connection.execute(CHANGES)
        before = node.rows("SELECT * FROM totals ORDER BY customer")
        with contextlib.closing(node.connect(autocommit=False)) as blocker:
            blocker.execute("SELECT 1 FROM totals WHERE customer = 11 FOR UPDATE")

            def refresh() -> None:
                with contextlib.suppress(psycopg.Error, HarnessError):
                    tables.refresh("totals")

            refreshing = threading.Thread(target=refresh, daemon=True)
            refreshing.start()
            try:
                pid = wait_until("the refresh to wait", lambda: node.value(WAITING), deadline_s=20)
                if how == "server":
                    own_server.kill()
                elif how == "session":
                    node.value("SELECT pg_terminate_backend(%s)", [pid])
                else:
                    node.value("SELECT pg_cancel_backend(%s)", [pid])
            finally:
                blocker.close()
                refreshing.join(timeout=60)
            assert not refreshing.is_alive()
            if how != "server":
                ended = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s AND state <> 'idle'"
                wait_until("it to have let go", lambda: node.value(ended, [pid]), deadline_s=30)
    if how == "server":
        own_server.start()
    with node.connect() as connection, engine.open(connection) as tables:
        assert node.rows("SELECT * FROM totals ORDER BY customer") == before, "nothing of it was done"
        for _round in range(2):
            tables.refresh("totals")
            difference = tables.difference("totals")
            assert difference.is_equal, str(difference)
            connection.execute(CHANGES)
