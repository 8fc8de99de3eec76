"""The positions that are compared: what the plan wants, what is done instead, and what else there is."""

from __future__ import annotations

from harness.bench.triggers.forms import Position

WAL_LSN = Position("wal_lsn", "pg_lsn", "pg_catalog.pg_current_wal_lsn()")
CACHE_1 = Position("nextval/cache_1", "bigint", "pg_catalog.nextval('bench.seq_1')")
CACHE_100 = Position("nextval/cache_100", "bigint", "pg_catalog.nextval('bench.seq_100')")
CACHE_10000 = Position("nextval/cache_10000", "bigint", "pg_catalog.nextval('bench.seq_10000')")
ONCE = Position("nextval/once", "bigint", "pg_catalog.nextval('bench.seq_100')", is_once=True)
DBLINK = Position("coordinator/dblink", "bigint", "bench.next_of_coordinator()", needs_citus=True)
DEFAULT = Position(
    "coordinator/default", "bigint", "DEFAULT", default="pg_catalog.nextval('bench.seq_1')", needs_citus=True
)
NODE_CLOCK = Position(
    "cluster_clock", "pg_catalog.cluster_clock", "pg_catalog.citus_get_node_clock()", needs_citus=True
)
TRANSACTION_CLOCK = Position(
    "cluster_clock/transaction",
    "pg_catalog.cluster_clock",
    "pg_catalog.citus_get_transaction_clock()",
    is_once=True,
    needs_citus=True,
)
