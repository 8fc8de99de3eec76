"""A cluster of local processes: all nodes made, started and joined at once, and removed without a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.clusters.bringing_up import Phases, bring_up, next_cluster_name
from harness.clusters.configuration import node_settings
from harness.clusters.running import RunningCluster, check_worker_count, node_names, node_password_file
from harness.clusters.template import fetch_citus_template
from harness.clusters.versions import check_pair, choose_citus_installation
from harness.logs import get_logger
from harness.postgres.identity import server_user
from harness.postgres.installations import Installation
from harness.postgres.passwords import make_password, write_secret
from harness.postgres.server import Server
from harness.settings import load_citus_settings

log = get_logger("clusters")


class LocalCluster(RunningCluster[Server]):
    """A cluster whose nodes are processes on this machine; made by `local_cluster`."""

    def _write_node_passwords(self, text: str) -> None:
        for node in self.nodes:
            _write_node_passwords(node, text)

    def detach(self) -> None:
        """Let all nodes outlive this process; see `harness.clusters.named`."""
        for node in self.nodes:
            node.detach()


def _write_node_passwords(server: Server, text: str) -> None:
    # libpq inside the server looks for .pgpass in HOME, which is the server's own directory.
    user = server_user()
    write_secret(server.root / ".pgpass", text, user.uid, user.gid)


def local_cluster(
    *,
    workers: int | None = None,
    name: str | None = None,
    settings: Mapping[str, str] | None = None,
    keep: bool = False,
    installation: Installation | None = None,
) -> LocalCluster:
    """Start a coordinator and its workers on this machine, ready for a distributed table.

    All nodes are copied, started and given their identity at the same time. Whatever fails, no node is left. The
    cluster is destroyed by ``destroy()``, at the end of a ``with``, or at the latest when this process ends.

    Args:
        workers: how many; default ``CITUS_WORKERS``, which is 2. With 0 the coordinator holds the shards.
        name: for messages.
        settings: for every node; they win over ours.
        keep: leave the directories at the end, and say where they are.
        installation: whose binaries; default the first with a supported Citus.

    Returns:
        The running cluster; ``start_time`` has the phases ``template``, ``copy``, ``start``, ``identity`` and
        ``join`` in seconds.

    Raises:
        CitusMissingError: no PostgreSQL here has Citus; says where it looked.
        UnsupportedVersionError: the pair of PostgreSQL and Citus is not supported.
        BadInputError: a number of workers or a setting that cannot be used.
        ServerStartError: a node did not start; all others were removed. If several failed, the first one, caused
            by the group of all.
    """
    citus = load_citus_settings()
    count = citus.workers if workers is None else workers
    check_worker_count(count)
    chosen = installation or choose_citus_installation()
    check_pair(chosen.major, chosen.citus_version or "none", where=str(chosen.bindir))
    wanted = node_settings(citus, settings)
    phases = Phases()
    with phases.phase("template"):
        template = fetch_citus_template(chosen)
    password = make_password()
    options: dict[str, Any] = {"settings": wanted, "keep": keep, "password": password, "template": template}

    def create(node: str) -> Server:
        return Server.create(chosen, name=node, **options)

    def launch(servers: Sequence[Server]) -> None:
        for server in servers:
            _write_node_passwords(server, node_password_file({"*": password}))
            server.start(wait=False)

    servers = bring_up(node_names(count), phases, wanted, create=create, launch=launch)
    cluster = LocalCluster(name or next_cluster_name(), servers[0], servers[1:], start_time=phases.seconds)
    log.info("cluster started", cluster=cluster.name, workers=count, **cluster.start_time)
    return cluster
