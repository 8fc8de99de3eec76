"""What a stable name costs: in Python with xxhash, and in the database with the function that the chain installs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.chain.runner import upgrade
from harness.errors import BinariesNotFoundError
from harness.postgres import Server, temporary_server
from harness.rehearsal.tables import TableName
from scenarios.fixtures.skips import skip_environment

NAMES = 1000
# D1.
ORDERS = "d6ad704b2cddddcd"


@pytest.fixture(scope="module")
def migrated() -> Iterator[Server]:
    """A server whose database `postgres` has the whole chain."""
    try:
        with temporary_server(name="bench") as server:
            upgrade(server.dsn())
            yield server
    except BinariesNotFoundError as error:
        skip_environment(error.message)


def test_thousand_names_in_python(benchmark: BenchmarkFixture) -> None:
    tables = [TableName("public", f"orders_{number}") for number in range(NAMES)]
    assert TableName("public", "orders").stable_name == ORDERS
    assert len(set(benchmark(lambda: [table.stable_name for table in tables]))) == NAMES


def test_thousand_names_in_the_database(benchmark: BenchmarkFixture, migrated: Server) -> None:
    assert migrated.value("SELECT pgtrickle.stable_hash('public.orders')") == ORDERS
    query = (
        "SELECT count(DISTINCT pgtrickle.stable_hash('public.orders_' || number))"
        " FROM generate_series(1, %s) AS numbers(number)"
    )
    assert benchmark(lambda: migrated.value(query, (NAMES,))) == NAMES
