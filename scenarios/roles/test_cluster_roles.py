"""Workers that register themselves, in any order, and stay what they are over restarts and moves."""

from __future__ import annotations

import psycopg
import pytest

from harness.postgres import DsnNode
from scenarios.roles.conftest import MakeNode, RoleCluster, start_cluster, worker_of
from scenarios.roles.role_nodes import RoleNode

pytestmark = pytest.mark.citus(">= 13")

PLACES = (
    "SELECT groupid, nodename, nodeport, isactive, metadatasynced, shouldhaveshards FROM pg_dist_node ORDER BY groupid"
)


def places(node: RoleNode) -> list[tuple[object, ...]]:
    with node.session() as client:
        return client.rows(PLACES)


def assert_complete(cluster: RoleCluster) -> None:
    """Every node knows all nodes, each reaches each with its password, and the data are whole."""
    expected = [(0, "127.0.0.1", cluster.coordinator.port, True, True, False)]
    known = {row[2] for row in places(cluster.coordinator)}
    assert known == {node.port for node in cluster.nodes}
    assert places(cluster.coordinator)[:1] == expected
    for worker in cluster.workers:
        assert places(worker) == places(cluster.coordinator)
    with cluster.coordinator.session() as client:
        pairs = client.rows("SELECT from_nodeport, to_nodeport, result FROM citus_check_cluster_node_health()")
        assert {(pair[0], pair[1]) for pair in pairs} == {
            (a.port, b.port) for a in cluster.nodes for b in cluster.nodes
        }
        assert all(pair[2] for pair in pairs)
    for node in cluster.nodes:
        assert node.health()[0] == 0, node.health()


def fill(client: DsnNode, name: str, rows: int) -> None:
    client.sql(psycopg.sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, a int)").format(psycopg.sql.Identifier(name)))
    client.sql("SELECT create_distributed_table(%s::regclass, 'id', colocate_with => 'none')", [name])
    client.sql(
        psycopg.sql.SQL("INSERT INTO {} SELECT i, i + 1 FROM generate_series(1, %s) AS i").format(
            psycopg.sql.Identifier(name)
        ),
        [rows],
    )


@pytest.fixture(scope="module")
def cluster(make_module_node: MakeNode) -> RoleCluster:
    made = start_cluster(make_module_node)
    with made.coordinator.session() as client:
        fill(client, "numbers", 1000)
        fill(client, "others", 1000)
    return made


def assert_data(node: RoleNode) -> None:
    with node.session() as client:
        assert client.row("SELECT count(*), sum(id) FROM numbers") == (1000, 500500)


def test_a_cluster_is_complete_and_its_workers_talk_to_each_other(cluster: RoleCluster) -> None:
    assert_complete(cluster)
    with psycopg.connect(cluster.coordinator.dsn()) as client:
        # Rows have to go from worker to worker: each fetches the other's part with its own password.
        client.execute("SET citus.enable_repartition_joins = on")
        plan = client.execute("EXPLAIN SELECT count(*) FROM numbers JOIN others ON numbers.id = others.a").fetchall()
        assert "MapMergeJob" in str(plan)
        found = client.execute("SELECT count(*) FROM numbers JOIN others ON numbers.id = others.a").fetchone()
        assert found == (999,)
    for worker in cluster.workers:
        assert_data(worker)  # a worker asks the other one itself


def test_every_node_starts_again_as_what_it_was(cluster: RoleCluster) -> None:
    before = places(cluster.coordinator)
    for node in cluster.nodes:
        assert node.stop() == 0
        node.start()
        assert places(cluster.coordinator) == before
        assert_data(cluster.coordinator)
    for node in cluster.nodes:
        node.stop()
    for node in reversed(cluster.nodes):
        node.begin()
    for node in cluster.nodes:
        node.wait_ready()
    assert places(cluster.coordinator) == before
    assert_complete(cluster)
    assert_data(cluster.coordinator)


def test_a_second_start_on_a_volume_in_use_is_refused_and_harms_nobody(
    cluster: RoleCluster, make_node: MakeNode
) -> None:
    worker = cluster.workers[0]
    second = make_node("second", **worker_of(cluster.coordinator))
    second.begin(PGDATA=str(worker.data_dir))
    assert second.wait_end() == 2
    assert f"another node runs on PGDATA='{worker.data_dir}'" in second.said()
    assert_complete(cluster)


def test_a_worker_at_a_new_port_and_name_is_the_same_worker(cluster: RoleCluster) -> None:
    worker = cluster.workers[1]
    before = {row[0] for row in places(cluster.coordinator)}
    worker.stop()
    worker.take_new_port()
    worker.start()
    assert any("moved from" in line for line in worker.own_words())
    assert {row[0] for row in places(cluster.coordinator)} == before
    assert_complete(cluster)
    assert_data(cluster.coordinator)
    worker.stop()
    worker.start(CITUS_NODE_HOST="localhost")
    assert ("localhost", worker.port) in {row[1:3] for row in places(cluster.coordinator)}
    assert_data(cluster.workers[0])
    worker.stop()
    worker.start()
    assert_complete(cluster)


def test_a_coordinator_at_a_new_port_is_followed_by_its_workers(cluster: RoleCluster) -> None:
    coordinator = cluster.coordinator
    coordinator.stop()
    coordinator.take_new_port()
    for worker in cluster.workers:
        worker.stop()
        worker.environment |= worker_of(coordinator)
        worker.begin()
    coordinator.start()
    for worker in cluster.workers:
        worker.wait_ready()
    assert_complete(cluster)
    assert_data(cluster.coordinator)
    assert_data(cluster.workers[0])


def test_a_worker_knows_its_cluster_and_is_refused_by_another(cluster: RoleCluster, make_node: MakeNode) -> None:
    other = make_node("other")
    other.start()
    worker = cluster.workers[0]
    worker.stop()
    said = worker.refused(CITUS_COORDINATOR_PORT=str(other.port))
    assert f"is worker group 1 of the cluster of 127.0.0.1:{cluster.coordinator.port}" in said or "group 2" in said
    assert f"127.0.0.1:{other.port} is another cluster" in said
    with other.session() as client:
        assert client.value("SELECT count(*) FROM pg_dist_node WHERE groupid > 0") == 0
    said = worker.refused(CITUS_ROLE="coordinator", CITUS_COORDINATOR_HOST=None)
    assert "and CITUS_ROLE is coordinator" in said
    worker.start()
    assert_complete(cluster)
    other.stop()
    said = other.refused(**worker_of(cluster.coordinator))
    assert f"is the coordinator 127.0.0.1:{other.port}" in said


def test_a_worker_that_is_pointed_at_a_worker_or_at_itself_is_refused(
    cluster: RoleCluster, make_node: MakeNode
) -> None:
    lost = make_node("lost", **worker_of(cluster.workers[0]))
    assert f"127.0.0.1:{cluster.workers[0].port} is a worker of the cluster of" in lost.refused()
    lost.environment |= worker_of(lost)
    assert "this worker itself" in lost.refused()
    assert "this worker itself" in lost.refused(CITUS_COORDINATOR_HOST="localhost")


def test_an_empty_volume_under_a_known_name_is_no_substitute(cluster: RoleCluster, make_node: MakeNode) -> None:
    worker = cluster.workers[0]
    worker.stop()
    empty = make_node("empty", volume="empty", **worker_of(cluster.coordinator))
    said = empty.refused(PGPORT=str(worker.port))
    assert f"knows 127.0.0.1:{worker.port} as group" in said
    assert "whose data are not in PGDATA" in said
    worker.start()
    assert_complete(cluster)
    assert_data(cluster.coordinator)


def test_a_copy_of_a_worker_that_runs_is_refused(cluster: RoleCluster, make_node: MakeNode) -> None:
    worker = cluster.workers[0]
    copy = make_node("copy", volume="empty", **worker_of(cluster.coordinator))
    worker.stop()
    copy.copy_volume(worker.data_dir)
    worker.start()
    said = copy.refused()
    assert "two nodes are group" in said
    assert f"127.0.0.1:{worker.port} answers" in said
    assert_complete(cluster)


def test_other_roles_need_their_passwords_on_every_node(cluster: RoleCluster) -> None:
    with cluster.coordinator.session() as client:
        client.sql("CREATE ROLE clerk LOGIN PASSWORD 'clerk''s own'")
        client.sql("GRANT SELECT ON numbers TO clerk")
    with (
        cluster.coordinator.session(user="clerk", password="clerk's own") as client,  # noqa: S106
        pytest.raises(psycopg.Error, match="password"),
    ):
        client.value("SELECT count(*) FROM numbers")
    for node in cluster.nodes:
        roles = node.root / "roles"
        roles.write_text("*:*:*:clerk:clerk's own")
        roles.chmod(0o644)
        node.stop()
        node.environment["CITUS_NODE_PASSFILE"] = str(roles)
    for node in cluster.nodes:
        node.begin()
    for node in cluster.nodes:
        node.wait_ready()
    for node in cluster.nodes:
        with node.session(user="clerk", password="clerk's own") as client:  # noqa: S106
            assert client.value("SELECT count(*) FROM numbers") == 1000


def test_wrong_password_of_the_cluster_is_said_and_tried_again(cluster: RoleCluster, make_node: MakeNode) -> None:
    stranger = make_node("stranger", volume="empty", **worker_of(cluster.coordinator))
    stranger.password = "not the cluster's"  # noqa: S105
    stranger.begin(POSTGRES_PASSWORD=stranger.password)
    stranger.wait_said("not registered yet (try 2)")
    assert 'password authentication failed for user "postgres"' in stranger.said()
    assert stranger.password not in stranger.said()
    assert stranger.health()[0] == 1
    assert stranger.stop() == 0


def test_a_host_that_does_not_resolve_yet_is_waited_for(make_node: MakeNode) -> None:
    worker = make_node("waiting", CITUS_ROLE="worker", CITUS_COORDINATOR_HOST="coordinator.invalid")
    worker.begin()
    worker.wait_said("not registered yet (try 2)")
    first = next(line for line in worker.own_words() if "not registered yet" in line)
    assert 'could not translate host name "coordinator.invalid"' in first
    assert first.endswith("again in 0.25 s")
    assert worker.stop() == 0


def test_workers_first_then_a_coordinator_that_has_rows_already(make_node: MakeNode) -> None:
    """Standalone grows into a cluster: its shards stay until they are moved; new ones go to the workers."""
    coordinator = make_node("coordinator")
    coordinator.start()
    with coordinator.session() as client:
        fill(client, "numbers", 1000)
    coordinator.stop()
    cluster = RoleCluster(coordinator, [make_node(f"worker-{n}", **worker_of(coordinator)) for n in (1, 2)])
    for worker in cluster.workers:
        worker.begin()
    for worker in cluster.workers:
        worker.wait_said("not registered yet")
    coordinator.start()
    for worker in cluster.workers:
        worker.wait_ready()
    assert_complete(cluster)
    assert_data(coordinator)
    shards = "SELECT DISTINCT nodeport FROM citus_shards WHERE table_name = %s::regclass"
    with coordinator.session() as client:
        assert {row[0] for row in client.rows(shards, ["numbers"])} == {coordinator.port}
        fill(client, "later", 10)
        assert {row[0] for row in client.rows(shards, ["later"])} == {worker.port for worker in cluster.workers}
        client.sql("SELECT citus_rebalance_start(shard_transfer_mode => 'block_writes')")
        client.sql("SELECT citus_rebalance_wait()")
        assert {row[0] for row in client.rows(shards, ["numbers"])} == {worker.port for worker in cluster.workers}
    assert_data(coordinator)
    # Workers that are taken out leave a node that is alone again, from its next start on.
    with coordinator.session() as client:
        client.sql("DROP TABLE numbers, later")
        for worker in cluster.workers:
            client.sql("SELECT citus_remove_node('127.0.0.1', %s::int)", [worker.port])
    for worker in cluster.workers:
        worker.stop()
    coordinator.stop()
    coordinator.start()
    assert places(coordinator) == [(0, "127.0.0.1", coordinator.port, True, True, True)]
    cluster.workers[0].start()
    assert any("joining again" in line for line in cluster.workers[0].own_words())
    assert_complete(RoleCluster(coordinator, cluster.workers[:1]))
    # One that was disabled is not healthy; a coordinator that is away makes no worker ill.
    worker = cluster.workers[0]
    with coordinator.session() as client:
        client.sql("SELECT citus_disable_node('127.0.0.1', %s::int, synchronous => true)", [worker.port])
    code, said = worker.health()
    assert (code, "the coordinator does not have this node as an active worker" in said) == (1, True)
    with coordinator.session() as client:
        client.sql("SELECT citus_activate_node('127.0.0.1', %s::int)", [worker.port])
    assert worker.health() == (0, "healthy: worker")
    coordinator.stop()
    assert worker.health() == (0, "healthy: worker")
