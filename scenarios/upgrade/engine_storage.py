"""Storage as this project's engine keeps it, made without the engine, for scenarios of the chain."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

GUARDS = tuple(
    f"CREATE TRIGGER {name} BEFORE {events} ON {{0}} FOR EACH STATEMENT"
    " EXECUTE FUNCTION pgtrickle._guard_stream_table()"
    for name, events in (("pgt_guard", "INSERT OR UPDATE OR DELETE"), ("pgt_guard_truncate", "TRUNCATE"))
)
ENTRY = {"lsn": "0/1", "snapshot_ts": "1Z", "horizons": {"0": "700"}, "snapshots": {"0": "700:700:"}, "groups": 2}


def make_storage(conn: psycopg.Connection[Any], schema: str, name: str) -> sql.Identifier:
    """A stream table as the engine keeps them, without the engine: keys, guards, a frontier with snapshots."""
    table = sql.Identifier(schema, name)
    conn.execute(
        sql.SQL(
            "CREATE TABLE {} (__pgt_row_id bigint NOT NULL, cust int, total numeric CHECK (total >= 0),"
            " __pgt_ordinal integer NOT NULL, __pgt_count bigint NOT NULL, __pgt_sum_1 numeric,"
            " PRIMARY KEY (__pgt_row_id, __pgt_ordinal), UNIQUE (cust))"
        ).format(table)
    )
    conn.execute(sql.SQL("CREATE INDEX ON {} (total)").format(table))
    conn.execute(sql.SQL("INSERT INTO {} SELECT i, i, i, 1, 1, i FROM generate_series(1, 50) i").format(table))
    for guard in GUARDS:
        conn.execute(sql.SQL(guard).format(table))
    conn.execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_name, pgt_schema, defining_query, refresh_mode,"
        " status, is_populated, storage_format, frontier, suspended_reason, differential_us_per_change)"
        " VALUES (%s::regclass, %s, %s, 'SELECT 1', 'AUTO', 'ACTIVE', true, 1, %s, 'because', 3.5)",
        [table.as_string(conn), name, schema, Jsonb({"sources": {"d6ad704b2cddddcd": ENTRY}, "data_timestamp": "1Z"})],
    )
    return table
