"""Databases of this project's engine are at the end of the chain from the start; the shop is for either engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.engines import Engine
from scenarios.beside.shops import Shop, open_shop
from scenarios.fixtures.at_head import citus_database, database

__all__ = ["citus_database", "database", "shop"]


@pytest.fixture
def shop(stream_engine: Engine, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """A new database with the shop in it, for the engine of this run; dropped after the test."""
    with open_shop(stream_engine, request) as made:
        yield made
