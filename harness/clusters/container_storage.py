"""Where the nodes of a cluster in containers keep their data: a volume each, in memory or on the daemon's disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.clusters.container_image import ContainerTemplate
from harness.clusters.container_runtime import Runtime, docker_errors, passing_over_missing, remove_volume
from harness.postgres import lifetime
from harness.settings import load_settings

if TYPE_CHECKING:
    from docker.models.containers import Container

# A node that fills it gets "no space left", as on a full disk; unused memory is not taken.
_MEMORY_SIZE = "4g"
# What nodes are told when their data is in memory: WAL is kept for the next checkpoint, and need not be much.
MEMORY_SETTINGS = {"max_wal_size": "256MB"}


class ClusterStorage:
    """The volumes of one cluster's nodes; they go with it, or at this process's end.

    A volume in memory lives as long as some container has it mounted. So that a node may be killed and started again,
    one more container, which does nothing, has them all.

    Args:
        runtime: the daemon.
        template: whose image and user the nodes run as.
        nodes: their names.
    """

    def __init__(self, runtime: Runtime, template: ContainerTemplate, nodes: Sequence[str]) -> None:
        self._runtime = runtime
        self._template = template
        self.is_in_memory = load_settings().docker_data == "memory"
        self._volumes = {node: f"{runtime.run}-{node}-data" for node in nodes}
        self._holder: Container | None = None
        self._is_destroyed = False
        lifetime.register(self)
        options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={_MEMORY_SIZE},mode=0700,{template.owner_options}"}
        with docker_errors("volumes could not be made"):
            for volume in self._volumes.values():
                runtime.client.volumes.create(
                    volume,
                    driver="local",
                    driver_opts=options if self.is_in_memory else {},
                    labels=dict(runtime.labels),
                )

    def volume(self, node: str) -> str:
        """The name of a node's volume."""
        return self._volumes[node]

    def hold(self) -> None:
        """Have volumes in memory outlive their nodes' stops; with others there is nothing to do."""
        if not self.is_in_memory:
            return
        with docker_errors("volumes in memory could not be held"):
            self._holder = self._runtime.client.containers.create(
                self._template.image_id,
                name=f"{self._runtime.run}-data",
                entrypoint=["sleep"],
                command=["infinity"],
                user="postgres",
                labels=dict(self._runtime.labels),
                network_mode="none",
                init=True,
                healthcheck={"test": ["NONE"]},
                volumes={name: {"bind": f"/data/{node}", "mode": "rw"} for node, name in self._volumes.items()},
            )
            if self._is_destroyed:  # somebody did not wait for us, such as who pressed Ctrl-C
                self._remove_holder()
            else:
                self._holder.start()

    def destroy(self) -> None:
        """Remove all volumes; their nodes must be gone."""
        self._is_destroyed = True
        with docker_errors("volumes could not be removed"):
            self._remove_holder()
            for name in self._volumes.values():
                remove_volume(self._runtime.client, name)
        lifetime.unregister(self)

    def _remove_holder(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            passing_over_missing(lambda: holder.remove(force=True, v=True))
