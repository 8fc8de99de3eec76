"""`citus_pool_inspector` while a query has many connections open."""

from __future__ import annotations

from psycopg import sql

from harness.inspectors import Reason
from harness.inspectors.contract import Severity
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_live.looks import assert_partial, findings, look, look_whole, opened

NAME = "citus_pool_inspector"
PARALLEL = ("BEGIN", "SET citus.force_max_query_parallelization = on", "SELECT count(*) FROM app.orders")
COUNT = """
    SELECT count(*), count(*) FILTER (WHERE application_name LIKE 'citus\\_internal%')
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND application_name NOT LIKE 'citus\\_run\\_command%'"""


def test_connections_of_a_parallel_query_are_counted_at_both_ends(live: Standard) -> None:
    with opened(live.cluster.coordinator, *PARALLEL):
        found = look_whole(live.dsn(), NAME)
        ends = [node.row(COUNT) for node in live.cluster.nodes]
        outbound = live.cluster.rows(
            "SELECT hostname || ':' || port, connection_count_to_node FROM citus_remote_connection_stats()"
            " WHERE database_name = current_database()"
        )
    shards = live.cluster.rows(
        "SELECT count(*) FROM pg_dist_placement JOIN pg_dist_shard USING (shardid)"
        " WHERE logicalrelid = 'app.orders'::regclass GROUP BY groupid"
    )
    first = found.rows[0]
    held = {f"{each.host}:{each.port}": each.connections for each in first.outbound}
    workers = live.node_names[1:]
    # One connection a shard; a look adds one to each node while it looks.
    for name, (count,) in zip(workers, shards, strict=True):
        assert dict(outbound)[name] >= count
        assert held[name] - 1 <= dict(outbound)[name] <= held[name]
    for row, (_everything, from_citus), (count,) in zip(found.rows[1:], ends[1:], shards, strict=True):
        assert row.from_citus == from_citus >= count
    for row in found.rows:
        assert row.connections == row.from_clients + row.from_citus + row.from_monitoring
        assert (row.max_connections, row.reserved, row.verdict, row.hidden) == (200, 3, "ok", 0)
        assert (row.shared_pool_limit, row.local_pool_limit, row.client_limit) == (200, 100, None)
        assert row.used_pct == round(100 * row.connections / 197, 1)
    assert findings(found) == []


def test_limit_that_is_near_is_a_finding(live: Standard) -> None:
    with opened(live.cluster.coordinator, *PARALLEL):
        found = look_whole(live.dsn(), NAME, warn_pct=1)
    assert [row.verdict for row in found.rows] == ["near_limit"] * 3
    assert [(each.rule, each.severity, each.target) for each in findings(found)] == [
        ("pool_near_limit", Severity.WARNING, name) for name in live.node_names
    ]


def test_outbound_connections_need_their_own_right(live: Standard) -> None:
    monitor = look(live.dsn("mon"), NAME)
    assert_partial(monitor, Reason.INSUFFICIENT_PRIVILEGE, "citus_remote_connection_stats")
    assert [row.outbound for row in monitor.rows] == [None] * 3
    assert monitor.nodes.answered == live.node_names
    plain = look(live.dsn("plain"), NAME)
    assert_partial(plain, Reason.INSUFFICIENT_PRIVILEGE, "pg_monitor")
    with opened(live.cluster.coordinator):
        assert all(row.hidden > 0 for row in look(live.dsn("plain"), NAME).rows[:1])
    # What setup-role makes has the right, on every node.
    assert look_whole(live.dsn("inspector"), NAME).rows[1].outbound is not None


def test_right_to_outbound_connections_is_each_nodes_own(live: Standard) -> None:
    """A worker that was added after setup-role has no GRANT: its row stays, without what is hidden."""
    role, worker = sql.Identifier("inspector"), live.cluster.workers[0]
    function = sql.SQL("citus_remote_connection_stats()")
    with worker.connect() as session:
        session.execute("SET citus.enable_ddl_propagation = off")
        session.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM {}").format(function, role))
        try:
            found = look(live.dsn("inspector"), NAME)
        finally:
            session.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(function, role))
    assert_partial(found, Reason.INSUFFICIENT_PRIVILEGE, "GRANT EXECUTE", live.node_names[1])
    assert live.node_names[0] not in found.message
    assert live.node_names[2] not in found.message
    assert found.nodes.failed == ()
    assert [row.node for row in found.rows] == list(live.node_names)
    assert [row.outbound is None for row in found.rows] == [False, True, False]
    assert found.rows[0].outbound
    assert look_whole(live.dsn("inspector"), NAME).rows[1].outbound is not None


def test_other_address_of_a_node_is_shown_without_anything_else(live: Standard) -> None:
    nodeid, port = live.cluster.row("SELECT nodeid, nodeport FROM pg_dist_node WHERE groupid = 2")
    live.cluster.sql("INSERT INTO pg_dist_poolinfo VALUES (%s, %s)", [nodeid, f"host=localhost port={port}"])
    try:
        rows = look_whole(live.dsn(), NAME).rows
    finally:
        live.cluster.sql("DELETE FROM pg_dist_poolinfo")
    assert [(row.poolinfo_host, row.poolinfo_port) for row in rows] == [(None, None), (None, None), ("localhost", port)]
