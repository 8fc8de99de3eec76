"""Grounds for capture: one database at head a module and placement; each test has tables of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from harness.clusters import Cluster
from harness.postgres import DsnNode, Server
from scenarios.capture.capturing import GROUNDS, Ground, grounds
from scenarios.fixtures.clusters import SharedCluster


@pytest.fixture(scope="module", params=grounds(*GROUNDS))
def any_ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A database at head; its tables are plain, local, reference or distributed."""
    placement = str(request.param)
    dbname = f"capture_{secrets.token_hex(6)}"
    if placement == "plain":
        server: Server = request.getfixturevalue("server")
        server.create_database(dbname, template=request.getfixturevalue("head_template"))
        view: Cluster = Cluster(dbname, DsnNode(server.name, server.dsn(dbname)), [])
        drop = server.drop_database
    else:
        shared: SharedCluster = request.getfixturevalue("shared_cluster")
        cluster = shared.take()
        cluster.create_database(dbname, template=shared.head())
        view = cluster.view(dbname)
        drop = cluster.drop_database
    try:
        yield Ground(view, placement)
    finally:
        view.close()
        drop(dbname)


@pytest.fixture
def ground(any_ground: Ground, request: pytest.FixtureRequest) -> Ground:
    """The module's ground; on Citus the nodes' logs are read after each test."""
    if any_ground.is_citus:
        request.getfixturevalue("cluster")
    return any_ground
