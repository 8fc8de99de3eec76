"""Sums that cannot be added to, on the placements that a cluster has."""

from __future__ import annotations

import pytest

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("placement", ["local", "reference", "distributed"])
def test_sums_with_nan_and_infinity_are_those_of_the_query(citus_database: Cluster, placement: str) -> None:
    """What was NaN and is a number again cannot be found by adding: the table is filled anew, and says so."""
    upgrade(citus_database.coordinator.dsn())
    with citus_database.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        connection.execute("CREATE TABLE sales (id int PRIMARY KEY, kind text, amount numeric)")
        connection.execute("SELECT create_distributed_table('sales', 'id', shard_count => 4)")
        connection.execute("INSERT INTO sales SELECT i, 'k' || i % 3, i FROM generate_series(1, 30) i")
        query = "SELECT kind, count(*) AS n, sum(amount) AS total FROM sales GROUP BY kind"
        stream_tables.create("totals", query, None, "DIFFERENTIAL", placement)
        actions = []
        for value in ("NaN", "1", "Infinity", "-Infinity", "2"):
            connection.execute("UPDATE sales SET amount = %s::numeric WHERE id IN (7, 9)", [value])
            done = stream_tables.refresh("totals")
            assert_equal(connection, "totals")
            actions.append(done.action)
        assert set(actions) <= {"DIFFERENTIAL", "REINITIALIZE"}
