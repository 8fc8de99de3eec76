"""Databases here are at the end of the chain from the start: `upgrade` in a test finds nothing to do."""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.postgres import AdministeredNode, Node


@pytest.fixture
def database(head_database: Node) -> Node:
    return head_database


@pytest.fixture
def citus_database(citus_head_database: Cluster[AdministeredNode]) -> Cluster[AdministeredNode]:
    return citus_head_database
