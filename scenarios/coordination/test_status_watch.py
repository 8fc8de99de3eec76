"""``harness st status --watch``: lag, rows that wait, who is at work, who holds back; on a terminal and as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.waiting import wait_until
from scenarios.coordination.clients import ROOT, client, st
from scenarios.coordination.stages import change, prepare


def test_watch_in_a_terminal_shows_each_stream_table_and_ends_with_ctrl_c(database: Node) -> None:
    prepare(database, is_distributed=False, schedule="1h")
    change(database)
    leader, follower = pty.openpty()
    environment = {**os.environ, "HARNESS_DSN": database.dsn(), "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    command = [sys.executable, *st("status", "--watch", "--every", "0.2")]
    with subprocess.Popen(command, env=environment, stdout=follower, stderr=follower, cwd=ROOT) as process:
        os.close(follower)
        seen = ""

        def shows(pattern: str) -> bool:
            nonlocal seen
            with contextlib.suppress(OSError):
                seen += os.read(leader, 65_536).decode()
            return re.search(pattern, seen) is not None

        try:
            wait_until("the table", lambda: shows(r"public\.balances.*ACTIVE.*\d+\.\d s\s+1 "), deadline_s=30)
            with database.connect() as connection, StreamTables(connection) as tables:
                tables.refresh("balances")
            wait_until("nothing to wait", lambda: shows(r"public\.balances.*ACTIVE.*\d+\.\d s\s+0 "), deadline_s=30)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0, seen
            os.close(leader)
    assert "Traceback" not in seen


@pytest.mark.citus(">= 13")
def test_watch_as_json_says_lag_and_who_is_at_work(citus_database: Cluster) -> None:
    node = citus_database.coordinator
    prepare(node, is_distributed=True)
    change(node)
    with (
        client(st("status", "balances", "--watch", "--every", "0.2", "--json"), node.dsn()) as watching,
        node.connect() as connection,
        StreamTables(connection) as tables,
    ):
        assert watching.process.stdout is not None
        first = json.loads(watching.process.stdout.readline())
        (found,) = first["stream_tables"]
        assert first["passed"] is True
        assert found["pending"] == {"public.entries": 1}
        assert found["lag_s"] > 0
        assert found["at_work"] is None
        with tables.leases.held(tables.list()[0].pgt_id, "balances"):
            for _line in range(100):
                (found,) = json.loads(watching.process.stdout.readline())["stream_tables"]
                if found["at_work"]:
                    break
            assert "process" in found["at_work"]
        watching.process.send_signal(signal.SIGINT)
        assert watching.end()[0] == 0


def test_watch_of_what_is_not_there_is_refused(database: Node) -> None:
    prepare(database, is_distributed=False)
    with client(st("status", "nothing", "--watch"), database.dsn()) as watching:
        code, _, complaint = watching.end()
    assert code == 2
    assert "nothing" in complaint
