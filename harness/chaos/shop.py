"""The tables that chaos runs over, of every placement, and the stream tables that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from harness.chaos.ledger import Found, Row
from harness.trickle import StreamTables

CUSTOMERS = 40
LINES_OF_AN_ORDER = 4
GROUPS = ("east", "north", "south", "west", "")


@dataclass(frozen=True)
class Source:
    """A table that writers write.

    All have the same columns: ``id``, ``grp``, ``amount``, ``version``, ``op``, and one more where ``link`` is given,
    which follows from the id.

    Attributes:
        name: in the schema public.
        placement: on a cluster.
        link: name of the further column.
        has_key: whether ``id`` is (part of) a primary key; without one, a row that is written twice is there twice.
        is_truncated: whether the plan truncates it; then it is only inserted into.
    """

    name: str
    placement: str
    link: str = ""
    has_key: bool = True
    is_truncated: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        """Its name, as SQL writes it."""
        return sql.Identifier("public", self.name)

    def link_of(self, row_id: int) -> int:
        """The value of the further column."""
        return row_id % CUSTOMERS if self.link == "customer_id" else row_id // LINES_OF_AN_ORDER


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source("orders", "distributed", "customer_id"),
        Source("lines", "distributed", "order_id"),
        Source("customers", "reference"),
        Source("items", "local"),
        Source("events", "distributed", has_key=False),
        Source("ticks", "distributed", is_truncated=True),
    )
}
# Where transactions leave their keys, each in the transaction itself. What touches only the coordinator's own tables
# has its own: a commit over a local table and one worker is not atomic in Citus.
MARKS, LOCAL_MARKS = "chaos_marks", "chaos_marks_local"


@dataclass(frozen=True)
class Kept:
    """A stream table of the shop; ``placement`` is for a cluster."""

    name: str
    query: LiteralString
    placement: str
    schedule: str | None = "1s"


KEPT = (
    Kept("by_group", "SELECT grp, count(*) AS n, sum(amount) AS total FROM orders GROUP BY grp", "local"),
    Kept(
        "by_customer_group",
        "SELECT c.grp, count(*) AS n, sum(o.amount) AS total FROM orders o JOIN customers c ON c.id = o.customer_id"
        " GROUP BY c.grp",
        "reference",
    ),
    Kept("customer_groups", "SELECT grp, count(*) AS n, sum(amount) AS total FROM customers GROUP BY grp", "reference"),
    Kept(
        "customer_orders",
        "SELECT o.id, o.customer_id, o.amount, c.grp, c.amount AS credit FROM orders o"
        " JOIN customers c ON c.id = o.customer_id",
        "local",
    ),
    Kept(
        "order_lines",
        "SELECT l.id, o.grp, l.amount, o.amount AS order_amount, o.id AS order_id FROM orders o"
        " JOIN lines l ON l.order_id = o.id",
        "distributed",
    ),
    Kept("large_orders", "SELECT id, customer_id, grp, amount FROM orders WHERE amount > 50", "distributed", None),
    Kept(
        "line_totals",
        "SELECT grp, count(*) AS n, sum(amount) AS total FROM order_lines GROUP BY grp",
        "local",
        "after",
    ),
    Kept("total", "SELECT sum(n) AS n, sum(total) AS total FROM by_group", "local", "after"),
    Kept(
        "item_extremes",
        "SELECT grp, count(*) AS n, min(amount) AS least, max(amount) AS most FROM items GROUP BY grp",
        "local",
    ),
    Kept("event_counts", "SELECT grp, count(*) AS n, sum(amount) AS total FROM events GROUP BY grp", "distributed"),
    Kept("tick_counts", "SELECT grp, count(*) AS n FROM ticks GROUP BY grp", "reference", None),
)
# Made and dropped by the plan.
EXTRA = Kept(
    "extra", "SELECT o.customer_id, max(o.amount) AS most FROM orders o GROUP BY o.customer_id", "distributed", "2s"
)
LARGE_ORDERS: Mapping[int, LiteralString] = {
    50: "SELECT id, customer_id, grp, amount FROM orders WHERE amount > 50",
    40: "SELECT id, customer_id, grp, amount FROM orders WHERE amount > 40",
}


def make_sources(connection: psycopg.Connection[Any], *, has_citus: bool) -> None:
    """Make the tables; on the coordinator, in autocommit."""
    for source in SOURCES.values():
        link = sql.SQL("{} bigint NOT NULL,").format(sql.Identifier(source.link)) if source.link else sql.SQL("")
        key: sql.Composable = sql.SQL("")
        if source.has_key:
            columns = ["order_id", "id"] if source.link == "order_id" else ["id"]
            key = sql.SQL(", PRIMARY KEY ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} (id bigint NOT NULL, {} grp text NOT NULL, amount numeric NOT NULL,"
                " version integer NOT NULL, op text NOT NULL{})"
            ).format(source.identifier, link, key)
        )
        if not source.has_key:  # a table without any identity stops the moves of its whole group (F16)
            connection.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(source.identifier))
        if has_citus:
            _place(connection, source)
    for name in (MARKS, LOCAL_MARKS):
        connection.execute(sql.SQL("CREATE TABLE {} (op text PRIMARY KEY)").format(sql.Identifier("public", name)))
    if has_citus:
        connection.execute(
            "SELECT pg_catalog.create_distributed_table('public.chaos_marks', 'op', colocate_with => 'none')"
        )


def _place(connection: psycopg.Connection[Any], source: Source) -> None:
    name = f"public.{source.name}"
    if source.placement == "reference":
        connection.execute("SELECT pg_catalog.create_reference_table(%s::regclass)", [name])
    elif source.placement == "distributed":
        column = "order_id" if source.link == "order_id" else "id"
        # Orders and their lines are joined shard by shard; the others move by themselves.
        beside = {"orders": "none", "lines": "public.orders", "events": "none", "ticks": "none"}[source.name]
        connection.execute(
            "SELECT pg_catalog.create_distributed_table(%s::regclass, %s, colocate_with => %s)", [name, column, beside]
        )


def make_kept(tables: StreamTables, kept: Kept, *, has_citus: bool) -> None:
    """Make one stream table."""
    tables.create(
        f"public.{kept.name}", kept.query, schedule=kept.schedule, placement=kept.placement if has_citus else "auto"
    )


def insert_query(source: Source, count: int) -> sql.Composed:
    """INSERT of so many rows; parameters of each: id, [link,] grp, amount, op."""
    columns = ["id", *([source.link] if source.link else []), "grp", "amount", "op", "version"]
    values = sql.SQL(", ").join([sql.Placeholder()] * (len(columns) - 1))
    row = sql.SQL("({}, 1)").format(values)
    return sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
        source.identifier, sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join([row] * count)
    )


def fetch_found(connection: psycopg.Connection[Any]) -> Found:
    """All that the writers' tables hold; on the coordinator, when nobody writes."""
    rows: dict[str, dict[int, list[Row]]] = {}
    for source in SOURCES.values():
        here = rows.setdefault(source.name, {})
        for row_id, grp, amount, version, op in connection.execute(
            sql.SQL("SELECT id, grp, amount, version, op FROM {}").format(source.identifier)
        ):
            here.setdefault(int(row_id), []).append(Row(str(grp), Decimal(amount), int(version), str(op)))
    marks: dict[str, dict[str, int]] = {}
    for name in (MARKS, LOCAL_MARKS):
        counts = marks.setdefault(name, {})
        for (key,) in connection.execute(sql.SQL("SELECT op FROM {}").format(sql.Identifier("public", name))):
            counts[str(key)] = counts.get(str(key), 0) + 1
    return Found(rows, marks)
