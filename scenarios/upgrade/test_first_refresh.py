"""The first refresh here of a stream table that pg_trickle kept: its columns stay where they are, and so do views."""

from __future__ import annotations

from typing import LiteralString

import pytest
from psycopg import sql

from harness.chain import runner
from harness.errors import RefusedError
from harness.postgres import Node
from harness.rehearsal.baseline_objects import StreamTableSpec, create_stream_table, install_source
from harness.rehearsal.tables import TableName
from harness.trickle import StreamTables
from harness.trickle.oracle import compare

# As pg_trickle keeps them, and what the query has: wider, another type, and another place where it was added anew.
KEPT = {"amt": "numeric", "name": "character varying", "day": "text"}


def _adopt(database: Node, view: LiteralString) -> None:
    """A stream table as pg_trickle kept it, with a view of a person's on it, at the end of the chain."""
    runner.upgrade(database.dsn(), "0001")
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, amt numeric(12,2), name varchar(20), day date, note text)"
        )
        conn.execute("INSERT INTO orders SELECT i, i, 'n' || i, '2026-11-21', 'note' FROM generate_series(1, 50) i")
        orders, kept = TableName("public", "orders"), TableName("public", "kept")
        install_source(conn, orders)
        columns = sql.SQL("id, amt, name, day, note")
        create_stream_table(
            conn, StreamTableSpec(kept, columns, sql.SQL("FROM public.orders"), (orders,), row_key=("id",))
        )
        for name, kind in KEPT.items():
            conn.execute(sql.SQL("ALTER TABLE kept ALTER {} TYPE {}").format(sql.Identifier(name), sql.SQL(kind)))
        conn.execute(view)
    runner.upgrade(database.dsn())


@pytest.mark.parametrize("has_view", [False, True], ids=["alone", "with a view"])
def test_columns_keep_their_places_whatever_type_they_had(database: Node, has_view: bool) -> None:
    _adopt(database, "CREATE VIEW seen AS SELECT id, amt, name FROM kept" if has_view else "")
    with database.connect() as conn, StreamTables(conn) as tables:
        tables.refresh("kept")
        assert compare(conn, "kept").is_equal
        rows: list[tuple[str, str]] = conn.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'kept'::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attname !~ '^__pgt' ORDER BY attnum"
        ).fetchall()
        assert [name for name, _ in rows] == ["id", "amt", "name", "day", "note"]
        assert dict(rows)["day"] == "date"
        conn.execute("UPDATE orders SET amt = amt + 1, day = day + 1 WHERE id < 9")
        assert tables.refresh("kept").action == "DIFFERENTIAL"
        assert compare(conn, "kept").is_equal
        # Marked later, by DDL on a source or by hand: what fitted at the first fill fits now.
        conn.execute("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true")
        assert tables.refresh("kept").action == "REINITIALIZE"
        assert compare(conn, "kept").is_equal
        if has_view:
            assert conn.execute("SELECT count(*), sum(amt) FROM seen").fetchone() == (50, 1283)


def test_view_on_a_column_whose_type_has_to_change_is_refused_by_name(database: Node) -> None:
    _adopt(database, "CREATE VIEW seen AS SELECT id, day FROM kept")
    with database.connect() as conn, StreamTables(conn) as tables:
        with pytest.raises(RefusedError, match=r"column day of .*kept.* has to become date") as caught:
            tables.refresh("kept")
        assert "drop what depends on the column" in caught.value.hint
        assert conn.execute("SELECT count(*) FROM seen").fetchone() == (50,), "it keeps its rows"
        conn.execute("DROP VIEW seen")
        tables.refresh("kept")
        assert compare(conn, "kept").is_equal
