"""Every fault is undone, however its block ends: an error, Ctrl-C, a node that died meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time

import psutil
import pytest

from harness.errors import BadInputError, ServerError, WaitTimeoutError
from harness.faults import (
    FAULTS,
    Proxy,
    Site,
    commits_held,
    fetch_backends,
    fetch_prepared,
    insist,
    kill_process,
    node_killed,
    process_frozen,
)
from harness.faults.backends import backend_process
from harness.postgres import Server
from scenarios.faults.stages import DBNAME, Stage

# Those move shards, each with a scenario of its own (test_topology.py).
SLOW = {"shard_moved", "rebalanced", "worker_added", "worker_drained", "worker_removed"}
ON_A_CLUSTER = sorted(FAULTS.keys() - SLOW)
ON_A_SERVER = sorted(name for name in ON_A_CLUSTER if not FAULTS[name].needs_workers and not FAULTS[name].needs_citus)
expected_lines = pytest.mark.allow_log(".", "nodes are killed in the middle of faults")


class _Interruption(BaseException):
    """As Ctrl-C is: no Exception."""


def _picture(site: Site) -> list[object]:
    """What a fault could leave on the nodes and in this process."""
    rows = [
        (
            node.name,
            node.show("synchronous_standby_names"),
            node.rows("SELECT spcname FROM pg_tablespace ORDER BY 1"),
            node.rows("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"),
        )
        for node in site.nodes
    ]
    proxies = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("proxy"))
    helpers = [
        process.name()
        for process in psutil.Process().children(recursive=False)
        if process.status() != psutil.STATUS_ZOMBIE and process.name() in {"sh", "unshare", "cat"}
    ]
    return [rows, proxies, helpers, fetch_prepared(site)]


def _break_and_interrupt(stage: Stage, name: str, seed: int) -> None:
    site = stage.site
    stage.hang_up()
    before, shape = _picture(site), stage.shape()
    victim = random.Random(seed).choice(site.workers or site.nodes)  # noqa: S311
    with contextlib.suppress(_Interruption), FAULTS[name].inject(site, random.Random(seed)) as words:  # noqa: S311
        assert words
        victim.kill()
        raise _Interruption
    insist("all nodes to run", lambda: _require_running(site, victim))
    stage.settle()
    assert _picture(site) == before
    assert stage.shape() == shape
    stage.change("local")
    stage.right_again("local", time.monotonic())


def _require_running(site: Site, victim: object) -> None:
    for node in site.nodes:
        if not node.is_running:
            # Who broke more than the fault did, as this test, mends that; the fault has mended its own.
            assert node is victim
            node.start()
        assert isinstance(node, Server)
        if any(_stands_still(process) for process in psutil.Process(node.pid).children()):
            raise ServerError(f"a process of {node.name} stands still", node=node.name)


def _stands_still(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
        return str(process.status()) == psutil.STATUS_STOPPED
    return False


@pytest.mark.citus(">= 13")
@expected_lines
@pytest.mark.parametrize("name", ON_A_CLUSTER)
def test_fault_is_undone_when_a_node_dies_and_its_block_is_interrupted(stage: Stage, name: str) -> None:
    _break_and_interrupt(stage, name, seed=len(name))


@expected_lines
@pytest.mark.parametrize("name", ON_A_SERVER)
def test_fault_is_undone_on_one_server(plain_stage: Stage, name: str) -> None:
    _break_and_interrupt(plain_stage, name, seed=len(name))


def test_only_processes_of_ours_are_signalled(plain_stage: Stage) -> None:
    server = plain_stage.site.local(plain_stage.site.coordinator)
    with pytest.raises(ServerError, match="is no backend of"):
        backend_process(server, os.getpid())
    with pytest.raises(ServerError, match="none that this process started"):
        kill_process(os.getppid())
    with pytest.raises(ServerError, match="none that this process started"), process_frozen(1):
        pytest.fail("it was frozen")
    assert fetch_backends(server, "no such database") == []


def test_commits_are_held_from_the_first_one_on(plain_stage: Stage) -> None:
    """The setting is known to new sessions before the checkpointer, which has other work, lets commits wait."""
    server = plain_stage.site.local(plain_stage.site.coordinator)
    plain_stage.hang_up()
    checkpointer = psutil.Process(server.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"))
    thaw = threading.Timer(0.5, checkpointer.resume)
    is_done = threading.Event()

    def commit() -> None:
        with contextlib.closing(server.connect(DBNAME, deadline_s=60)) as connection:
            connection.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'test', '')")
        is_done.set()

    writer = threading.Thread(target=commit)
    checkpointer.suspend()
    thaw.start()
    try:
        with commits_held(server):
            writer.start()
            assert not is_done.wait(0.5), "it did not wait"
        assert is_done.wait(10), "it was not let go"
    finally:
        thaw.join()
        writer.join(60)


def test_faults_say_what_they_lack(plain_stage: Stage) -> None:
    with pytest.raises(BadInputError, match="no worker"):
        plain_stage.site.worker(random.Random(1))  # noqa: S311
    assert not FAULTS["link_cut"].applies(plain_stage.site)


def test_insisting_gives_up_and_says_why() -> None:
    def fails() -> None:
        raise ServerError("it is on fire")

    with pytest.raises(WaitTimeoutError, match="on fire"):
        insist("the impossible", fails, deadline_s=0.05)


def test_server_that_was_started_meanwhile_is_left_alone(plain_stage: Stage) -> None:
    server = plain_stage.site.local(plain_stage.site.coordinator)
    plain_stage.hang_up()
    with node_killed(server):
        server.start()
        pid = server.pid
    assert server.pid == pid


def test_proxy_passes_on_and_ends_with_its_port_free() -> None:
    proxy = Proxy(("127.0.0.1", 1))
    assert proxy.address == ("127.0.0.1", proxy.port)
    proxy.close()
    proxy.close()
    again = Proxy(("127.0.0.1", 1))
    again.close()
    assert not [thread for thread in threading.enumerate() if thread.name == f"proxy {proxy.port}"]
