"""A small 0.2 installation for scenarios of the chain: three awkward sources, one stream table, changes pending."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.postgres import Node
from harness.rehearsal.baseline_objects import StreamTableSpec, create_stream_table, install_source, refresh_full
from harness.rehearsal.tables import SourceTable, TableName

Connection = psycopg.Connection[TupleRow]

ORDERS = TableName("public", "orders")
KEYLESS = TableName("S.x", 'Kéy "x" less')
PARTS = TableName("public", "parts")

_TABLES = """
CREATE TABLE public.orders (id int PRIMARY KEY, cust int, amt numeric, doubled int GENERATED ALWAYS AS (id * 2) STORED);
CREATE SCHEMA "S.x";
CREATE TABLE "S.x"."Kéy ""x"" less" ("K ey" text, v int);
CREATE TABLE public.parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
INSERT INTO public.orders SELECT i, i % 10, i FROM generate_series(1, 200) i;
INSERT INTO "S.x"."Kéy ""x"" less" SELECT 'x', i % 3 FROM generate_series(1, 9) i;
INSERT INTO public.parts SELECT i, '2026-01-01'::date + i FROM generate_series(1, 300) i;
"""
CHANGES = """
INSERT INTO public.orders SELECT (SELECT max(id) FROM public.orders) + i, i, i FROM generate_series(1, 3) i;
UPDATE public.orders SET amt = amt + 1 WHERE id <= 5;
DELETE FROM public.orders WHERE id = (SELECT min(id) FROM public.orders);
INSERT INTO "S.x"."Kéy ""x"" less" VALUES ('new', NULL), ('new', NULL), (NULL, 1);
UPDATE "S.x"."Kéy ""x"" less" SET v = v + 1 WHERE "K ey" = 'x';
INSERT INTO public.parts SELECT (SELECT max(id) FROM public.parts) + 1, '2026-12-31';
INSERT INTO public.parts_1 SELECT (SELECT max(id) FROM public.parts) + 1, '2026-02-01';
UPDATE public.parts SET at = '2026-08-02' WHERE id = (SELECT min(id) FROM public.parts WHERE at < '2026-07-01');
"""


@dataclass(frozen=True)
class SmallInstallation:
    """What was made: its sources and the id of its stream table."""

    sources: tuple[SourceTable, ...]
    pgt_id: int


def by_cust() -> StreamTableSpec:
    """An aggregate over the orders."""
    return StreamTableSpec(
        TableName("public", "by_cust"),
        sql.SQL("cust, sum(amt) AS total"),
        sql.SQL("FROM public.orders GROUP BY cust"),
        (ORDERS,),
        row_key=("cust",),
        is_aggregate=True,
    )


def write_changes(conn: Connection) -> None:
    """A few changes of every kind on every source."""
    conn.execute(CHANGES.encode())


def build_small_installation(node: Node) -> SmallInstallation:
    """Take a database to 0001 and fill it: consumed rows, a frontier, pending rows."""
    runner.upgrade(node.dsn(), "0001")
    with node.connect() as conn:
        conn.execute(_TABLES.encode())
        sources = tuple(install_source(conn, name) for name in (ORDERS, KEYLESS, PARTS))
        stream_table = create_stream_table(conn, by_cust())
        write_changes(conn)  # consumed by the refresh that follows, and still in the buffers
        refresh_full(conn, stream_table)
        write_changes(conn)
    return SmallInstallation(sources, stream_table.pgt_id)
