"""A worker that is dead, or hangs: every live inspector answers in time, with what the others say, and its name."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.faults.nodes import node_frozen, node_killed
from harness.inspectors import Reason, Status
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_live.looks import look, look_whole, opened

NAMES = (
    "citus_lock_inspector",
    "citus_activity",
    "citus_tenant_hotspots",
    "citus_pool_inspector",
    "citus_txn_inspector",
    "citus_stats_dashboard",
)
# Citus waits for a connection for 1.5 s at most (harness.inspectors.limits), and machines here are busy. Who waited for
# the server's own limit would not be partial but unavailable.
_MOST_S = 10.0
ORDER = "UPDATE app.orders SET amount = 0 WHERE tenant_id = 7 AND id = 7"


@pytest.mark.parametrize("fault", [node_killed, node_frozen], ids=["dead", "frozen"])
def test_silent_worker_is_named_in_time_and_the_others_answer(live: Standard, fault: Callable[..., object]) -> None:
    coordinator, silent = live.cluster.coordinator, live.cluster.workers[1]
    for node in live.cluster.nodes:
        node.set("citus.stat_tenants_track", "all")
    live.cluster.close()
    try:
        with opened(coordinator, "BEGIN", "SELECT FROM app.plain") as session:
            pid = session.info.backend_pid
            with fault(silent):  # type: ignore[attr-defined]  # both are context managers
                found, elapsed = {}, {}
                for name in NAMES:
                    started = time.monotonic()
                    found[name] = look(live.dsn(), name, limit=1000)
                    elapsed[name] = time.monotonic() - started
    finally:
        for node in live.cluster.nodes:
            node.set("citus.stat_tenants_track", "none")
    for name, envelope in found.items():
        # Counters are off here, which is told first.
        reason = Reason.GUC_OFF if name == "citus_stats_dashboard" else Reason.NODE_UNREACHABLE
        assert (name, envelope.status, envelope.reason) == (name, Status.PARTIAL, reason)
        assert [each.node for each in envelope.nodes.failed] == [live.node_names[2]]
        assert envelope.nodes.answered == live.node_names[:2]
    assert {name: seconds for name, seconds in elapsed.items() if seconds > _MOST_S} == {}
    assert pid in {row.pid for row in found["citus_activity"].rows}
    for name in ("citus_pool_inspector", "citus_stats_dashboard"):
        assert [row.node for row in found[name].rows] == list(live.node_names[:2])
    assert set(found["citus_tenant_hotspots"].facts["tracking"]) == set(live.node_names[:2])


def test_worker_that_is_back_is_seen_again(live: Standard) -> None:
    with node_killed(live.cluster.workers[0]):
        assert look(live.dsn(), "citus_txn_inspector").status is Status.PARTIAL
    assert look_whole(live.dsn(), "citus_txn_inspector").nodes.answered == live.node_names


def test_look_opens_one_connection_to_each_node(live: Standard) -> None:
    """By the servers' own logs: what is logged of Citus' connections while one look runs."""
    for name in NAMES:
        marks = {node.name: node.log.mark() for node in live.cluster.nodes}
        look(live.dsn("inspector"), name)
        for node in live.cluster.nodes:
            authorized = [
                line
                for line in node.log.since(marks[node.name]).splitlines()
                if "connection authorized" in line and "application_name=citus" in line and "inspector" in line
            ]
            assert len(authorized) == 1, (name, node.name, authorized)


def test_two_looks_at_an_idle_cluster_differ_in_volatile_fields_only(live: Standard) -> None:
    for name in NAMES:
        first, second = (look(live.dsn(), name, limit=1000) for _ in range(2))

        def still(envelope: object) -> list[dict[str, object]]:
            return [
                {field: value for field, value in vars(row).items() if field not in envelope.volatile}  # type: ignore[attr-defined]
                for row in envelope.rows  # type: ignore[attr-defined]
            ]

        assert still(first) == still(second), name
