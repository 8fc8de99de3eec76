"""`stream_table_inspector` beside the catalog, the buffers on their nodes, and `harness st status`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters import Cluster, RunningCluster
from harness.faults.nodes import node_killed
from harness.faults.transactions import prepared
from harness.inspectors import Reason, Status, stream_tables
from harness.inspectors.contract import Severity
from harness.inspectors.registry import get
from harness.inspectors.stream_tables import question
from harness.postgres import AdministeredNode, Node
from harness.trickle import StreamTables
from harness.trickle import repair as repairing
from harness.trickle.leases import LOCK_CLASS
from harness.waiting import wait_until
from scenarios.fixtures.clusters import MakeCluster
from scenarios.inspectors_live.looks import assert_partial, findings, gpid_of, look, look_whole, opened

NAME = "stream_table_inspector"
ENTRIES = sql.Identifier("My Sch", 'en"tries')
SHARDS = 4
BALANCES = """SELECT account, count(*) AS n, sum(amount) AS total FROM "My Sch"."en""tries" GROUP BY account"""
NAMES = 'SELECT name, count(*) AS n FROM public."order" GROUP BY name'


def _build(node: Node, *, is_distributed: bool) -> None:
    """Sources of three kinds with hostile names among them, and two stream tables."""
    with node.connect() as connection, StreamTables(connection) as tables:
        connection.execute('CREATE SCHEMA "My Sch"')
        connection.execute(
            sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, account integer NOT NULL, amount integer)").format(ENTRIES)
        )
        connection.execute('CREATE TABLE public."order" (id integer PRIMARY KEY, name text)')
        if is_distributed:
            connection.execute(
                "SELECT create_distributed_table(%s, 'id', shard_count => 4)", [ENTRIES.as_string(connection)]
            )
            connection.execute("SELECT create_reference_table('public.\"order\"')")
        connection.execute(
            sql.SQL("INSERT INTO {} SELECT i, i %% 7, i FROM generate_series(1, 200) i").format(ENTRIES), []
        )
        tables.create("public.balances", BALANCES, "1h", "DIFFERENTIAL")
        tables.create('"My Sch"."na""mes"', NAMES, None, "DIFFERENTIAL")


@pytest.fixture
def shop(citus_head_database: Cluster[AdministeredNode]) -> Cluster[AdministeredNode]:
    """A database at head on a cluster, with a distributed and a reference source."""
    _build(citus_head_database.coordinator, is_distributed=True)
    return citus_head_database


def _change(node: Node, count: int = 10) -> None:
    node.sql(sql.SQL("UPDATE {} SET amount = amount + 1 WHERE id <= %s").format(ENTRIES), [count])


def _rows(found: Any) -> dict[str, Any]:
    return {row.table: row for row in found.rows}


def _buffered(cluster: Cluster[AdministeredNode], stable_name: str) -> dict[int, tuple[str, int]]:
    """Rows of a buffer's shards, by the place of the shard in its group: asked of each node, for each shard."""
    found = {}
    for place, (shardid, host, port) in enumerate(
        cluster.rows(
            "SELECT shardid, nodename, nodeport FROM pg_dist_shard_placement JOIN pg_dist_shard USING (shardid)"
            " WHERE logicalrelid = %s::regclass ORDER BY shardminvalue::integer",
            [f"pgtrickle_changes.changes_{stable_name}"],
        )
    ):
        (node,) = [each for each in cluster.workers if (each.address[0], each.address[1]) == (host, port)]
        table = sql.Identifier("pgtrickle_changes", f"changes_{stable_name}_{shardid}")
        found[place] = (f"{host}:{port}", node.value(sql.SQL("SELECT count(*) FROM {}").format(table)))
    return found


def test_lag_and_buffers_are_told_by_node_and_shard_as_the_nodes_have_them(shop: Cluster[AdministeredNode]) -> None:
    _change(shop.coordinator)
    shop.sql("INSERT INTO public.\"order\" VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    found = look_whole(shop.coordinator.dsn(), NAME)
    with shop.coordinator.connect() as connection, StreamTables(connection) as tables:
        statuses = {status.stream_table.name: status for status in tables.status()}
        oldest = shop.value("SELECT extract(epoch FROM now() - min(data_timestamp)) FROM pgtrickle.pgt_stream_tables")
    rows = _rows(found)
    assert [(row.schema, row.table) for row in found.rows] == [("My Sch", 'na"mes'), ("public", "balances")]
    balances = rows["balances"]
    assert balances.pending_rows == sum(statuses["balances"].pending.values()) == 20
    assert (balances.pending_source, balances.schedule, balances.mode) == ("exact", "1h", "DIFFERENTIAL")
    assert (balances.placement, balances.status, balances.is_populated) == ("reference", "ACTIVE", True)
    assert 0 <= balances.lag_s <= oldest
    (source,) = balances.sources
    assert (source.schema, source.table, source.placement) == ("My Sch", 'en"tries', "distributed")
    buffered = _buffered(shop, source.stable_name)
    shards = shop.rows(
        "SELECT shardid FROM pg_dist_shard WHERE logicalrelid = %s::regclass ORDER BY shardminvalue::integer",
        [ENTRIES.as_string()],
    )
    assert [(each.shardid, each.node, each.rows) for each in source.shards] == [
        (shardid, *buffered[place]) for place, (shardid,) in enumerate(shards)
    ]
    assert [(each.triggers, each.missing) for each in source.shards] == [(3, ())] * SHARDS
    by_node: dict[str, int] = {}
    for node, count in buffered.values():
        by_node[node] = by_node.get(node, 0) + count
    assert {each.node: each.rows for each in balances.nodes} == by_node
    assert {each.lag_s for each in balances.nodes} == {balances.lag_s}
    names = rows['na"mes']
    host, port = shop.coordinator.address
    assert [(each.node, each.rows) for each in names.nodes] == [(f"{host}:{port}", 3)]
    assert (names.pending_rows, names.sources[0].shards[0].triggers) == (3, 4)
    assert found.facts["repair"] == []
    assert found.facts["buffer_bytes"] == sum(each.bytes for row in found.rows for each in row.sources) > 0
    (without,) = look_whole(shop.coordinator.dsn(), NAME, schema="public", include_shards=False).rows
    assert (without.table, without.sources[0].rows, without.sources[0].shards) == ("balances", 20, ())
    assert look_whole(shop.coordinator.dsn(), NAME, table="nothing").rows == ()
    assert findings(found) == []


def test_buffer_with_more_rows_than_are_counted_has_at_least_so_many(
    shop: Cluster[AdministeredNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    _change(shop.coordinator)
    monkeypatch.setattr(question, "MOST_ROWS", 3)
    rows = _rows(look_whole(shop.coordinator.dsn(), NAME))
    (source,) = rows["balances"].sources
    counted = [min(count, 4) for _node, count in _buffered(shop, source.stable_name).values()]
    assert 4 in counted
    assert [shard.rows for shard in source.shards] == counted
    assert (rows["balances"].pending_rows, rows["balances"].pending_source) == (sum(counted), "at_least")
    assert rows['na"mes'].pending_source == "exact"


def test_refresh_empties_what_waits_and_is_in_the_history(shop: Cluster[AdministeredNode]) -> None:
    _change(shop.coordinator)
    with shop.coordinator.connect() as connection, StreamTables(connection) as tables:
        tables.refresh("public.balances")
    row = _rows(look_whole(shop.coordinator.dsn(), NAME, refreshes=2))["balances"]
    assert (row.pending_rows, {each.lag_s for each in row.nodes}) == (0, {0})
    independent = shop.rows(
        "SELECT h.action, h.status, h.delta_row_count, h.rows_inserted FROM pgtrickle.pgt_refresh_history h"
        " JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE t.pgt_name = 'balances' ORDER BY h.refresh_id DESC"
    )
    assert [(each.action, each.status, each.changes, each.rows_inserted) for each in row.refreshes] == independent
    assert row.refreshes[0].action == "DIFFERENTIAL"
    assert row.last_refresh_at > row.refreshes[0].started_at


def test_open_writer_and_prepared_transaction_are_who_holds_it_back(shop: Cluster[AdministeredNode]) -> None:
    dsn = shop.coordinator.dsn()
    insert = sql.SQL("INSERT INTO {} VALUES (1001, 1, 4711)").format(ENTRIES).as_string()
    with opened(shop.coordinator, "BEGIN", insert) as writer:
        (held,) = _rows(look_whole(dsn, NAME, statements="truncated"))["balances"].held_by
        gpid = gpid_of(writer)
        with shop.coordinator.connect() as connection, StreamTables(connection) as tables:
            ((told,),) = [status.held_by for status in tables.status("public.balances")]
    assert (held.node, held.pid, held.state) == (told.node, told.pid, "idle in transaction")
    assert held.app == f"citus_internal gpid={gpid}"
    assert held.query is not None
    assert held.query.startswith("INSERT INTO")
    assert "4711" not in held.query


def test_lease_has_its_holder_and_is_stale_when_its_session_is_gone(shop: Cluster[AdministeredNode]) -> None:
    number = shop.value("SELECT pgt_id FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'balances'")
    with shop.coordinator.connect() as session:
        session.execute("SELECT pgtrickle.acquire_lease(%s, 'me, on a machine', '10 minutes')", [number])
        row = _rows(look_whole(shop.coordinator.dsn(), NAME))["balances"]
        pid = session.info.backend_pid
        (token, deadline) = shop.row("SELECT fencing_token, deadline FROM pgtrickle.st_locks")
    assert (row.lease.holder, row.lease.pid, row.lease.fencing_token, row.lease.is_stale) == (
        "me, on a machine",
        pid,
        token,
        False,
    )
    assert row.lease.deadline == deadline.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def stale() -> object:
        found = look_whole(shop.coordinator.dsn(), NAME)
        return found if _rows(found)["balances"].lease.is_stale else None

    found = wait_until("the session to be gone", stale, deadline_s=20)
    assert [(each.rule, each.severity) for each in findings(found)] == [  # type: ignore[arg-type]
        ("stream_table_stale_lease", Severity.INFO)
    ]


def test_trigger_that_is_switched_off_on_one_shard_is_damage(shop: Cluster[AdministeredNode]) -> None:
    (source,) = _rows(look_whole(shop.coordinator.dsn(), NAME))["balances"].sources
    shard = source.shards[1]
    (node,) = [each for each in shop.workers if f"{each.address[0]}:{each.address[1]}" == shard.node]
    table = sql.Identifier("My Sch", f'en"tries_{shard.shardid}')
    with node.connect() as session:
        session.execute("SET citus.enable_manual_changes_to_shards = on")
        (trigger,) = [
            name
            for (name,) in session.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname LIKE '%%cdc_upd%%'",
                [table.as_string(session)],
            )
        ]
        session.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(table, sql.Identifier(trigger)))
    found = look_whole(shop.coordinator.dsn(), NAME)
    row = _rows(found)["balances"]
    assert [(each.shardid, each.triggers, each.missing) for each in row.sources[0].shards if each.missing] == [
        (shard.shardid, 2, ("upd",))
    ]
    with shop.coordinator.connect() as connection:
        report = repairing.repair(connection, is_check=True)
    assert [str(each) for each in report.findings] == list(row.repair) == found.facts["repair"]
    assert _rows(found)['na"mes'].repair == ()
    assert [(each.rule, each.severity, each.target) for each in findings(found)] == [
        ("stream_table_repair", Severity.ERROR, "public.balances")
    ]


def test_table_whose_refreshes_fail_says_so_without_values(shop: Cluster[AdministeredNode]) -> None:
    shop.sql(
        "UPDATE pgtrickle.pgt_stream_tables SET status = 'ERROR', consecutive_errors = 3,"
        " suspended_reason = '3 failed refreshes in a row: invalid input ''hush-1234''' WHERE pgt_name = 'balances';"
        " UPDATE pgtrickle.pgt_stream_tables SET suspended_reason = '1 failed refreshes in a row: invalid input syntax"
        " for type integer: \"hush-1234\"' WHERE pgt_name <> 'balances';"
        " UPDATE pgtrickle.pgt_refresh_history SET status = 'FAILED',"
        " reason = 'a row id was taken (Key (n)=(hush-1234))',"
        " error_message = 'invalid input syntax for type integer: \"hush-1234\"'"
    )
    found = look_whole(shop.coordinator.dsn(), NAME)
    row = _rows(found)["balances"]
    assert (row.status, row.consecutive_errors) == ("ERROR", 3)
    assert row.suspended_reason.startswith("3 failed refreshes in a row: invalid input")
    assert {refresh.error for each in found.rows for refresh in each.refreshes} == {
        "invalid input syntax for type integer: ?"
    }
    assert "hush" not in repr(found)
    assert [(each.rule, each.severity) for each in findings(found)] == [("stream_table_error", Severity.ERROR)]


def test_rights_decide_how_much_is_told_and_the_answer_says_which_are_missing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(settings={"max_prepared_transactions": "10"})
    upgrade(cluster.coordinator.dsn())
    _build(cluster.coordinator, is_distributed=True)
    _change(cluster.coordinator)
    cluster.create_role("mon")
    cluster.sql("GRANT pg_monitor TO mon")
    dsn = cluster.coordinator.dsn(user="mon")
    nothing = look(dsn, NAME)
    assert (nothing.status, nothing.reason) == (Status.UNAVAILABLE, Reason.INSUFFICIENT_PRIVILEGE)
    assert "GRANT USAGE ON SCHEMA pgtrickle" in nothing.message
    cluster.sql("GRANT USAGE ON SCHEMA pgtrickle TO mon; GRANT SELECT ON ALL TABLES IN SCHEMA pgtrickle TO mon")

    def estimated() -> Any:
        found = look(dsn, NAME)
        return found if found.rows[-1].pending_rows == 20 else None

    # The server's own statistics, which sessions hand in when they are idle.
    partial = wait_until("the estimate", estimated, deadline_s=30)
    assert_partial(partial, Reason.INSUFFICIENT_PRIVILEGE, "capture_problems", "estimated")
    assert [row.pending_source for row in partial.rows] == ["estimate", "estimate"]
    assert [shard.triggers for shard in partial.rows[-1].sources[0].shards] == [3] * SHARDS
    _ends_of_the_cluster(cluster)


def _ends_of_the_cluster(cluster: RunningCluster) -> None:
    """What is prepared, and then a worker that is gone."""
    dsn, worker = cluster.coordinator.dsn(), cluster.workers[0]
    with prepared(worker, "postgres", "left_behind"):
        (held,) = _rows(look_whole(dsn, NAME))["balances"].held_by
        assert (held.gid, held.pid, held.state) == ("left_behind", None, "prepared")
    host, port = worker.address
    with node_killed(worker):
        found = look(dsn, NAME)
    assert_partial(found, Reason.NODE_UNREACHABLE, f"{host}:{port}")
    shards = _rows(found)["balances"].sources[0].shards
    assert len(shards) == SHARDS
    for shard in shards:
        is_silent = shard.node == f"{host}:{port}"
        assert (shard.rows is None, shard.triggers) == (is_silent, None if is_silent else 3)
    assert {each.node for each in _rows(found)["balances"].nodes} == {"{}:{}".format(*cluster.workers[1].address)}


def test_database_without_the_catalog_or_of_another_version_says_so(
    citus_head_database: Cluster[AdministeredNode], empty_database: Node
) -> None:
    missing = look(empty_database.dsn(), NAME)
    assert (missing.status, missing.reason) == (Status.UNAVAILABLE, Reason.PGTRICKLE_MISSING)
    citus_head_database.sql("UPDATE pgtrickle.alembic_version SET version_num = '0005'")
    older = look(citus_head_database.coordinator.dsn(), NAME)
    assert (older.status, older.reason) == (Status.UNAVAILABLE, Reason.UNSUPPORTED_VERSION)
    assert "0005" in older.message


def test_server_without_citus_is_looked_at_too(head_database: Node) -> None:
    _build(head_database, is_distributed=False)
    _change(head_database)
    found = look_whole(head_database.dsn(), NAME)
    row = _rows(found)["balances"]
    assert (row.placement, row.pending_rows, row.pending_source) == ("local", 20, "exact")
    (shard,) = row.sources[0].shards
    assert (shard.shardid, shard.rows, shard.triggers, shard.missing) == (None, 20, 4, ())
    # A table called "order", which is a word of SQL, is found by its own name too.
    assert [shard.triggers for shard in _rows(found)['na"mes'].sources[0].shards] == [4]
    with head_database.connect() as session:
        session.execute("SET event_triggers = off")  # or this project's own would switch them on again
        session.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER ALL").format(ENTRIES))
    damaged = look_whole(head_database.dsn(), NAME)
    (shard,) = _rows(damaged)["balances"].sources[0].shards
    assert (shard.triggers, shard.missing) == (0, ("ins", "upd", "del", "truncate"))
    assert len(_rows(damaged)["balances"].repair) == 4
    with _locked(head_database) as pid:
        lease = _rows(look_whole(head_database.dsn(), NAME))["balances"].lease
        assert (lease.pid, lease.deadline, lease.is_stale) == (pid, None, False)


@contextmanager
def _locked(node: Node) -> Iterator[int]:
    """The advisory lock that stands for a lease on one server."""
    with node.connect() as session:
        number = node.value("SELECT pgt_id FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'balances'")
        session.execute("SELECT pg_advisory_lock(%s, %s)", [LOCK_CLASS, number])
        yield session.info.backend_pid


def test_two_looks_differ_in_volatile_fields_only(shop: Cluster[AdministeredNode]) -> None:
    _change(shop.coordinator)
    first, second = (look_whole(shop.coordinator.dsn(), NAME) for _ in range(2))
    for one, other in zip(first.rows, second.rows, strict=True):
        assert {k: v for k, v in vars(one).items() if k not in first.volatile} == {
            k: v for k, v in vars(other).items() if k not in first.volatile
        }


def test_everything_that_is_read_is_declared() -> None:
    """What is declared is compared with the catalog in scenarios/inspectors/test_sources.py."""
    places = [*Path(stream_tables.__file__).parent.glob("*.py"), Path(repairing.__file__).with_name("look.py")]
    text = " ".join(path.read_text(encoding="utf-8") for path in places)
    mentioned = set(re.findall(r"\b(?:FROM|JOIN) (?:pg_catalog|pgtrickle)\.(\w+)\b(?!\s*\()", text))
    assert len(mentioned) > 10
    assert mentioned <= {source.relation for source in get(NAME).sources}
