"""A standard cluster that the tests of one module may change, and how they ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.clusters import Provider, prove_topology
from scenarios.fixtures.clusters import watched
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.inspectors import fixture_standard
from scenarios.inspectors.fixture_standard import Standard


@pytest.fixture(scope="module")
def own_cluster(cluster_provider: Provider) -> Iterator[Standard]:
    """Who keeps a standard cluster of this module's own, 1+2; tests use `own`."""
    if not cluster_provider.can_start:
        skip_not_applicable("an existing cluster is neither filled nor broken")
    with cluster_provider.start(workers=2, settings=fixture_standard.SETTINGS) as cluster:
        prove_topology(cluster, workers=2)
        yield fixture_standard.build(cluster)


@pytest.fixture
def own(own_cluster: Standard, request: pytest.FixtureRequest) -> Iterator[Standard]:
    """The module's own cluster: its tests change it, and undo what others would notice; its logs are read."""
    with watched(own_cluster.cluster, request):
        yield own_cluster
