"""The view that kills the coordinator: it still does, and no inspector reads it."""

from __future__ import annotations

import psycopg
import pytest

from harness.clusters import RunningCluster
from harness.inspectors import Inspection, Status
from harness.waiting import wait_until
from scenarios.inspectors import everything

pytestmark = pytest.mark.citus(">= 14")
_STARTED = "SELECT pg_postmaster_start_time()::text"


def _with_open_range(cluster: RunningCluster) -> None:
    """A plain table, not even distributed, with a partition that ends at MAXVALUE."""
    cluster.sql("CREATE SCHEMA app")
    cluster.sql("CREATE TABLE app.orders (a int)")
    cluster.sql("SELECT create_distributed_table('app.orders', 'a')")
    cluster.sql("CREATE TABLE public.numbers (a int) PARTITION BY RANGE (a)")
    cluster.sql("CREATE TABLE public.numbers_high PARTITION OF public.numbers FOR VALUES FROM (0) TO (MAXVALUE)")


def test_no_inspector_reads_the_view_that_crashes_the_server(fresh_cluster: RunningCluster) -> None:
    _with_open_range(fresh_cluster)
    before = [node.value(_STARTED) for node in fresh_cluster.nodes]
    marks = {node.name: node.log.mark() for node in fresh_cluster.nodes}
    pid = fresh_cluster.coordinator.value("SELECT pg_backend_pid()")
    with Inspection(fresh_cluster.coordinator.dsn()) as inspection:
        for name in everything.names():
            found = inspection.inspect(name, everything.most_values(name))
            assert found.status is not Status.ERROR, found
    assert [node.value(_STARTED) for node in fresh_cluster.nodes] == before
    # A crash of any backend would have ended this one too, without a new postmaster.
    assert fresh_cluster.coordinator.value("SELECT pg_backend_pid()") == pid
    for node in fresh_cluster.nodes:
        assert "signal 11" not in node.log.since(marks[node.name])


@pytest.mark.allow_log("was terminated by signal 11", "what this test is about: Citus dereferences a NULL bound")
@pytest.mark.allow_log("terminating connection because of crash of another server process", "as above")
@pytest.mark.allow_log("server process .* (was terminated|exited)", "as above")
@pytest.mark.allow_log(
    "the database system (is in recovery mode|was interrupted|was not properly shut down)", "as above"
)
def test_time_partitions_still_crashes_the_server(fresh_cluster: RunningCluster) -> None:
    """When this fails, Citus was mended: inspectors.md, finding 1, and the flag of the time partitions can go."""
    _with_open_range(fresh_cluster)
    coordinator = fresh_cluster.coordinator
    mark = coordinator.log.mark()
    with psycopg.connect(coordinator.dsn(), autocommit=True) as connection:
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT * FROM time_partitions")
        assert connection.closed
    wait_until("the postmaster's word of it", lambda: "signal 11" in coordinator.log.since(mark), deadline_s=20)
    coordinator.close()

    def is_back() -> bool:
        try:
            with psycopg.connect(coordinator.dsn(), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    wait_until("the coordinator after its crash", is_back, deadline_s=30)
