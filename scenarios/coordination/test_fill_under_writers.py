"""A fill that locks its sources sees all that was committed before it had the last lock."""

from __future__ import annotations

import contextlib
import threading

import pytest

from harness.clusters import Cluster
from harness.trickle import StreamTables
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until

QUERY = (
    "SELECT c.grp, count(*) AS n, sum(o.amount) AS total FROM orders o JOIN customers c ON c.id = o.customer_id"
    " GROUP BY c.grp"
)
WAITS = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    " AND application_name = 'the refresh'"
)


@pytest.mark.citus(">= 13")
def test_what_was_committed_while_it_waited_for_a_lock_is_in(citus_database: Cluster) -> None:
    """With its first lock Citus began the workers' transactions: their snapshots were older than the second lock."""
    coordinator = citus_database.coordinator
    with coordinator.connect() as connection, StreamTables(connection) as tables:
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY, grp int)")  # locked first, by its OID
        connection.execute("SELECT create_reference_table('customers')")
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, customer_id int, amount int)")
        connection.execute("SELECT create_distributed_table('orders', 'id', shard_count => 4)")
        connection.execute("INSERT INTO customers SELECT i, i % 3 FROM generate_series(1, 9) i")
        connection.execute("INSERT INTO orders SELECT i, 1 + i % 9, i FROM generate_series(1, 60) i")
        tables.create("by_group", QUERY, None, "DIFFERENTIAL", "reference")
        connection.execute("SET application_name = 'the refresh'")
        found: list[str] = []
        with contextlib.closing(coordinator.connect(autocommit=False)) as person:
            person.execute("INSERT INTO orders SELECT i, 1 + i % 9, i FROM generate_series(100, 140) i")
            thread = threading.Thread(target=lambda: found.append(tables.refresh("by_group", mode="FULL").action))
            thread.start()
            wait_until("the refresh to wait for orders", lambda: coordinator.rows(WAITS), deadline_s=20)
            person.commit()
        thread.join(timeout=60)
        assert found == ["FULL"]
        assert_equal(connection, "by_group")
        coordinator.sql("UPDATE orders SET amount = amount + 1 WHERE id % 4 = 0")
        assert tables.refresh("by_group").action == "DIFFERENTIAL"
        assert_equal(connection, "by_group")
