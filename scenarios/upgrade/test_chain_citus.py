"""The chain on a real 1+2: what workers need reaches them, later ones too, and capture by placement works (D4)."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.clusters import Cluster
from harness.clusters.running import RunningCluster
from harness.errors import PreflightError
from harness.postgres import Node
from scenarios.upgrade.small_installation import build_small_installation

pytestmark = pytest.mark.citus(">= 13")
Connection = psycopg.Connection[TupleRow]

NEEDED = (
    "SELECT count(*) FROM unnest(ARRAY['_xxh64', 'pg_trickle_hash', 'stable_hash', 'is_pending', '_buffer_shard']) f"
)
NEEDED_FUNCTIONS = NEEDED + " WHERE to_regproc('pgtrickle.' || f) IS NOT NULL"
# Weight of each captured row: what came counts +1, what went counts -1.
NET = """
SELECT coalesce(new_id, old_id), coalesce(new_v, old_v), sum(CASE action WHEN 'I' THEN 1 ELSE -1 END)::int
FROM pgtrickle_changes.{} GROUP BY 1, 2 HAVING sum(CASE action WHEN 'I' THEN 1 ELSE -1 END) <> 0 ORDER BY 1, 2"""


@pytest.fixture
def upgraded(citus_database: Cluster) -> Cluster:
    """An installation of 0.2 on a coordinator, taken to head, with distributed and reference tables beside it."""
    coordinator = citus_database.coordinator
    build_small_installation(coordinator)
    runner.upgrade(coordinator.dsn())
    with coordinator.connect() as conn:
        conn.execute("SET citus.shard_count = 4")
        for name, how in (("dist", "'id'"), ("solo", "NULL")):
            table = sql.Identifier(name)
            conn.execute(sql.SQL("CREATE TABLE {} (id int, v text, PRIMARY KEY (id))").format(table))
            conn.execute(sql.SQL("SELECT create_distributed_table({}, {})").format(sql.Literal(name), sql.SQL(how)))
        conn.execute("CREATE TABLE ref (id int PRIMARY KEY, v text)")
        conn.execute("SELECT create_reference_table('ref')")
    return citus_database


def _capture(node: Node, table: str) -> sql.Identifier:
    stable = node.value("SELECT pgtrickle.install_capture(%s::regclass)", [table])
    return sql.Identifier(f"changes_{stable}")


def _net(node: Node, buffer: sql.Identifier) -> list[tuple[object, ...]]:
    return node.rows(sql.SQL(NET).format(buffer))


def _assert_shards_on_both_workers(coordinator: Node, table: str) -> None:
    placed = coordinator.rows(
        "SELECT DISTINCT nodename, nodeport FROM citus_shards WHERE table_name = %s::regclass", [table]
    )
    assert len(placed) == 2, f"{table} is not on both workers: {placed}"


def _write(node: Node, table: str) -> None:
    for statement in (
        "INSERT INTO {} SELECT i, 'v' || i FROM generate_series(1, 40) i",
        "UPDATE {} SET v = v || '!' WHERE id <= 10",
        "DELETE FROM {} WHERE id > 35",
        "INSERT INTO {} VALUES (1, 'new'), (99, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    ):
        node.sql(sql.SQL(statement).format(sql.Identifier(table)))
    with node.connect(autocommit=False) as conn:
        conn.execute(sql.SQL("DELETE FROM {} WHERE id < 20").format(sql.Identifier(table)))
        conn.rollback()


def test_workers_get_sequence_functions_and_schemas(upgraded: Cluster) -> None:
    first = []
    for worker in upgraded.workers:
        assert worker.value(NEEDED_FUNCTIONS) == 5
        assert worker.value("SELECT to_regnamespace('pgtrickle_changes') IS NOT NULL") is True
        first.append(worker.value("SELECT nextval('pgtrickle.change_seq') >> 48"))
    assert sorted(first) == [1, 2], "each worker counts in a range of its own (F5)"


@pytest.mark.parametrize("table", ["dist", "solo", "ref"])
def test_capture_sums_to_the_contents(upgraded: Cluster, table: str) -> None:
    coordinator = upgraded.coordinator
    buffer = _capture(coordinator, table)
    if table == "dist":
        _assert_shards_on_both_workers(coordinator, table)
        together = coordinator.value(
            "SELECT count(DISTINCT colocationid) FROM pg_dist_partition"
            " WHERE logicalrelid IN (%s::regclass, %s::regclass)",
            [table, f"pgtrickle_changes.{buffer.as_string().strip(chr(34))}"],
        )
        assert together == 1, "the buffer is colocated with its source"
    _write(coordinator, table)
    contents = coordinator.rows(sql.SQL("SELECT id, v, 1 FROM {} ORDER BY 1, 2").format(sql.Identifier(table)))
    assert _net(coordinator, buffer) == contents
    if table == "dist":
        nodes = {
            row[0] >> 48 for row in coordinator.rows(sql.SQL("SELECT seq_id FROM pgtrickle_changes.{}").format(buffer))
        }
        assert nodes == {1, 2}, "changes were captured on both workers"


def test_writes_through_a_worker_are_captured(upgraded: Cluster) -> None:
    coordinator, worker = upgraded.coordinator, upgraded.workers[0]
    for table in ("dist", "ref"):
        buffer = _capture(coordinator, table)
        _write(worker, table)
        contents = coordinator.rows(sql.SQL("SELECT id, v, 1 FROM {} ORDER BY 1, 2").format(sql.Identifier(table)))
        assert _net(coordinator, buffer) == contents


def test_ddl_on_a_distributed_source_is_followed(upgraded: Cluster) -> None:
    coordinator = upgraded.coordinator
    _capture(coordinator, "dist")
    with coordinator.connect() as conn:
        conn.execute("INSERT INTO dist SELECT i, 'x' FROM generate_series(1, 20) i")
        conn.execute('ALTER TABLE dist ADD COLUMN "Ex tra" int DEFAULT 5')
        conn.execute('UPDATE dist SET "Ex tra" = 6')
        conn.execute('ALTER TABLE dist RENAME COLUMN "Ex tra" TO extra')
        conn.execute('ALTER TABLE dist RENAME TO "dist\'2"')
        conn.execute('UPDATE "dist\'2" SET extra = 7')
        conn.execute('ALTER TABLE "dist\'2" DROP COLUMN v')
        conn.execute('DELETE FROM "dist\'2" WHERE id = 3')
        stable = conn.execute(
            "SELECT source_stable_name FROM pgtrickle.pgt_change_tracking WHERE source_relid = '\"dist''2\"'::regclass"
        ).fetchone()
        assert stable is not None
        assert stable[0] == conn.execute("SELECT pgtrickle.stable_hash('public.dist''2')").fetchone()[0]  # type: ignore[index]
        net = conn.execute(
            sql.SQL(
                "SELECT coalesce(new_extra, old_extra), sum(CASE action WHEN 'I' THEN 1 ELSE -1 END)::int"
                " FROM pgtrickle_changes.{} GROUP BY 1 ORDER BY 1"
            ).format(sql.Identifier(f"changes_{stable[0]}"))
        ).fetchall()
    # The column's default came to 20 rows uncaptured (no row changed), so 5 went and 7 came; one 7 went again.
    assert net == [(5, -20), (6, 0), (7, 19), (None, 20)]


@pytest.mark.parametrize("table", ["dist", "solo", "ref"])
def test_a_dropped_source_takes_its_capture_along(upgraded: Cluster, table: str) -> None:
    coordinator = upgraded.coordinator
    buffer = _capture(coordinator, table)
    coordinator.sql(sql.SQL("INSERT INTO {} VALUES (1, 'a')").format(sql.Identifier(table)))
    coordinator.sql(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))
    name = buffer.as_string().strip('"')
    for node in upgraded.nodes:
        assert node.value("SELECT to_regclass('pgtrickle_changes.' || %s) IS NULL", [name]) is True, node.name
        assert (
            node.value("SELECT count(*) FROM pg_proc WHERE proname LIKE '%%' || %s", [name.removeprefix("changes_")])
            == 0
        )
    assert coordinator.value("SELECT count(*) FROM pgtrickle.pgt_change_tracking") == 3


def test_going_down_refuses_to_lose_capture(upgraded: Cluster) -> None:
    coordinator = upgraded.coordinator
    for table in ("dist", "ref"):
        _capture(coordinator, table)
    with pytest.raises(PreflightError) as refused:
        runner.downgrade(coordinator.dsn(), "0001")
    assert {(f.code, f.subject) for f in refused.value.findings} == {("capture_lost", "dist"), ("capture_lost", "ref")}
    assert runner.current_revision(coordinator.dsn()) == runner.REVISIONS[-1]
    for table in ("dist", "ref"):
        assert coordinator.value("SELECT pgtrickle.remove_capture(%s::regclass)", [table]) is True
    runner.downgrade(coordinator.dsn(), "0001")
    coordinator.sql("INSERT INTO dist VALUES (1000, 'free'); ")


def test_a_worker_added_later_has_what_it_needs(fresh_cluster: RunningCluster) -> None:
    coordinator, late = fresh_cluster.coordinator, fresh_cluster.workers[1]
    coordinator.sql("SELECT citus_remove_node(%s, %s)", late.address)
    assert late.value("SELECT to_regnamespace('pgtrickle') IS NULL") is True
    runner.upgrade(coordinator.dsn())
    coordinator.sql("CREATE TABLE early (id int PRIMARY KEY, v text)")
    coordinator.sql("SELECT create_distributed_table('early', 'id', shard_count := 4)")
    buffer = _capture(coordinator, "early")
    coordinator.sql("SELECT citus_add_node(%s, %s)", late.address)
    assert late.value(NEEDED_FUNCTIONS) == 5
    coordinator.sql("SELECT citus_rebalance_start()")
    coordinator.sql("SELECT citus_rebalance_wait()", deadline_s=240)
    _assert_shards_on_both_workers(coordinator, "early")
    _write(coordinator, "early")
    assert _net(coordinator, buffer) == coordinator.rows("SELECT id, v, 1 FROM early ORDER BY 1, 2")
    nodes = coordinator.rows(sql.SQL("SELECT DISTINCT seq_id >> 48 FROM pgtrickle_changes.{}").format(buffer))
    assert len(nodes) == 2, "the new worker captures too"
