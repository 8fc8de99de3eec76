"""What nodes count only when they are told to: statements, tenants, counters; switched on, off, and half on."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

import pytest

from harness.inspectors import Inspection, Reason, Status
from harness.inspectors.contract import Severity
from harness.inspectors.redaction import Redactor
from harness.waiting import wait_until
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors.fixture_standard import Standard
from scenarios.inspectors_live.looks import KEY, assert_partial, findings, look, look_whole

STATEMENTS, TENANTS, COUNTERS = "citus_top_statements", "citus_tenant_hotspots", "citus_stats_dashboard"


def _set(live: Standard, setting: str, value: str, *places: int) -> None:
    for place in places:
        live.cluster.nodes[place].set(setting, value)
    live.cluster.close()  # a session may have read it already


@pytest.fixture
def counted_statements(live: Standard) -> Iterator[Standard]:
    """Citus counts statements; nothing is counted yet."""
    _set(live, "citus.stat_statements_track", "all", 0)
    live.cluster.sql("SELECT citus_stat_statements_reset(); SELECT pg_stat_statements_reset()")
    yield live
    _set(live, "citus.stat_statements_track", "none", 0)


@pytest.fixture
def counted_tenants(live: Standard) -> Iterator[Standard]:
    """All nodes count tenants; nothing is counted yet."""
    _set(live, "citus.stat_tenants_track", "all", 0, 1, 2)
    for node in live.cluster.nodes:
        node.sql("SELECT citus_stat_tenants_local_reset()")
    yield live
    _set(live, "citus.stat_tenants_track", "none", 0, 1, 2)
    for node in live.cluster.nodes:
        node.sql("SELECT citus_stat_tenants_local_reset()")


def test_statements_of_two_tenants_are_one_row_beside_what_the_server_counted(counted_statements: Standard) -> None:
    live = counted_statements
    with live.cluster.coordinator.connect() as session:
        for tenant, times in ((7, 3), (8, 2)):
            for _ in range(times):
                # As text: a parameter would be another statement.
                session.execute(f"SELECT amount FROM app.orders WHERE tenant_id = {tenant} AND note = 'hush'")  # noqa: S608
    found = look_whole(live.dsn(), STATEMENTS, order_by="calls", statements="truncated")
    queryid, calls, total_ms, rows = live.cluster.row(
        "SELECT queryid, calls, total_exec_time, rows FROM pg_stat_statements"
        " WHERE query LIKE 'SELECT amount FROM app.orders%' AND userid = 10"
    )
    (row,) = [each for each in found.rows if each.queryid == queryid]
    assert (row.citus_calls, row.calls, row.distinct_partition_keys, row.rows) == (5, calls, 2, rows)
    assert (row.user, row.database, row.executors) == ("postgres", "postgres", ("adaptive",))
    assert row.total_ms == pytest.approx(total_ms, abs=0.001)
    assert row.mean_ms == pytest.approx(total_ms / calls, abs=0.001)
    assert row.query == "SELECT amount FROM app.orders WHERE tenant_id = $1 AND note = $2"
    assert "hush" not in repr(found)
    assert look_whole(live.dsn("mon"), STATEMENTS).facts["citus_calls"] == found.facts["citus_calls"]
    assert look_whole(live.dsn(), STATEMENTS, min_calls=6).rows == ()
    measured = [each.total_ms for each in look_whole(live.dsn(), STATEMENTS, order_by="total_ms").rows]
    assert measured == sorted(measured, reverse=True)


def test_statement_within_a_function_is_not_counted_twice(counted_statements: Standard) -> None:
    live = counted_statements
    query = "SELECT count(*) FROM app.items WHERE tenant_id = 3"
    with live.cluster.coordinator.connect() as session:
        session.execute("SET pg_stat_statements.track = 'all'")
        session.execute(query)
        session.execute(
            "CREATE FUNCTION pg_temp.f() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN ("
            "SELECT count(*) FROM app.items WHERE tenant_id = 3); END'"
        )
        session.execute(
            "DO $$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM app.items WHERE tenant_id = 3; END $$"
        )
    rows = live.cluster.rows(
        "SELECT queryid, toplevel, calls FROM pg_stat_statements WHERE query LIKE '%FROM app.items WHERE tenant_id =%'"
        " AND query LIKE 'SELECT count%' ORDER BY toplevel"
    )
    assert [(toplevel, calls) for _queryid, toplevel, calls in rows] == [(False, 1), (True, 1)]
    (queryid,) = {row[0] for row in rows}
    (row,) = [each for each in look_whole(live.dsn(), STATEMENTS).rows if each.queryid == queryid]
    assert (row.citus_calls, row.calls) == (2, 2)


def test_statements_say_why_they_are_not_counted(live: Standard) -> None:
    off = look(live.dsn(), STATEMENTS)
    assert (off.status, off.reason, off.rows) == (Status.UNAVAILABLE, Reason.GUC_OFF, ())
    assert "citus.stat_statements_track is none" in off.message
    with live.cluster.temporary_database() as other:
        missing = look(other.coordinator.dsn(), STATEMENTS)
    assert (missing.status, missing.reason) == (Status.UNAVAILABLE, Reason.PGSS_MISSING)


def test_statements_of_others_are_hidden_from_a_role_without_rights(counted_statements: Standard) -> None:
    live = counted_statements
    live.cluster.rows("SELECT count(*) FROM app.orders")
    found = look(live.dsn("plain"), STATEMENTS)
    assert_partial(found, Reason.INSUFFICIENT_PRIVILEGE, "pg_monitor")
    assert found.rows == ()


def test_server_without_the_library_says_that_it_is_not_loaded(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, settings={"shared_preload_libraries": "citus"})
    cluster.sql("CREATE EXTENSION pg_stat_statements")
    found = look(cluster.coordinator.dsn(), STATEMENTS)
    assert (found.status, found.reason) == (Status.UNAVAILABLE, Reason.NOT_PRELOADED)
    assert "shared_preload_libraries" in found.message


def _query(live: Standard, tenant: int, times: int) -> None:
    with live.cluster.coordinator.connect() as session:
        for _ in range(times):
            session.execute(f"SELECT count(*) FROM app.orders WHERE tenant_id = {tenant}")  # noqa: S608


def test_tenants_have_their_shares_under_names_that_only_the_key_gives(counted_tenants: Standard) -> None:
    live = counted_tenants
    _query(live, 1, 30)
    _query(live, 7, 15)
    found = look_whole(live.dsn("mon"), TENANTS)
    (group,) = live.cluster.row(
        "SELECT colocationid FROM pg_dist_partition WHERE logicalrelid = 'app.orders'::regclass"
    )
    names = [hmac.digest(KEY, f"{group}:{tenant}".encode(), "sha256").hex()[:16] for tenant in (1, 7)]
    assert [(row.rank, row.colocation_id, row.tenant) for row in found.rows] == [
        (1, group, names[0]),
        (2, group, names[1]),
    ]
    assert [(row.reads, row.queries, row.share_pct) for row in found.rows] == [(30, 30, 66.7), (15, 15, 33.3)]
    independent = live.cluster.rows(
        "SELECT tenant_attribute, query_count_in_this_period, nodename || ':' || nodeport FROM citus_stat_tenants"
        " JOIN pg_dist_node USING (nodeid) ORDER BY 2 DESC"
    )
    assert [("1", 30, found.rows[0].nodes[0]), ("7", 15, found.rows[1].nodes[0])] == independent
    assert found.facts["tracking"] == dict.fromkeys(live.node_names, "all")
    revealed = look_whole(live.dsn(), TENANTS, reveal_tenants=True, order_by="reads", min_queries=20)
    assert [row.tenant for row in revealed.rows] == ["1"]
    assert findings(found) == []  # forty-five queries are no work


def test_tenant_with_most_of_much_work_is_a_finding_that_does_not_name_it(counted_tenants: Standard) -> None:
    live = counted_tenants
    _query(live, 1, 1000)
    _query(live, 7, 1)
    found = look_whole(live.dsn("mon"), TENANTS)
    (graded,) = findings(found)
    assert (graded.rule, graded.severity) == ("tenant_hot", Severity.WARNING)
    assert str(found.rows[0].tenant) in graded.target
    assert graded.evidence == "100 % of 2 tenants' work"
    with Inspection(live.dsn("mon"), redactor=Redactor()) as inspection:
        keyless = inspection.inspect(TENANTS, {})
    assert [row.tenant for row in keyless.rows] == [None, None]
    assert "HARNESS_INSPECT_KEY" in keyless.warnings[0]


def test_tenant_on_two_nodes_after_a_move_is_one_row(counted_tenants: Standard) -> None:
    live = counted_tenants
    _query(live, 7, 4)
    shardid, source = live.cluster.row(
        "SELECT shardid, groupid FROM pg_dist_placement"
        " WHERE shardid = get_shard_id_for_distribution_column('app.orders', 7)"
    )
    target = 3 - source

    def move(start: int, end: int) -> None:
        live.cluster.sql(
            "SELECT citus_move_shard_placement(%s, a.nodeid, b.nodeid, 'block_writes')"
            " FROM pg_dist_node a, pg_dist_node b WHERE a.groupid = %s AND b.groupid = %s",
            [shardid, start, end],
        )

    move(source, target)
    try:
        _query(live, 7, 6)
        (row,) = look_whole(live.dsn(), TENANTS, reveal_tenants=True).rows
    finally:
        move(target, source)
        live.cluster.sql("CALL citus_cleanup_orphaned_resources()")
    assert (row.tenant, row.queries, row.share_pct) == ("7", 10, 100.0)
    assert set(row.nodes) == set(live.node_names[1:])


def test_tracking_that_is_off_somewhere_is_named_and_never_an_empty_list(live: Standard) -> None:
    off = look(live.dsn(), TENANTS)
    assert (off.status, off.reason) == (Status.UNAVAILABLE, Reason.GUC_OFF)
    for name in live.node_names:
        assert name in off.message
    try:
        _set(live, "citus.stat_tenants_track", "all", 0, 1)
        shard_group = live.cluster.value(
            "SELECT min(n) FROM generate_series(1, 50) n JOIN pg_dist_placement p"
            " ON p.shardid = get_shard_id_for_distribution_column('app.orders', n) WHERE p.groupid = 1"
        )
        _query(live, shard_group, 3)
        half = look(live.dsn(), TENANTS, reveal_tenants=True)
    finally:
        _set(live, "citus.stat_tenants_track", "none", 0, 1)
        for node in live.cluster.nodes:
            node.sql("SELECT citus_stat_tenants_local_reset()")
    assert_partial(half, Reason.GUC_OFF, live.node_names[2])
    assert live.node_names[1] not in half.message
    assert [(row.tenant, row.queries) for row in half.rows] == [(str(shard_group), 3)]


def test_tenants_are_for_monitors_only(live: Standard) -> None:
    found = look(live.dsn("plain"), TENANTS)
    assert (found.status, found.reason) == (Status.UNAVAILABLE, Reason.INSUFFICIENT_PRIVILEGE)
    assert "pg_monitor" in found.message


def test_counters_are_null_where_they_are_off_and_exact_where_they_are_on(live: Standard) -> None:
    off = look(live.dsn("plain"), COUNTERS)
    assert_partial(off, Reason.GUC_OFF, *live.node_names)
    assert {(row.enabled, row.conn_ok, row.single_shard, row.reuse_pct) for row in off.rows} == {(False,) + (None,) * 3}
    _set(live, "citus.enable_stat_counters", "on", 0)
    try:
        before = look(live.dsn("plain"), COUNTERS).rows[0]
        with live.cluster.coordinator.connect() as session:
            session.execute("SELECT count(*) FROM app.orders WHERE tenant_id = 7")
            session.execute("SELECT count(*) FROM app.orders")

        def counted() -> object:
            found = look(live.dsn("plain"), COUNTERS)
            row = found.rows[0]
            grown = (
                row.single_shard > before.single_shard,
                row.multi_shard > before.multi_shard,
                row.conn_ok > before.conn_ok,  # our own look is among them
            )
            return found if all(grown) else None

        # A session hands in what it counted when it is idle or ends.
        after = wait_until("the counts", counted, deadline_s=20)
        independent = live.cluster.row(
            "SELECT query_execution_single_shard, query_execution_multi_shard FROM citus_stat_counters"
            " WHERE name = current_database()"
        )
        commits = live.cluster.value("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    finally:
        _set(live, "citus.enable_stat_counters", "off", 0)
    row = after.rows[0]  # type: ignore[attr-defined]
    assert_partial(after, Reason.GUC_OFF, *live.node_names[1:])  # type: ignore[arg-type]
    assert (row.single_shard - before.single_shard, row.multi_shard - before.multi_shard) == (1, 1)
    assert (row.single_shard, row.multi_shard) == independent
    assert (row.enabled, row.conn_failed) == (True, 0)
    assert 0 < row.commits <= commits
    assert [each.enabled for each in after.rows] == [True, False, False]  # type: ignore[attr-defined]
