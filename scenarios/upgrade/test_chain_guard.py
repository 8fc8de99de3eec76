"""The guard of stream tables: only a refresh writes them, on plain PostgreSQL and on every shard (0007, D7)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.clusters import Cluster
from harness.clusters.running import RunningCluster
from harness.postgres import DsnNode, Node, Server
from scenarios.upgrade.engine_storage import GUARDS

Connection = psycopg.Connection[TupleRow]
WRITES = (
    "INSERT INTO {0} VALUES (1000, 1)",
    "UPDATE {0} SET total = 0",
    "DELETE FROM {0} WHERE __pgt_row_id = 7",
    "MERGE INTO {0} t USING (VALUES (1::bigint)) s(id) ON t.__pgt_row_id = s.id WHEN MATCHED THEN DELETE",
    "TRUNCATE {0}",
    "COPY {0} FROM STDIN",
)


def _make(node: Node, name: sql.Identifier, place: str = "") -> None:
    """A table with forty rows under guard; ``place`` is the call that distributes it."""
    with node.connect(autocommit=False) as conn:
        conn.execute(sql.SQL("CREATE TABLE {} (__pgt_row_id bigint NOT NULL UNIQUE, total int)").format(name))
        conn.execute(sql.SQL("INSERT INTO {} SELECT i, i FROM generate_series(1, 40) i").format(name))
        if place:
            conn.execute("SET LOCAL citus.enable_unsafe_triggers = on")
            conn.execute(place.encode())
        for guard in GUARDS:
            conn.execute(sql.SQL(guard).format(name))


def _write(conn: Connection, name: sql.Identifier, write: str) -> None:
    statement = sql.SQL(write).format(name)
    if not write.startswith("COPY"):
        conn.execute(statement)
        return
    with conn.cursor().copy(statement) as copy:
        copy.write(b"1000\t1\n")


def _assert_refused(conn: Connection, name: sql.Identifier, *writes: str) -> psycopg.errors.Diagnostic:
    for write in writes:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
            _write(conn, name, write)
    return refused.value.diag


def test_guard_refuses_every_kind_of_write(database: Node) -> None:
    runner.upgrade(database.dsn())
    database.sql('CREATE SCHEMA "S.x"')
    name = sql.Identifier("S.x", 'tot "als"')
    _make(database, name)
    with database.connect() as conn:
        found = _assert_refused(conn, name, *WRITES)
    assert found.message_primary == '"S.x"."tot ""als""" is a stream table, which only a refresh writes'
    assert "drop it with" in (found.message_hint or "")
    assert database.row(sql.SQL("SELECT count(*), sum(total) FROM {}").format(name)) == (40, 820)


def test_guard_lets_a_refresh_write_and_closes_after_it(database: Node) -> None:
    runner.upgrade(database.dsn())
    name = sql.Identifier("totals")
    _make(database, name)
    with database.connect() as conn:
        with conn.transaction():
            conn.execute("SET LOCAL pgtrickle.refreshing = 'on'")
            for write in WRITES[:-1]:
                _write(conn, name, write)
        # The setting is there now, and empty: that is not 'on'.
        _assert_refused(conn, name, *WRITES)


def test_guard_needs_no_right_to_fire(database: Node, server: Server) -> None:
    """Whoever may write the table hears from the guard, although PUBLIC may not call it nor make a trigger with it."""
    role = f"role_{secrets.token_hex(4)}"
    server.create_role(role)
    runner.upgrade(database.dsn())
    name = sql.Identifier("totals")
    _make(database, name)
    database.sql(sql.SQL("GRANT ALL ON totals TO {}").format(sql.Identifier(role)))
    database.sql(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(sql.Identifier(role)))
    dbname = str(database.value("SELECT current_database()"))
    writer = DsnNode("writer", psycopg.conninfo.make_conninfo(server.dsn(user=role), dbname=dbname))
    try:
        with writer.connect() as conn:
            _assert_refused(conn, name, *WRITES)
        writer.sql("CREATE TABLE mine (id int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            writer.sql(sql.SQL(GUARDS[0]).format(sql.Identifier("mine")))
    finally:
        writer.close()


@contextmanager
def _on_shards(worker: Node, table: str) -> Iterator[tuple[Connection, list[str]]]:
    """A session on a worker that sees shards, which Citus hides, and may write them; and the names of a table's."""
    with worker.connect() as conn:
        conn.execute("SET citus.override_table_visibility = off")
        conn.execute("SET citus.enable_manual_changes_to_shards = on")
        rows = conn.execute("SELECT relname FROM pg_class WHERE relname ~ ('^' || %s || '_[0-9]+$')", [table])
        yield conn, sorted(str(name) for (name,) in rows)


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize(
    ("table", "place"),
    [
        ("dist", "SELECT create_distributed_table('dist', '__pgt_row_id', shard_count := 4)"),
        ("solo", "SELECT create_distributed_table('solo', NULL)"),
        ("ref", "SELECT create_reference_table('ref')"),
    ],
)
def test_guard_holds_on_the_shards(citus_database: Cluster, table: str, place: str) -> None:
    """From the coordinator, from a worker, and on a shard by its own name; a refresh may, on every node (F8)."""
    coordinator = citus_database.coordinator
    runner.upgrade(coordinator.dsn())
    name = sql.Identifier(table)
    _make(coordinator, name, place)
    for node in (coordinator, *citus_database.workers):
        with node.connect() as conn:
            _assert_refused(conn, name, *WRITES[:3])
            # Citus says what the shard said, and that it is an internal error (14.0).
            with pytest.raises(psycopg.Error, match="is a stream table, which only a refresh writes"):
                _write(conn, name, "COPY {0} FROM STDIN")
    with coordinator.connect() as conn:
        _assert_refused(conn, name, "TRUNCATE {0}")
    counts = []
    for worker in citus_database.workers:
        with _on_shards(worker, table) as (conn, shards):
            counts.append(len(shards))
            for shard in shards:
                found = _assert_refused(conn, sql.Identifier(shard), *WRITES[:3])
                assert f"{shard} is a stream table" in (found.message_primary or "")
    assert sorted(counts) == {"dist": [2, 2], "solo": [0, 1], "ref": [1, 1]}[table]
    assert coordinator.row(sql.SQL("SELECT count(*), sum(total) FROM {}").format(name)) == (40, 820)
    with coordinator.connect() as conn:
        with conn.transaction():
            conn.execute("SET LOCAL citus.propagate_set_commands = 'local'")
            conn.execute("SET LOCAL pgtrickle.refreshing = 'on'")
            conn.execute(sql.SQL("DELETE FROM {} WHERE __pgt_row_id <= 10").format(name))
            conn.execute(sql.SQL("INSERT INTO {} SELECT i, i FROM generate_series(41, 60) i").format(name))
        row = conn.execute(sql.SQL("SELECT count(*), min(__pgt_row_id) FROM {}").format(name)).fetchone()
        assert row == (50, 11)
        # The same session, its connections to the workers the same: closed again.
        _assert_refused(conn, name, "DELETE FROM {0}")


@pytest.mark.citus(">= 13")
def test_guard_reaches_a_worker_added_later(fresh_cluster: RunningCluster) -> None:
    coordinator, late = fresh_cluster.coordinator, fresh_cluster.workers[1]
    coordinator.sql("SELECT citus_remove_node(%s, %s)", late.address)
    runner.upgrade(coordinator.dsn())
    name = sql.Identifier("dist")
    _make(coordinator, name, "SELECT create_distributed_table('dist', '__pgt_row_id', shard_count := 4)")
    coordinator.sql("SELECT citus_add_node(%s, %s)", late.address)
    coordinator.sql("SELECT citus_rebalance_start(shard_transfer_mode := 'block_writes')")
    coordinator.sql("SELECT citus_rebalance_wait()", deadline_s=240)
    with coordinator.connect() as conn:
        _assert_refused(conn, name, "UPDATE {0} SET total = 0")
    with _on_shards(late, "dist") as (conn, shards):
        assert len(shards) == 2
        for shard in shards:
            _assert_refused(conn, sql.Identifier(shard), "DELETE FROM {0}")


@pytest.mark.citus(">= 13")
def test_guard_of_before_citus_came_reaches_the_workers(fresh_cluster: RunningCluster) -> None:
    """The chain ran on plain PostgreSQL: the trigger takes the function along."""
    coordinator = fresh_cluster.coordinator
    for node in fresh_cluster.nodes:
        node.sql("DROP EXTENSION citus CASCADE")
    runner.upgrade(coordinator.dsn())
    for node in fresh_cluster.nodes:
        node.sql("CREATE EXTENSION citus")
    coordinator.sql("SELECT citus_set_coordinator_host(%s, %s)", coordinator.address)
    for worker in fresh_cluster.workers:
        coordinator.sql("SELECT citus_add_node(%s, %s)", worker.address)
    name = sql.Identifier("dist")
    _make(coordinator, name, "SELECT create_distributed_table('dist', '__pgt_row_id', shard_count := 4)")
    for worker in fresh_cluster.workers:
        assert worker.value("SELECT to_regproc('pgtrickle._guard_stream_table') IS NOT NULL") is True
    with coordinator.connect() as conn:
        _assert_refused(conn, name, "UPDATE {0} SET total = 0")
