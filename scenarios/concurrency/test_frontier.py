"""What a cut takes beside an open transaction: a frontier of sequence values loses it, one of snapshots does not"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.postgres import Node, Server
from harness.trickle import StreamTables
from harness.trickle.oracle import compare

Connection = psycopg.Connection[TupleRow]
GROUNDS = ["plain", pytest.param("citus", marks=pytest.mark.citus(">= 13"))]


@pytest.fixture(params=GROUNDS)
def cluster_with_events(request: pytest.FixtureRequest) -> Cluster:
    """A database at head with a table `events`, distributed where there is Citus, and a stream table `per_kind`."""
    if request.param == "plain":
        server: Server = request.getfixturevalue("server")
        node: Node = request.getfixturevalue("database")
        made = Cluster(server.name, node, [])
    else:
        made = request.getfixturevalue("citus_database")
    upgrade(made.coordinator.dsn())
    made.sql("CREATE TABLE events (id integer, kind text)")
    if made.workers:
        made.sql("SELECT create_distributed_table('events', 'id', shard_count => 4)")
    return made


@contextmanager
def _kept(cluster: Cluster) -> Iterator[StreamTables]:
    with cluster.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        stream_tables.create("per_kind", "SELECT kind, count(*) AS n FROM events GROUP BY kind", None, "DIFFERENTIAL")
        yield stream_tables


def _buffer(cluster: Cluster) -> sql.Identifier:
    stable = cluster.value("SELECT source_stable_name FROM pgtrickle.pgt_change_tracking")
    return sql.Identifier("pgtrickle_changes", f"changes_{stable}")


def _neighbours(cluster: Cluster) -> tuple[int, int]:
    """Two ids whose rows are in one shard: their captured rows take their values on one node."""
    if not cluster.workers:
        return 1, 2
    found = cluster.rows(
        "SELECT min(i), max(i) FROM (SELECT i, get_shard_id_for_distribution_column('events', i) AS shard"
        " FROM generate_series(1, 100) i) s GROUP BY shard LIMIT 1"
    )
    return int(found[0][0]), int(found[0][1])


def _kinds(cluster: Cluster) -> dict[str, int]:
    return dict(cluster.rows("SELECT kind, n FROM per_kind"))


def _places(cluster: Cluster) -> tuple[str, ...]:
    return ("seq_id",) if cluster.workers else ("lsn",)


def _taken(
    connection: Connection, buffer: sql.Identifier, place: str, after: object | None
) -> tuple[list[str], object | None]:
    """A cut as the plan has it: what lies behind the last value that was taken, and the new last value."""
    rows = connection.execute(
        sql.SQL("SELECT new_kind, {p} FROM {b} WHERE {a}::text IS NULL OR {p} > {a} ORDER BY {p}").format(
            p=sql.Identifier(place), b=buffer, a=sql.Literal(after)
        )
    ).fetchall()
    return [str(row[0]) for row in rows], rows[-1][1] if rows else after


def test_cut_by_sequence_loses_a_row_and_a_cut_by_snapshot_does_not(cluster_with_events: Cluster) -> None:
    """A draws its value first, B draws later and commits, a cut is made at B's value, A commits (F19, F20).

    By value, A's row now lies behind the cut that was already made: no later cut takes it. The same happens with the
    position in the WAL, which is drawn at the same moment. The stream table's own cut takes it with the next refresh.
    """
    cluster = cluster_with_events
    first, second = _neighbours(cluster)
    coordinator = cluster.coordinator
    with _kept(cluster) as stream_tables, coordinator.connect() as reader:
        buffer = _buffer(cluster)
        a, b = coordinator.connect(autocommit=False), coordinator.connect(autocommit=False)
        try:
            a.execute("INSERT INTO events VALUES (%s, 'early')", [first])
            b.execute("INSERT INTO events VALUES (%s, 'late')", [second])
            b.commit()
            first_cut = {place: _taken(reader, buffer, place, None) for place in _places(cluster)}
            assert all(kinds == ["late"] for kinds, _ in first_cut.values())
            # Who reads buffers by value must leave them as they are; the refresh, which empties them, comes after.
            a.commit()
        finally:
            a.close()
            b.close()
        for place, (_, last) in first_cut.items():
            kinds, _ = _taken(reader, buffer, place, last)
            assert kinds == [], f"by {place} the row of A is lost: nothing behind {last}"
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (2,)
        stream_tables.refresh("per_kind")
        assert _kinds(cluster) == {"early": 1, "late": 1}


def test_cut_between_two_commits_takes_each_row_once(cluster_with_events: Cluster) -> None:
    cluster = cluster_with_events
    first, second = _neighbours(cluster)
    with _kept(cluster) as stream_tables, cluster.coordinator.connect() as checker:
        a, b = (cluster.coordinator.connect(autocommit=False) for _ in "ab")
        try:
            a.execute("INSERT INTO events VALUES (%s, 'early')", [first])
            b.execute("INSERT INTO events VALUES (%s, 'late')", [second])
            b.commit()
            stream_tables.refresh("per_kind")
            assert _kinds(cluster) == {"late": 1}
            a.commit()
            stream_tables.refresh("per_kind")
            assert _kinds(cluster) == {"early": 1, "late": 1}
            stream_tables.refresh("per_kind")
        finally:
            a.close()
            b.close()
        assert compare(checker, "per_kind").is_equal


def test_long_transaction_holds_its_own_rows_and_loses_none(cluster_with_events: Cluster) -> None:
    """Ten refreshes pass while it is open: the others' rows come, its own come with its commit, and status names it."""
    cluster = cluster_with_events
    with _kept(cluster) as stream_tables, cluster.coordinator.connect() as checker:
        long = cluster.coordinator.connect(autocommit=False)
        try:
            long.execute("INSERT INTO events SELECT i, 'long' FROM generate_series(1, 40) i")
            for number in range(10):
                cluster.sql("INSERT INTO events SELECT i, 'short' FROM generate_series(1, 8) i")
                stream_tables.refresh("per_kind")
                assert _kinds(cluster) == {"short": 8 * (number + 1)}
                assert compare(checker, "per_kind").is_equal
                if number == 5:
                    long.execute("UPDATE events SET kind = 'longer' WHERE kind = 'long' AND id <= 10")
            _assert_named(cluster, stream_tables, long)
            long.commit()
        finally:
            long.close()
        stream_tables.refresh("per_kind")
        assert _kinds(cluster) == {"short": 80, "long": 30, "longer": 10}
        assert compare(checker, "per_kind").is_equal
        assert stream_tables.status("per_kind")[0].held_by == ()


def _assert_named(cluster: Cluster, stream_tables: StreamTables, holder: Connection) -> None:
    held_by = stream_tables.status("per_kind")[0].held_by
    assert held_by, "status says who holds"
    assert all(each.state == "idle in transaction" and each.age_s > 0 for each in held_by)
    if not cluster.workers:
        assert [(each.node, each.pid) for each in held_by] == [("coordinator", holder.info.backend_pid)]
        assert "UPDATE events" in held_by[0].query
    else:
        workers = _workers(cluster)
        assert {each.node for each in held_by} & workers == workers, f"on both workers: {held_by}"


def _workers(cluster: Cluster) -> set[str]:
    return {
        f"{host}:{port}" for host, port in cluster.rows("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0")
    }


def test_rolled_back_transaction_that_was_open_over_a_cut_leaves_nothing(cluster_with_events: Cluster) -> None:
    cluster = cluster_with_events
    with _kept(cluster) as stream_tables, cluster.coordinator.connect() as checker:
        with cluster.coordinator.connect(autocommit=False) as open_one:
            open_one.execute("INSERT INTO events SELECT i, 'never' FROM generate_series(1, 40) i")
            cluster.sql("INSERT INTO events VALUES (1, 'kept')")
            stream_tables.refresh("per_kind")
            open_one.rollback()
        stream_tables.refresh("per_kind")
        assert _kinds(cluster) == {"kept": 1}
        assert compare(checker, "per_kind").is_equal


@pytest.mark.citus(">= 13")
def test_transaction_through_a_worker_that_is_open_over_cuts_is_not_lost(citus_database: Cluster) -> None:
    upgrade(citus_database.coordinator.dsn())
    citus_database.sql("CREATE TABLE events (id integer, kind text)")
    citus_database.sql("SELECT create_distributed_table('events', 'id', shard_count => 4)")
    worker = citus_database.workers[0]
    with _kept(citus_database) as stream_tables, citus_database.coordinator.connect() as checker:
        with worker.connect(autocommit=False) as through_worker:
            through_worker.execute("INSERT INTO events SELECT i, 'mx' FROM generate_series(1, 40) i")
            for number in range(3):
                citus_database.sql("INSERT INTO events SELECT i, 'short' FROM generate_series(1, 8) i")
                stream_tables.refresh("per_kind")
                assert _kinds(citus_database) == {"short": 8 * (number + 1)}
            through_worker.commit()
        stream_tables.refresh("per_kind")
        assert _kinds(citus_database) == {"short": 24, "mx": 40}
        assert compare(checker, "per_kind").is_equal
