"""A coordinator and its workers, wherever they run: local processes, containers, or an existing cluster."""

from __future__ import annotations

from harness.clusters.cluster import Cluster
from harness.clusters.existing import existing_cluster
from harness.clusters.local import LocalCluster, local_cluster
from harness.clusters.providers import Provider, choose_provider
from harness.clusters.running import RunningCluster
from harness.clusters.topology import NodeRecord, Topology, prove_topology, read_topology
from harness.clusters.versions import SUPPORTED_PAIRS, check_pair, choose_citus_installation

__all__ = [
    "SUPPORTED_PAIRS",
    "Cluster",
    "LocalCluster",
    "NodeRecord",
    "Provider",
    "RunningCluster",
    "Topology",
    "check_pair",
    "choose_citus_installation",
    "choose_provider",
    "existing_cluster",
    "local_cluster",
    "prove_topology",
    "read_topology",
]
