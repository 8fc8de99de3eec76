"""`citus_activity` beside what each node's own pg_stat_activity says."""

from __future__ import annotations

from typing import Any

from harness.inspectors import Reason
from harness.waiting import wait_until
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_live.looks import assert_partial, gpid_of, look, look_whole, opened, running, waiting

NAME = "citus_activity"
SCAN = "SELECT count(*) FROM app.orders"
ORDER = "UPDATE app.orders SET amount = 77002 WHERE tenant_id = 7 AND id = 7"
# Each shard that has a row sleeps; 50 tenants are on all eight.
SLEEP = "SELECT count(pg_sleep(0.5)) FROM app.orders WHERE amount <> 77003"


def _backends(live: Standard, gpid: int) -> dict[str, list[str]]:
    """States of the backends that work for a session, by each node's own word."""
    return {
        node.name: [
            str(state)
            for (state,) in node.rows(
                "SELECT state FROM pg_stat_activity WHERE application_name = 'citus_internal gpid=' || %s ORDER BY 1",
                [str(gpid)],
            )
        ]
        for node in live.cluster.workers
    }


def test_session_in_a_transaction_is_one_row_with_its_workers_folded_in(live: Standard) -> None:
    with opened(live.cluster.coordinator, "SET application_name = 'an \"app\"'", "BEGIN", SCAN, ORDER) as session:
        gpid = gpid_of(session)
        found = look_whole(live.dsn(), NAME, statements="truncated")
        backends = _backends(live, gpid)
        single = look_whole(live.dsn(), NAME, include_workers=True)
    (row,) = [each for each in found.rows if each.gpid == gpid]
    busy = sum(state == "idle in transaction" for states in backends.values() for state in states)
    assert busy >= 2
    assert (row.worker_backends, row.worker_idle) == (busy, sum(map(len, backends.values())) - busy)
    assert (row.node, row.is_worker, row.state, row.app) == (
        live.node_names[0],
        False,
        "idle in transaction",
        'an "app"',
    )
    assert (row.wait_type, row.wait_event, row.query_ms, row.worker_wait) == ("Client", "ClientRead", None, None)
    assert row.query == "SELECT pg_catalog.citus_backend_gpid()"
    assert row.xact_ms is not None
    apart = [each for each in single.rows if each.gpid == gpid]
    assert len(apart) == 1 + busy  # what is idle was not asked for
    assert sorted(each.node for each in apart if each.is_worker) == sorted(
        name
        for name, states in zip(live.node_names[1:], backends.values(), strict=True)
        for state in states
        if state == "idle in transaction"
    )


def test_statement_on_shards_shows_what_its_workers_wait_for(live: Standard) -> None:
    cluster = live.cluster
    with opened(cluster.coordinator, "BEGIN", ORDER), waiting(cluster, cluster.workers[0], ORDER) as gpid:
        (row,) = [each for each in look_whole(live.dsn(), NAME, state="active").rows if each.gpid == gpid]
        (shard_node,) = cluster.row(
            "SELECT n.nodename || ':' || n.nodeport FROM pg_dist_placement JOIN pg_dist_node n USING (groupid)"
            " WHERE shardid = get_shard_id_for_distribution_column('app.orders', 7)"
        )
        long_ones = look_whole(live.dsn(), NAME, min_duration_ms=3_600_000)
    assert (row.node, row.query, row.query_ms is not None) == (live.node_names[1], "UPDATE", True)
    # The tenant's shard may be on the very worker that was asked: then its session waits by itself.
    wait = row.worker_wait or f"{row.wait_type}/{row.wait_event} on {row.node}"
    assert wait == f"Lock/transactionid on {shard_node}"
    assert long_ones.rows == ()


def test_idle_sessions_are_counted_and_shown_when_asked_for(live: Standard) -> None:
    tag = "idle, of this test"
    tagging = f"SET application_name = '{tag}'"
    with (
        opened(live.cluster.workers[1], tagging) as session,
        opened(live.cluster.workers[1], tagging),
        opened(live.cluster.coordinator, tagging),
    ):
        gpid = gpid_of(session)
        usual = look_whole(live.dsn(), NAME)
        everything = look_whole(live.dsn(), NAME, include_idle=True, limit=1000)
        idle = look_whole(live.dsn(), NAME, state="idle", limit=1000)
    assert gpid not in {row.gpid for row in usual.rows}
    (row,) = [each for each in everything.rows if each.gpid == gpid]
    assert (row.node, row.state, row.xact_ms) == (live.node_names[2], "idle", None)
    assert tag not in {row.app for row in usual.rows}
    tagged = [live.node_names[0], live.node_names[2], live.node_names[2]]
    for found in (everything, idle):
        assert sorted(row.node for row in found.rows if row.app == tag) == sorted(tagged)
        counted = sum(row.state == "idle" and not row.is_worker for row in found.rows)
        assert found.facts["sessions_by_state"]["idle"] == counted >= len(tagged)
    assert {row.state for row in idle.rows} == {"idle"}
    assert usual.facts["sessions_by_state"]["idle"] >= len(tagged)


def test_look_leaves_out_itself_and_the_daemons(live: Standard) -> None:
    found = look_whole(live.dsn(), NAME, include_idle=True, include_workers=True, limit=1000)
    assert not [row for row in found.rows if row.app in {"harness inspect"}]
    assert not [row for row in found.rows if (row.app or "").startswith("citus_run_command")]
    assert not [row for row in found.rows if (row.backend_type or "").startswith("Citus Maintenance")]


def test_role_without_rights_is_told_that_sessions_are_hidden(live: Standard) -> None:
    with opened(live.cluster.coordinator, "BEGIN", ORDER) as session:
        gpid = gpid_of(session)
        monitored = look_whole(live.dsn("inspector"), NAME)
        plain = look(live.dsn("plain"), NAME, limit=1000)
    (row,) = [each for each in monitored.rows if each.gpid == gpid]
    assert (row.state, row.worker_backends) == ("idle in transaction", 1)
    assert_partial(plain, Reason.INSUFFICIENT_PRIVILEGE, "pg_monitor")
    assert {each.query for each in plain.rows} == {None}
    assert "77002" not in repr(plain)


def test_running_query_is_seen_on_every_worker(live: Standard) -> None:
    with live.cluster.coordinator.connect() as session:
        gpid = gpid_of(session)

        def sleeping() -> list[Any]:
            return [row for row in look_whole(live.dsn(), NAME).rows if row.gpid == gpid and row.worker_wait]

        with running(session, SLEEP):
            (row,) = wait_until("the query to sleep on a worker", sleeping, deadline_s=20)
    assert (row.state, row.query) == ("active", "SELECT")
    assert row.worker_wait.startswith("Timeout/PgSleep on ")
