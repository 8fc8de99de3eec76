"""The extension's verbs as a rehearsed update needs them: make, refresh and drop a stream table, list what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from harness.rehearsal.query_comparison import describe_difference
from harness.rehearsal.tables import Connection, SourceTable, TableName, fetch_tables

#: Where tables of a probe live; stream tables in it are the rehearsal's own.
PROBE_SCHEMA = "harness_probe"


@dataclass(frozen=True)
class ExtensionTable:
    """A stream table of the extension, in any of its versions.

    Attributes:
        pgt_id: in its catalog.
        relid: of its storage table.
        table: its name.
        query: as the user gave it, where the catalog has that, else the defining one.
        topk: an ORDER BY and a LIMIT that the catalog keeps beside the query.
        mode: FULL, DIFFERENTIAL or IMMEDIATE.
    """

    pgt_id: int
    relid: int
    table: TableName
    query: str
    topk: tuple[str, int] | None
    mode: str


def fetch_extension_tables(conn: Connection) -> tuple[ExtensionTable, ...]:
    """The stream tables, in the order in which they were made; those of a probe left out.

    Columns came over the versions: each row is read as a document, and what it lacks is taken as absent.
    """
    return tuple(one for one in _fetch_all(conn) if one.table.schema != PROBE_SCHEMA)


def _fetch_all(conn: Connection) -> list[ExtensionTable]:
    found = []
    for (row,) in conn.execute("SELECT to_jsonb(t) FROM pgtrickle.pgt_stream_tables t ORDER BY t.pgt_id"):
        values: Mapping[str, Any] = row
        original = values.get("original_query")
        limit = values.get("topk_limit")
        topk = (str(values.get("topk_order_by")), int(limit)) if limit and not original else None
        found.append(
            ExtensionTable(
                int(values["pgt_id"]),
                int(values["pgt_relid"]),
                TableName(values["pgt_schema"], values["pgt_name"]),
                original or values["defining_query"],
                topk,
                values["refresh_mode"],
            )
        )
    return found


def fetch_extension_sources(conn: Connection) -> tuple[SourceTable, ...]:
    """The tables that stream tables read and that are none themselves, by their label."""
    rows = conn.execute(
        "SELECT DISTINCT d.source_relid::bigint FROM pgtrickle.pgt_dependencies d WHERE d.source_type = 'TABLE'"
    ).fetchall()
    return tuple(sorted(fetch_tables(conn, [row[0] for row in rows]), key=lambda source: source.label))


def make_stream_table(conn: Connection, table: TableName, query: str, mode: str = "DIFFERENTIAL") -> None:
    """``create_stream_table`` with the parameters that every version has; never due by itself.

    Raises:
        psycopg.Error: the extension does not make it.
    """
    conn.execute(
        "SELECT pgtrickle.create_stream_table(name => %s, query => %s, schedule => '1h', refresh_mode => %s)",
        [table.label, query, mode],
    )


def refresh(conn: Connection, table: TableName) -> None:
    """``refresh_stream_table``.

    Raises:
        psycopg.Error: it fails.
    """
    conn.execute("SELECT pgtrickle.refresh_stream_table(%s)", [table.label])


def refresh_and_compare(conn: Connection, stream_table: ExtensionTable) -> str | None:
    """Refresh one (an IMMEDIATE one is up to date by itself) and compare it with its query, while nobody writes.

    Returns:
        What is wrong, in a line; None where nothing is.
    """
    doing = "comparing"
    try:
        storage = fetch_tables(conn, [stream_table.relid])
        if not storage:
            return "its storage table is gone"
        if stream_table.mode != "IMMEDIATE":
            doing = "refreshing"
            refresh(conn, stream_table.table)
        doing = "comparing"
        return describe_difference(conn, storage[0], stream_table.query, topk=stream_table.topk)
    except psycopg.errors.DatabaseError as error:
        if isinstance(error, psycopg.OperationalError) and (conn.closed or conn.broken):
            raise
        return f"{doing} it: {error.sqlstate} {error.diag.message_primary}"


def try_new_stream_table(conn: Connection, number: int) -> str:
    """A whole life: make one over a table of its own, change rows, refresh, compare, drop.

    Args:
        conn: a superuser's, in autocommit.
        number: of the try; what could not be dropped does not stand in the way of the next.

    Returns:
        What went wrong, with what it was doing; empty where all went well.
    """
    source = TableName(PROBE_SCHEMA, f"source_{number}")
    target = TableName(PROBE_SCHEMA, f"sums_{number}")
    query = f"SELECT grp, sum(amt) AS total, count(*) AS n FROM {source.label} GROUP BY grp"  # noqa: S608 - our own names
    name, doing = source.identifier, "making its source"
    steps: Sequence[tuple[str, sql.Composed]] = (
        ("inserting", sql.SQL("INSERT INTO {} SELECT i, i % 7, i FROM generate_series(101, 150) i").format(name)),
        ("updating", sql.SQL("UPDATE {} SET amt = amt + 1 WHERE id % 3 = 0").format(name)),
        ("deleting", sql.SQL("DELETE FROM {} WHERE id % 5 = 0").format(name)),
    )
    try:
        conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(PROBE_SCHEMA)))
        conn.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, grp int, amt int)").format(name))
        conn.execute(sql.SQL("INSERT INTO {} SELECT i, i % 7, i FROM generate_series(1, 100) i").format(name))
        doing = "creating it"
        make_stream_table(conn, target, query)
        for what, statement in steps:
            doing = what
            conn.execute(statement)
        doing = "refreshing it"
        refresh(conn, target)
        doing = "comparing it"
        (made,) = [one for one in _fetch_all(conn) if one.table == target]
        difference = describe_difference(conn, fetch_tables(conn, [made.relid])[0], query)
        if difference is not None:
            return f"it is not its query: {difference}"
        doing = "dropping it"
        conn.execute("SELECT pgtrickle.drop_stream_table(%s)", [target.label])
        conn.execute(sql.SQL("DROP TABLE {}").format(name))
    except psycopg.errors.DatabaseError as error:
        if isinstance(error, psycopg.OperationalError) and (conn.closed or conn.broken):
            raise
        return f"{doing}: {error.sqlstate} {error.diag.message_primary}"
    return ""
