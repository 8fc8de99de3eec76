"""Clusters in containers that somebody else meddles with: what breaks is named, and all of it is removed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.clusters.container_image import fetch_container_template
from harness.clusters.container_runtime import open_runtime
from harness.clusters.containers import ContainerCluster, container_cluster
from harness.errors import BadInputError, EnvironmentMissingError, HarnessError, ServerError, WaitTimeoutError
from harness.waiting import wait_until
from scenarios.fixtures.skips import skip_docker


@pytest.fixture
def attacked() -> Iterator[ContainerCluster]:
    try:
        runtime = open_runtime()
        fetch_container_template(runtime)
        runtime.client.close()
    except (EnvironmentMissingError, HarnessError) as error:
        skip_docker(error.message)
    with container_cluster(workers=2) as made:
        yield made


def _whole(cluster: ContainerCluster) -> bool:
    return all(node.value("SELECT 1") == 1 for node in cluster.nodes)


def test_verbs_said_twice_or_in_the_wrong_state_do_no_harm(attacked: ContainerCluster) -> None:
    worker = attacked.workers[0]
    worker.rejoin()
    worker.thaw()
    worker.start()
    worker.freeze()
    worker.freeze()
    worker.start()
    with pytest.raises(WaitTimeoutError) as silent:
        worker.value("SELECT 1", deadline_s=0.5)
    assert silent.value.node == "worker-1"
    worker.kill()
    worker.kill()
    worker.stop()
    worker.freeze()
    worker.start()
    worker.cut_off()
    worker.cut_off()
    with pytest.raises(ServerError, match="worker-1 is cut off"):
        worker.value("SELECT 1")
    worker.rejoin()
    wait_until("all to answer", lambda: _whole(attacked), deadline_s=10)


def test_container_removed_by_somebody_else_is_named_and_the_rest_is_destroyed(attacked: ContainerCluster) -> None:
    removed, frozen = attacked.workers
    before = removed.log.since()
    assert "ready to accept connections" in before
    removed._there().remove(force=True, v=True)
    for verb in (removed.start, removed.stop, removed.kill, removed.freeze, removed.cut_off, removed.facts):
        with pytest.raises(ServerError, match="worker-1") as gone:
            verb()
        assert gone.value.node == "worker-1"
    assert removed.log.since() == before, "what it wrote is still known"
    frozen.freeze()
    attacked.destroy()
    attacked.destroy()
    assert not any(node.is_running for node in attacked.nodes)
    label: dict[str, str | list[str] | bool] = {"label": f"org.pgtrickle.harness.run={attacked._network.runtime.run}"}
    assert not attacked._network.runtime.client.containers.list(all=True, filters=label, ignore_removed=True)
    assert not attacked._network.runtime.client.volumes.list(filters=label)
    assert not attacked._network.runtime.client.networks.list(filters=label)
    attacked._network.runtime.client.close()


def test_node_is_killed_while_others_destroy_the_cluster(attacked: ContainerCluster) -> None:
    with ThreadPoolExecutor(2) as pool:
        cut = pool.submit(attacked.workers[0].cut_off)
        gone = pool.submit(attacked.workers[1]._there().remove, force=True, v=True)
        attacked.destroy()
    # Each may come too late, and then says so; nothing else.
    assert cut.exception() is None or isinstance(cut.exception(), ServerError)
    assert (
        gone.exception() is None
        or "No such container" in str(gone.exception())
        or "in progress" in str(gone.exception())
    )
    assert not any(node.is_running for node in attacked.nodes)


def test_values_with_quotes_are_taken_and_nonsense_is_named(attacked: ContainerCluster) -> None:
    with container_cluster(workers=0, settings={"application_name": 'it\'s "q" \\ #x'}) as alone:
        found = alone.value("SELECT setting FROM pg_file_settings WHERE name = 'application_name'")
        assert found == 'it\'s "q" \\ #x'
    for settings, word in (({"work_mem": "1MB\nport=1"}, "line break"), ({"bad name": "1"}, "no name of a setting")):
        with pytest.raises(BadInputError, match=word):
            container_cluster(workers=0, settings=settings)
    assert _whole(attacked)
