"""A standard cluster that the tests of one module may change, and how they ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.clusters import Provider, prove_topology
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.inspectors import fixture_standard
from scenarios.inspectors.fixture_standard import Standard


@pytest.fixture(scope="module")
def own(cluster_provider: Provider) -> Iterator[Standard]:
    """A standard cluster of this module's own, 1+2: its tests change it, and undo what others would notice."""
    if not cluster_provider.can_start:
        skip_not_applicable("an existing cluster is neither filled nor broken")
    with cluster_provider.start(workers=2, settings=fixture_standard.SETTINGS) as cluster:
        prove_topology(cluster, workers=2)
        yield fixture_standard.build(cluster)
