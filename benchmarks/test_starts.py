"""How long servers and clusters take from nothing to usable (goal for 1+2: a median of at most 0.7 s)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from pytest_benchmark.fixture import BenchmarkFixture

from harness.clusters import local_cluster
from harness.errors import BinariesNotFoundError, CitusMissingError
from harness.postgres import choose_installation, temporary_server
from scenarios.fixtures.skips import skip_environment

ROUNDS = 10


def measure(benchmark: BenchmarkFixture, start: Callable[[], None], stop: Callable[[], None]) -> None:
    """The first start fills the template's cache and does not count; stopping is not measured."""
    pedantic: Callable[..., None] = benchmark.pedantic  # it has no annotations
    pedantic(start, rounds=ROUNDS, warmup_rounds=1, teardown=stop)


def test_server_from_nothing_to_a_query(benchmark: BenchmarkFixture) -> None:
    try:
        installation = choose_installation()
    except BinariesNotFoundError as error:
        skip_environment(error.message)
    with ExitStack() as stack:

        def start() -> None:
            server = stack.enter_context(temporary_server(installation, name="bench"))
            assert server.value("SELECT 1") == 1

        measure(benchmark, start, stack.close)


def test_cluster_from_nothing_to_a_distributed_table(benchmark: BenchmarkFixture) -> None:
    try:
        choose_installation(citus=True)
    except (BinariesNotFoundError, CitusMissingError) as error:
        skip_environment(error.message)
    with ExitStack() as stack:

        def start() -> None:
            cluster = stack.enter_context(local_cluster(workers=2, name="bench"))
            cluster.sql("CREATE TABLE ready (id bigint PRIMARY KEY)")
            cluster.sql("SELECT create_distributed_table('ready', 'id')")
            cluster.sql("INSERT INTO ready SELECT * FROM generate_series(1, 100)")
            assert cluster.value("SELECT count(*) FROM ready") == 100

        measure(benchmark, start, stack.close)
