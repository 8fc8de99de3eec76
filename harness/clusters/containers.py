"""A cluster in containers: a network of its own, one container a node, all removed without a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from harness.clusters.bringing_up import Phases, bring_up, discard, next_cluster_name
from harness.clusters.configuration import node_settings
from harness.clusters.container_image import fetch_container_template
from harness.clusters.container_node import ContainerNode
from harness.clusters.container_runtime import Runtime, docker_errors, open_runtime, passing_over_missing, remove_run
from harness.clusters.container_storage import MEMORY_SETTINGS, ClusterStorage
from harness.clusters.docker import require_docker
from harness.clusters.running import RunningCluster, check_worker_count, node_names, node_password_file
from harness.logs import get_logger
from harness.postgres import lifetime
from harness.postgres.passwords import make_password
from harness.settings import load_citus_settings

if TYPE_CHECKING:
    from testcontainers.core.network import Network

log = get_logger("clusters")


class ContainerCluster(RunningCluster[ContainerNode]):
    """A cluster whose nodes are containers; made by `container_cluster`."""

    def __init__(
        self,
        name: str,
        nodes: Sequence[ContainerNode],
        network: ClusterNetwork,
        storage: ClusterStorage,
        *,
        start_time: Mapping[str, float],
    ) -> None:
        super().__init__(name, nodes[0], nodes[1:], start_time=start_time)
        self._network = network
        self._storage = storage

    def _write_node_passwords(self, text: str) -> None:
        for node in self.nodes:
            node.write_node_passwords(text)

    def destroy(self) -> None:
        """Remove all containers, their volumes and the network.

        Raises:
            Exception: what failed; an ExceptionGroup if several did. All others are gone.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._network.runtime.client.close)
            stack.callback(self._network.destroy)
            stack.callback(self._storage.destroy)
            super().destroy()


class ClusterNetwork:
    """A network that only one cluster's nodes are on; it goes with the cluster, or at this process's end.

    Attributes:
        runtime: the daemon, and the run whose name the network has.
        network: as testcontainers has it.
    """

    def __init__(self, runtime: Runtime) -> None:
        from testcontainers.core.network import Network as TestNetwork  # noqa: PLC0415 - an optional extra

        self.runtime = runtime
        self.network: Network = TestNetwork(docker_network_kw={"labels": dict(runtime.labels)})
        self.network.name = runtime.run
        lifetime.register(self)
        try:
            with docker_errors("a network could not be made"):
                self.network.create()
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """Remove it; its containers must be gone."""
        with docker_errors(f"network {self.network.name} could not be removed"):
            # By its name: an interrupted call does not tell that the daemon made it.
            for network in self.runtime.client.networks.list(names=[self.network.name]):
                passing_over_missing(network.remove)
        self.network._docker.client.close()  # noqa: SLF001 - testcontainers opens one of its own and leaves it
        lifetime.unregister(self)


def _without_reaper_where_it_is_missing(runtime: Runtime) -> None:
    """Let testcontainers go without its helper container where the helper's image is not here: our own sweep holds."""
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 - an optional extra

    errors: Any = require_docker(look=False).errors
    try:
        runtime.client.images.get(testcontainers_config.ryuk_image)
    except errors.ImageNotFound:
        testcontainers_config._ryuk_disabled = True  # noqa: SLF001 - it has no setter


def container_cluster(
    *,
    workers: int | None = None,
    name: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> ContainerCluster:
    """Start a coordinator and its workers in containers, ready for a distributed table.

    All nodes are made, started and given their identity at the same time, as copies of a template. Whatever fails,
    nothing is left. The cluster is destroyed by ``destroy()``, at the end of a ``with``, when this process ends, or
    after a SIGKILL by the next run's sweep.

    Args:
        workers: how many; default ``CITUS_WORKERS``, which is 2. With 0 the coordinator holds the shards.
        name: for messages.
        settings: for every node; they win over ours.

    Returns:
        The running cluster; ``start_time`` has the phases ``template``, ``network``, ``copy``, ``start``,
        ``identity`` and ``join`` in seconds. ``copy`` includes the start of the containers.

    Raises:
        EnvironmentMissingError: no Docker that can be used; says why in one line.
        CitusMissingError: the image is not here and may not be pulled, or has no Citus.
        UnsupportedVersionError: the pair of PostgreSQL and Citus is not supported.
        BadInputError: a number of workers or a setting that cannot be used.
        ServerStartError, ServerError: a node did not start; all others were removed.
    """
    citus = load_citus_settings()
    count = citus.workers if workers is None else workers
    check_worker_count(count)
    wanted = node_settings(citus, settings)
    phases = Phases()
    opened = open_runtime()
    with phases.phase("template"):
        _without_reaper_where_it_is_missing(opened)
        chosen = fetch_container_template(opened)
    password = make_password()
    names = node_names(count)

    def create(node: str) -> ContainerNode:
        volume = storage.volume(node)
        made = ContainerNode(node, opened, network.network, chosen, volume=volume, password=password)
        try:
            made.create(wanted, node_password_file({"*": password}))
        except BaseException:
            made.destroy()
            raise
        return made

    undo: list[Callable[[], None]] = [opened.client.close]
    try:
        with phases.phase("network"):
            network = ClusterNetwork(opened)
            undo.append(network.destroy)
            storage = ClusterStorage(opened, chosen, names)
            undo.append(storage.destroy)
        if storage.is_in_memory:
            wanted = {**MEMORY_SETTINGS, **wanted}
        with ThreadPoolExecutor(1, thread_name_prefix="storage") as pool:
            held = pool.submit(storage.hold)
            nodes = bring_up(names, phases, wanted, create=create, launch=lambda _nodes: None)
        undo += [node.destroy for node in nodes]
        held.result()
    except BaseException as error:
        # By label first: an interrupted call does not tell what the daemon made.
        for step in (lambda: remove_run(opened), *reversed(undo)):
            discard([step], error)
        raise
    cluster = ContainerCluster(name or next_cluster_name(), nodes, network, storage, start_time=phases.seconds)
    log.info("cluster started in containers", cluster=cluster.name, workers=count, **cluster.start_time)
    return cluster
