"""`citus_advisor` and `citus_health_report`: each state of a real cluster raises its rule and no other."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest

from harness.clusters import Cluster, RunningCluster
from harness.inspectors import Inspection, inspect, registry
from harness.inspectors.advisor import findings_of
from harness.inspectors.advisor.rules import RULES
from harness.inspectors.contract import Cost, Envelope, Reason, Severity, Status
from harness.postgres import AdministeredNode
from harness.trickle import StreamTables
from harness.waiting import wait_until
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors.fixture_standard import Standard

citus = pytest.mark.citus(">= 14")
SETTINGS = {
    "shared_preload_libraries": "citus, pg_stat_statements",
    "max_prepared_transactions": "20",
    "citus.stat_tenants_track": "all",
    "citus.stat_tenants_period": "3600",
    "citus.stat_statements_track": "all",
    "citus.defer_shard_delete_interval": "-1",
    "autovacuum": "off",
    "wal_level": "logical",
}


@pytest.fixture
def ordinary(make_cluster: MakeCluster) -> RunningCluster:
    """A cluster with nothing to say about it: everything tracked, even, analysed, with keys."""
    cluster = make_cluster(settings=SETTINGS)
    with cluster.coordinator.connect() as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute("CREATE TABLE orders (tenant bigint, id bigint, note text, PRIMARY KEY (tenant, id))")
        connection.execute("SELECT create_distributed_table('orders', 'tenant', shard_count := 4)")
        connection.execute("INSERT INTO orders SELECT n, n, 'x' FROM generate_series(1, 4000) n")
        connection.execute("VACUUM ANALYZE orders")
    return cluster


def advice(cluster: RunningCluster, least: str = "warning") -> set[tuple[str, str]]:
    """(severity, rule) of everything that is at least so bad."""
    envelope = inspect(cluster.coordinator.dsn(), "citus_advisor", {"severity": least})
    assert envelope.status in (Status.OK, Status.PARTIAL), envelope.message
    return {(row.severity, row.rule) for row in envelope.rows}


def _a_shard(cluster: RunningCluster) -> int:
    """The number of a shard of orders on the first worker."""
    found: int = cluster.value(
        "SELECT min(shardid) FROM pg_dist_placement JOIN pg_dist_shard USING (shardid)"
        " WHERE logicalrelid = 'orders'::regclass AND groupid = 1"
    )
    return found


@contextlib.contextmanager
def _node_down(cluster: RunningCluster) -> Iterator[None]:
    cluster.workers[1].stop()
    yield


@contextlib.contextmanager
def _skew(cluster: RunningCluster) -> Iterator[None]:
    cluster.sql("CREATE TABLE heavy (tenant bigint, id bigint, note text, PRIMARY KEY (tenant, id))")
    cluster.sql("SELECT create_distributed_table('heavy', 'tenant', shard_count := 12, colocate_with := 'none')")
    cluster.sql("INSERT INTO heavy SELECT 1, n, repeat('x', 200) FROM generate_series(1, 30000) n")
    cluster.sql("VACUUM ANALYZE heavy")
    yield


@contextlib.contextmanager
def _index_drift(cluster: RunningCluster) -> Iterator[None]:
    cluster.sql("INSERT INTO orders SELECT n, -n, 'x' FROM generate_series(1, 100) n")
    with pytest.raises(psycopg.errors.UniqueViolation):
        cluster.sql("CREATE UNIQUE INDEX CONCURRENTLY orders_tenant ON orders (tenant)")
    yield


@contextlib.contextmanager
def _lock_wait(cluster: RunningCluster) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(cluster.coordinator.connect(autocommit=False))
        waiter = cluster.coordinator.connect()
        stack.callback(waiter.close)  # in the middle of its statement
        holder.execute("UPDATE orders SET note = 'held' WHERE tenant = 1 AND id = 1")
        waiter.pgconn.send_query(b"UPDATE orders SET note = 'waits' WHERE tenant = 1 AND id = 1")

        def has_waited() -> bool:
            found = inspect(cluster.coordinator.dsn(), "citus_lock_inspector")
            return any(row.wait_ms >= 1_000 for row in found.rows)

        wait_until("somebody waits for a second", has_waited, deadline_s=60)
        yield


@contextlib.contextmanager
def _wait_for_prepared(cluster: RunningCluster) -> Iterator[None]:
    worker = cluster.workers[0]
    shard = _a_shard(cluster)
    with worker.connect(autocommit=False) as connection:
        connection.execute("SET LOCAL citus.enable_manual_changes_to_shards = on")
        connection.execute(f"LOCK TABLE orders_{shard} IN ACCESS EXCLUSIVE MODE")
        connection.execute("PREPARE TRANSACTION 'somebody s'")
    with contextlib.ExitStack() as stack:
        stack.callback(worker.sql, "ROLLBACK PREPARED 'somebody s'")
        waiter = cluster.coordinator.connect()
        stack.callback(waiter.close)  # in the middle of its statement
        waiter.pgconn.send_query(b"SELECT count(*) FROM orders")

        def has_waited() -> bool:
            found = inspect(cluster.coordinator.dsn(), "citus_lock_inspector")
            return any(row.wait_ms >= 1_000 for row in found.rows)

        wait_until("somebody waits for a second", has_waited, deadline_s=60)
        yield


@contextlib.contextmanager
def _gone_node_group(cluster: RunningCluster) -> Iterator[None]:
    cluster.sql(
        "INSERT INTO pg_catalog.pg_dist_cleanup"
        " VALUES (nextval('pg_catalog.pg_dist_cleanup_recordid_seq'), 7, 1, 'public.gone_1', 77, 0)"
    )
    yield


@contextlib.contextmanager
def _hot_tenant(cluster: RunningCluster) -> Iterator[None]:
    with cluster.coordinator.connect() as connection:
        for tenant in [7] * 1_100 + list(range(100, 120)):
            connection.execute("SELECT note FROM orders WHERE tenant = %s", [tenant], prepare=False)
    yield


@contextlib.contextmanager
def _setting_drift(cluster: RunningCluster) -> Iterator[None]:
    cluster.workers[0].sql("ALTER SYSTEM SET default_transaction_isolation = 'serializable'")
    cluster.workers[0].sql("SELECT pg_reload_conf()")
    wait_until(
        "the worker has read it",
        lambda: (
            cluster.workers[0].value("SELECT setting FROM pg_settings WHERE name = 'default_transaction_isolation'")
            == "serializable"
        ),
        deadline_s=60,
    )
    yield


@contextlib.contextmanager
def _unsafe_partition(cluster: RunningCluster) -> Iterator[None]:
    cluster.sql("CREATE TABLE parted (at date) PARTITION BY RANGE (at)")
    cluster.sql("CREATE TABLE parted_rest PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)")
    yield


@contextlib.contextmanager
def _orphan(cluster: RunningCluster) -> Iterator[None]:
    # A shard that lives on one worker, as a table on the other.
    shard = _a_shard(cluster)
    with cluster.workers[1].connect() as connection:
        connection.execute("SET citus.enable_ddl_propagation = off")
        connection.execute(f"CREATE TABLE orders_{shard} (tenant bigint)")
    yield


State = Callable[[RunningCluster], AbstractContextManager[None]]
STATES: dict[str, tuple[State, set[tuple[str, str]]]] = {
    "node_down": (_node_down, {("error", "node_unreachable")}),
    "skew": (_skew, {("warning", "table_skew"), ("warning", "shard_group_skew")}),
    "index_drift": (_index_drift, {("error", "index_drift")}),
    "lock_wait": (_lock_wait, {("warning", "lock_wait")}),
    "gone_node_group": (_gone_node_group, {("warning", "orphan_node_group_cleanup")}),
    "hot_tenant": (_hot_tenant, {("warning", "tenant_hot")}),
    "setting_drift": (_setting_drift, {("warning", "guc_drift")}),
    "unsafe_partition": (_unsafe_partition, {("warning", "unsafe_time_partitions_view")}),
    "orphan": (_orphan, {("warning", "orphan_relation")}),
    "wait_for_prepared": (_wait_for_prepared, {("error", "lock_wait"), ("warning", "prepared_xact_pending")}),
}


@citus
def test_ordinary_cluster_raises_nothing_above_info_and_every_rule_was_applied(ordinary: RunningCluster) -> None:
    envelope = inspect(ordinary.coordinator.dsn(), "citus_advisor")
    assert {row.severity for row in envelope.rows} <= {"info"}, envelope.rows
    verdicts = envelope.facts["rules"]
    assert len(verdicts) == len(RULES)
    assert {name for name, verdict in verdicts.items() if verdict.startswith("skipped")} == {
        "stream_table (stream_table_inspector)",
    }
    health = inspect(ordinary.coordinator.dsn(), "citus_health_report")
    assert health.facts["overall"] == "ok"


@citus
@pytest.mark.parametrize("state", STATES)
def test_state_raises_its_rule_and_no_other(ordinary: RunningCluster, state: str) -> None:
    make, expected = STATES[state]
    assert advice(ordinary) == set()
    with make(ordinary):
        assert advice(ordinary) == expected
        health = inspect(ordinary.coordinator.dsn(), "citus_health_report")
        worst = "error" if any(severity == "error" for severity, _ in expected) else "warning"
        assert health.facts["overall"] == worst
        assert (health.facts["findings"]["error"] > 0) == (worst == "error")


@citus
def test_stream_table_that_was_given_up_is_an_error(citus_head_database: Cluster[AdministeredNode]) -> None:
    coordinator = citus_head_database.coordinator
    coordinator.sql("CREATE TABLE entries (id bigint PRIMARY KEY, account integer)")
    coordinator.sql("SELECT create_distributed_table('entries', 'id', shard_count := 4)")
    with coordinator.connect() as connection, StreamTables(connection) as tables:
        tables.create("public.counts", "SELECT account, count(*) AS n FROM entries GROUP BY account", "1h")
    rule = "stream_table (stream_table_inspector)"
    before = inspect(coordinator.dsn(), "citus_advisor", {"severity": "warning"})
    assert (before.facts["rules"][rule], before.rows) == ("ok", ())
    coordinator.sql("UPDATE pgtrickle.pgt_stream_tables SET status = 'ERROR'")  # as the scheduler leaves it
    after = inspect(coordinator.dsn(), "citus_advisor", {"severity": "warning"})
    assert after.facts["rules"][rule] != "ok"
    assert {(row.severity, row.source) for row in after.rows} == {("error", "stream_table_inspector")}
    assert [(row.rule, "counts" in row.target) for row in after.rows] == [("stream_table_error", True)]


@citus
def test_rule_whose_source_is_not_whole_is_skipped_and_never_ok(ordinary: RunningCluster) -> None:
    ordinary.workers[0].stop()
    with Inspection(ordinary.coordinator.dsn()) as inspection:
        statuses = {name: inspection.inspect(name).status for name in {rule.source for rule in RULES}}
        envelope = inspection.inspect("citus_advisor")
    assert (envelope.status, envelope.reason) == (Status.PARTIAL, Reason.INPUT_INCOMPLETE)
    verdicts = envelope.facts["rules"]
    for rule in RULES:
        verdict = verdicts[f"{rule.name} ({rule.source})"]
        if statuses[rule.source] is not Status.OK:
            assert verdict != "ok", rule
    assert sum(verdict.startswith("skipped: node_unreachable") for verdict in verdicts.values()) > 8


@citus
def test_role_without_rights_gets_skipped_rules_and_not_a_clean_bill(standard: Standard) -> None:
    envelope = inspect(standard.dsn("plain"), "citus_advisor")
    skipped = {name.split(" ")[0] for name in envelope.facts["rules_skipped"]}
    assert envelope.status is Status.PARTIAL
    assert "guc_drift" in skipped
    assert "insufficient_privilege" in envelope.facts["rules"]["guc_drift (citus_drift_inspector)"]


@citus
def test_ids_are_the_same_in_the_next_look_and_the_worst_comes_first(standard: Standard) -> None:
    first, second = (inspect(standard.dsn("inspector"), "citus_advisor") for _ in range(2))
    ids = [row.id for row in first.rows]
    assert ids == [row.id for row in second.rows]
    assert len(ids) == len(set(ids)) > 2
    assert [row.rank for row in first.rows] == sorted(row.rank for row in first.rows)
    skew = [row for row in first.rows if row.rule in {"table_skew", "shard_group_skew"}]
    assert any("orders" in row.target for row in skew)


@citus
def test_focus_and_severity_choose_findings_and_rules(standard: Standard) -> None:
    whole = inspect(standard.dsn("inspector"), "citus_advisor")
    skew = inspect(standard.dsn("inspector"), "citus_advisor", {"focus": "skew"})
    assert skew.rows == tuple(row for row in whole.rows if row.focus == "skew")
    assert set(skew.facts["rules"]) == {f"{rule.name} ({rule.source})" for rule in RULES if rule.focus == "skew"}
    bad = inspect(standard.dsn("inspector"), "citus_advisor", {"severity": "warning"})
    assert bad.rows == tuple(row for row in whole.rows if row.severity in {"warning", "error"})


@citus
def test_health_report_has_a_line_for_every_inspector_or_says_why_not(standard: Standard) -> None:
    envelope = inspect(standard.dsn("inspector"), "citus_health_report")
    listed = [row.name for row in envelope.rows] + list(envelope.facts["skipped"])
    assert sorted(listed) == sorted(name for name in registry.names() if name != "citus_health_report")
    with Inspection(standard.dsn("inspector")) as inspection:
        for row in envelope.rows:
            alone = inspection.inspect(row.name)
            assert (row.status, row.reason) == (alone.status.value, alone.reason.value if alone.reason else None)
            assert row.errors == sum(each.severity is Severity.ERROR for each in findings_of(alone))


@citus
def test_database_without_citus_has_no_advice(standard: Standard) -> None:
    with standard.cluster.coordinator.temporary_database() as plain:
        for name in ("citus_advisor", "citus_health_report"):
            envelope = inspect(plain.dsn(), name)
            assert (envelope.status, envelope.reason) == (Status.UNAVAILABLE, Reason.CITUS_MISSING)


@pytest.mark.parametrize("name", registry.names())
def test_severity_of_a_look_that_could_not_be_made_is_none_above_info(name: str) -> None:
    for reason in Reason:
        envelope: Envelope[object] = Envelope(name, Status.UNAVAILABLE, reason, "why")
        assert {each.severity for each in findings_of(envelope)} <= {Severity.INFO}


def _unknown(kind: type[Any], *, flags: bool) -> Any:
    """A row in which everything is unknown that can be, and nothing is counted."""
    hints = typing.get_type_hints(kind)

    def value(hint: Any) -> Any:
        parts = typing.get_args(hint)
        if type(None) in parts:
            return None
        if typing.get_origin(hint) is typing.Literal:
            return parts[0]
        return {str: "x", int: 0, float: 0.0, bool: flags, tuple: ()}[typing.get_origin(hint) or hint]

    return kind(**{each.name: value(hints[each.name]) for each in dataclasses.fields(kind)})


@pytest.mark.parametrize("name", [each.name for each in registry.all_() if each.cost is not Cost.SUM])
@pytest.mark.parametrize("flags", [False, True])
def test_what_is_not_known_of_a_row_is_no_error(name: str, flags: bool) -> None:
    row = _unknown(registry.get(name).row, flags=flags)
    envelope: Envelope[object] = Envelope(name, Status.PARTIAL, Reason.NODE_UNREACHABLE, "why", (row,))
    assert Severity.ERROR not in {each.severity for each in findings_of(envelope)}


def test_every_source_of_a_rule_is_an_inspector_that_rests_on_none() -> None:
    for rule in RULES:
        assert registry.get(rule.source).cost is not Cost.SUM
        assert rule.check is not None or registry.get(rule.source).severity is not None
