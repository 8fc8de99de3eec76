"""`citus_lock_inspector` on real waits: over nodes, for what is prepared, in a circle, hidden, of hostile names."""

from __future__ import annotations

import itertools

import psycopg
import pytest
from psycopg import sql

from harness.faults.transactions import citus_gid, prepared
from harness.inspectors import Reason
from harness.inspectors.contract import Severity
from harness.inspectors.locks.modes import conflicts
from harness.waiting import wait_until
from scenarios.inspectors.fixture_standard import HOSTILE_SCHEMA, HOSTILE_TABLE, Standard
from scenarios.inspectors_live.looks import (
    assert_partial,
    findings,
    gpid_of,
    look,
    look_whole,
    opened,
    waiting,
    waiting_in,
)

NAME = "citus_lock_inspector"
ORDER = "UPDATE app.orders SET amount = 77001 WHERE tenant_id = 7 AND id = 7"
PLAIN = "UPDATE app.plain SET id = id WHERE id = 1"


def _shard(live: Standard, tenant: int) -> tuple[int, int, str]:
    """A tenant's shard, its group and its node, by Citus' own functions."""
    row = live.cluster.row(
        "SELECT shardid, groupid, n.nodename || ':' || n.nodeport FROM pg_dist_placement JOIN pg_dist_node n"
        " USING (groupid) WHERE shardid = get_shard_id_for_distribution_column('app.orders', %s)",
        [tenant],
    )
    return int(row[0]), int(row[1]), str(row[2])


def test_chain_of_waits_over_three_nodes_is_told_as_citus_tells_it(live: Standard) -> None:
    cluster, coordinator, worker = live.cluster, live.cluster.coordinator, live.cluster.workers[0]
    with (
        opened(coordinator, "BEGIN", ORDER) as first,
        waiting(cluster, worker, ORDER) as second,
        waiting(cluster, coordinator, ORDER, "BEGIN", PLAIN) as third,
        waiting(cluster, coordinator, PLAIN) as fourth,
    ):
        root = gpid_of(first)
        found = look_whole(live.dsn(), NAME, include_locks=True, statements="truncated")
        told = cluster.rows("SELECT waiting_gpid, blocking_gpid FROM citus_lock_waits")
        nothing = look_whole(live.dsn(), NAME, min_wait_ms=3_600_000)
    assert {(row.waiter_gpid, row.blocker_gpid) for row in found.rows} == set(told)
    assert [(row.waiter_gpid, row.blocker_gpid, row.depth, row.is_root) for row in found.rows] == [
        (second, root, 1, True),
        (third, second, 2, False),
        (fourth, third, 3, False),
    ]
    shardid, _group, node = _shard(live, 7)
    names = live.node_names
    for row in found.rows[:2]:
        assert (row.node_of_conflict, row.table_schema, row.table, row.shardid) == (node, "app", "orders", shardid)
        assert (row.schema, row.relation) == ("app", f"orders_{shardid}")
    assert [row.waiter_node for row in found.rows] == [names[1], names[0], names[0]]
    assert (found.rows[0].blocker_node, found.rows[0].blocker_state) == (names[0], "idle in transaction")
    assert (found.rows[2].node_of_conflict, found.rows[2].relation, found.rows[2].table) == (names[0], "plain", None)
    assert f"RowExclusiveLock app.orders_{shardid}" in found.rows[0].held
    assert found.rows[0].waiter_query == "UPDATE app.orders SET amount = ? WHERE tenant_id = ? AND id = ?"
    assert "77001" not in repr(found)
    assert found.facts == {"waiters": 3, "root_sessions": 1, "root_prepared": 0, "in_a_circle": 0}
    assert found.nodes.answered == names
    assert nothing.rows == ()
    assert nothing.facts["waiters"] == 3
    assert look_whole(live.dsn(), NAME).rows == ()


def test_wait_of_a_second_is_a_warning_that_names_the_root(live: Standard) -> None:
    cluster = live.cluster
    with opened(cluster.coordinator, "BEGIN", PLAIN) as root, waiting(cluster, cluster.coordinator, PLAIN) as waiter:
        found = wait_until("the wait to be news", lambda: findings(look(live.dsn(), NAME)), deadline_s=20)
        gpid = gpid_of(root)
    assert [(each.rule, each.severity) for each in found] == [("lock_wait", Severity.WARNING)]
    assert found[0].target == f"session {gpid} on {live.node_names[0]}"
    assert str(waiter) in found[0].title


@pytest.mark.parametrize("is_restarted", [False, True], ids=["its_session_gone", "its_node_restarted"])
def test_prepared_transaction_left_behind_is_named_as_the_blocker(live: Standard, is_restarted: bool) -> None:
    cluster = live.cluster
    shardid, group, node_name = _shard(live, 7)
    node = cluster.workers[group - 1]
    write = sql.SQL("UPDATE {} SET note = 'left' WHERE id = 7").format(sql.Identifier("app", f"orders_{shardid}"))
    with prepared(node, "postgres", citus_gid(), doing=write) as gid:
        if is_restarted:
            node.restart()
        with waiting(cluster, cluster.coordinator, ORDER) as waiter:
            found = look_whole(live.dsn(), NAME)
            graded = wait_until("the wait to be news", lambda: findings(look(live.dsn(), NAME)), deadline_s=20)
            independent = node.rows(
                "SELECT x.gid FROM pg_locks l JOIN pg_prepared_xacts x ON x.transaction = l.transactionid"
                " WHERE NOT l.granted"
            )
    assert independent == [(gid,)]
    (row,) = found.rows
    assert (row.waiter_gpid, row.blocker_kind, row.prepared_gid, row.blocker_gpid) == (waiter, "prepared", gid, None)
    assert (row.node_of_conflict, row.blocker_node, row.blocker_user) == (node_name, node_name, "postgres")
    assert (row.locktype, row.table, row.shardid, row.depth, row.is_root) == (
        "transactionid",
        "orders",
        shardid,
        1,
        True,
    )
    assert found.facts["root_prepared"] == 1
    assert [(each.severity, gid in each.target) for each in graded] == [(Severity.ERROR, True)]


def test_of_two_prepared_transactions_only_the_one_in_the_way_is_blamed(live: Standard) -> None:
    node = live.cluster.coordinator
    share, row_exclusive = "LOCK TABLE app.plain IN ACCESS SHARE MODE", "LOCK TABLE app.plain IN ROW EXCLUSIVE MODE"
    with (
        prepared(node, "postgres", "reads_only", doing=share),
        prepared(node, "postgres", "writes", doing=row_exclusive),
        waiting(live.cluster, node, "LOCK TABLE app.plain IN SHARE MODE", "BEGIN"),
    ):
        found = look_whole(live.dsn(), NAME)
    assert [(row.prepared_gid, row.mode, row.relation) for row in found.rows] == [("writes", "ShareLock", "plain")]


def test_sessions_in_a_circle_have_no_depth_and_no_root(live: Standard) -> None:
    cluster, node = live.cluster, live.cluster.coordinator
    other = "UPDATE app.plain SET id = id WHERE id = 2"
    with node.connect() as first, node.connect() as second:
        for connection, statement in ((first, PLAIN), (second, other)):
            # The circle stays for as long as we look.
            for each in ("SET deadlock_timeout = '1min'", "BEGIN", statement):
                connection.execute(each)
        with (
            waiting_in(cluster, first, other) as first_gpid,
            waiting_in(cluster, second, PLAIN) as second_gpid,
        ):
            found = look_whole(live.dsn(), NAME)
    assert {(row.waiter_gpid, row.blocker_gpid) for row in found.rows} == {
        (first_gpid, second_gpid),
        (second_gpid, first_gpid),
    }
    assert [(row.depth, row.is_root) for row in found.rows] == [(None, False), (None, False)]
    assert found.facts["in_a_circle"] == 2


def test_lock_of_a_table_with_a_hostile_name_is_named_as_the_catalog_has_it(live: Standard) -> None:
    cluster = live.cluster
    table = sql.Identifier(HOSTILE_SCHEMA, HOSTILE_TABLE)
    cluster.sql(sql.SQL("INSERT INTO {} VALUES (5, 'it''s')").format(table))
    update = sql.SQL('UPDATE {} SET "a \'b" = \'secret\' WHERE "Key" = 5').format(table).as_string()
    try:
        with opened(cluster.coordinator, "BEGIN", update), waiting(cluster, cluster.coordinator, update):
            (row,) = look_whole(live.dsn(), NAME, statements="truncated").rows
    finally:
        cluster.sql(sql.SQL("DELETE FROM {}").format(table))
    assert (row.table_schema, row.table) == (HOSTILE_SCHEMA, HOSTILE_TABLE)
    assert row.relation == f"{HOSTILE_TABLE}_{row.shardid}"
    assert "secret" not in repr(row)


def test_monitor_sees_all_and_a_role_without_rights_is_told_so(live: Standard) -> None:
    cluster = live.cluster
    with opened(cluster.coordinator, "BEGIN", ORDER), waiting(cluster, cluster.workers[1], ORDER):
        (full,) = look_whole(live.dsn(), NAME).rows
        (monitored,) = look_whole(live.dsn("mon"), NAME).rows
        plain = look(live.dsn("plain"), NAME)
    for field in ("waiter_gpid", "blocker_gpid", "waiter_query", "blocker_state", "node_of_conflict", "table", "mode"):
        assert getattr(monitored, field) == getattr(full, field)
    assert_partial(plain, Reason.INSUFFICIENT_PRIVILEGE, "pg_monitor")
    (row,) = plain.rows
    assert (row.node_of_conflict, row.shardid, row.waiter_query, row.blocker_state) == (
        full.node_of_conflict,
        full.shardid,
        None,
        None,
    )


def test_modes_exclude_each_other_as_the_server_has_it(live: Standard) -> None:
    modes = {
        "AccessShareLock": "ACCESS SHARE",
        "RowShareLock": "ROW SHARE",
        "RowExclusiveLock": "ROW EXCLUSIVE",
        "ShareUpdateExclusiveLock": "SHARE UPDATE EXCLUSIVE",
        "ShareLock": "SHARE",
        "ShareRowExclusiveLock": "SHARE ROW EXCLUSIVE",
        "ExclusiveLock": "EXCLUSIVE",
        "AccessExclusiveLock": "ACCESS EXCLUSIVE",
    }
    refused = set()
    with live.cluster.coordinator.connect() as holder, live.cluster.coordinator.connect() as asker:
        for held, wanted in itertools.product(modes, modes):
            with holder.transaction():
                holder.execute(f"LOCK TABLE app.plain IN {modes[held]} MODE")
                try:
                    with asker.transaction():
                        asker.execute(f"LOCK TABLE app.plain IN {modes[wanted]} MODE NOWAIT")
                except psycopg.errors.LockNotAvailable:
                    refused.add((wanted, held))
    assert refused == {pair for pair in itertools.product(modes, modes) if conflicts(*pair)}
