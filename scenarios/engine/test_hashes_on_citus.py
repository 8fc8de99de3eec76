"""Two different keys with one hash, on the placements that a cluster has: found, never merged."""

from __future__ import annotations

import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.trickle import StreamTables
from harness.trickle.delta.rows import row_hash
from harness.trickle.oracle import assert_equal

BY_KIND = "SELECT kind, count(*) AS n, sum(amount) AS s FROM sales GROUP BY kind"


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("placement", ["local", "reference", "distributed"])
def test_group_with_the_hash_of_another_is_not_added_to_on_a_cluster(citus_database: Cluster, placement: str) -> None:
    upgrade(citus_database.coordinator.dsn())
    with citus_database.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        connection.execute("CREATE TABLE sales (id int PRIMARY KEY, kind text, amount numeric)")
        connection.execute("SELECT create_distributed_table('sales', 'id', shard_count => 4)")
        connection.execute("INSERT INTO sales SELECT i, 'k' || i % 4, i FROM generate_series(1, 40) i")
        stream_tables.create("by_kind", BY_KIND, None, "DIFFERENTIAL", placement)
        # The row of k0 gets the row id that belongs to 'new'.
        connection.execute("BEGIN")
        connection.execute("SET LOCAL citus.propagate_set_commands = 'local'")
        connection.execute("SET LOCAL pgtrickle.refreshing = 'on'")
        connection.execute("CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM by_kind WHERE kind = 'k0'")
        connection.execute(sql.SQL("UPDATE kept SET __pgt_row_id = {}").format(row_hash([sql.SQL("'new'::text")])))
        connection.execute("DELETE FROM by_kind WHERE kind = 'k0'")
        connection.execute("INSERT INTO by_kind SELECT * FROM kept")
        connection.execute("COMMIT")
        connection.execute("INSERT INTO sales VALUES (900, 'new', 3)")
        done = stream_tables.refresh("by_kind")
        assert done.action == "REINITIALIZE", done
        assert_equal(connection, "by_kind")
        assert connection.execute("SELECT n, s FROM by_kind WHERE kind = 'new'").fetchone() == (1, 3)
