"""One cluster for this folder: tests make locks, transactions and settings on it, and undo them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.clusters import Provider, prove_topology
from scenarios.fixtures.clusters import watched
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.inspectors.fixture_standard import SETTINGS, Standard, build


@pytest.fixture(scope="session")
def live_cluster(cluster_provider: Provider) -> Iterator[Standard]:
    """The standard cluster, with a few rows, for tests that undo what they do."""
    if not cluster_provider.can_start:
        skip_not_applicable("an existing cluster is not broken")
    with cluster_provider.start(workers=2, settings=SETTINGS) as cluster:
        prove_topology(cluster, workers=2)
        made = build(cluster, with_rows=False)
        cluster.sql("INSERT INTO app.orders SELECT g, g, 0 FROM generate_series(1, 50) g")
        cluster.sql("INSERT INTO app.plain SELECT g FROM generate_series(1, 5) g")
        yield made


@pytest.fixture
def live(live_cluster: Standard, request: pytest.FixtureRequest) -> Iterator[Standard]:
    """That cluster, its logs read after the test, its topology proven before and after."""
    prove_topology(live_cluster.cluster, workers=2)
    with watched(live_cluster.cluster, request):
        yield live_cluster
    prove_topology(live_cluster.cluster, workers=2)
