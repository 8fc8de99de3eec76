"""Databases here are at the end of the chain from the start: `upgrade` in a test finds nothing to do."""

from __future__ import annotations

from typing import cast

import pytest

from harness.clusters import Cluster
from harness.postgres import Node
from scenarios.coordination.stages import prepare
from scenarios.fixtures.at_head import citus_database, database

__all__ = ["citus_database", "database", "place"]


@pytest.fixture(params=["plain", pytest.param("citus", marks=pytest.mark.citus(">= 13"))])
def place(request: pytest.FixtureRequest) -> Node:
    """A database at head, on one server and on a cluster, with ``entries`` (distributed there) and ``balances``."""
    if request.param == "plain":
        node = cast("Node", request.getfixturevalue("database"))
        prepare(node, is_distributed=False)
        return node
    cluster = cast("Cluster", request.getfixturevalue("citus_database"))
    prepare(cluster.coordinator, is_distributed=True)
    return cluster.coordinator
