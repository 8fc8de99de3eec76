"""IMMEDIATE stream tables when an installation is taken over: refused, or DIFFERENTIAL from then on."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from harness.chain import runner
from harness.chain.adopt import adopt
from harness.chain.catalog import snapshot_catalog, snapshot_rows
from harness.chain.status import fetch_status
from harness.errors import PreflightError
from harness.postgres import Node
from harness.rehearsal.baseline_objects import StreamTableSpec, create_stream_table, install_source
from harness.rehearsal.tables import TableName, fetch_table
from harness.trickle.names import stable_name
from scenarios.fixtures.rehearsals import Connection
from scenarios.upgrade.adopting import (
    KNOWN_HASHES,
    assert_refused,
    go_up_down_up,
    look,
    sources_of,
)


def make_immediate(conn: Connection) -> tuple[int, int]:
    """A stream table that 0.2.0 keeps in IMMEDIATE mode: no buffer, eight triggers whose functions call the library."""
    conn.execute("CREATE TABLE shop.tills (id int PRIMARY KEY, place text)")
    spec = StreamTableSpec(
        TableName("shop", "places"),
        sql.SQL("id, place"),
        sql.SQL("FROM shop.tills"),
        (TableName("shop", "tills"),),
        row_key=("id",),
        refresh_mode="IMMEDIATE",
    )
    pgt_id = create_stream_table(conn, spec).pgt_id
    row = conn.execute("SELECT 'shop.tills'::regclass::oid::bigint").fetchone()
    assert row is not None
    relid = int(row[0])
    functions = {
        "before": "BEGIN RETURN NULL; END",
        **{
            f"after_{event}": f"BEGIN PERFORM pgtrickle.pgt_ivm_apply_delta({pgt_id}, {relid}, true, true);"
            " RETURN NULL; END"
            for event in ("ins", "upd", "del", "trunc")
        },
    }
    for name, body in functions.items():
        conn.execute(
            sql.SQL("CREATE FUNCTION pgtrickle.{}() RETURNS trigger LANGUAGE plpgsql AS {}").format(
                sql.Identifier(f"pgt_ivm_{name}_fn_{pgt_id}_{relid}"), sql.Literal(body)
            )
        )
    events = {"ins": "INSERT", "upd": "UPDATE", "del": "DELETE", "trunc": "TRUNCATE"}
    for when in ("before", "after"):
        for short, event in events.items():
            function = "before" if when == "before" else f"after_{short}"
            conn.execute(
                sql.SQL("CREATE TRIGGER {} {} ON shop.tills FOR EACH STATEMENT EXECUTE FUNCTION {}()").format(
                    sql.Identifier(f"pgt_ivm_{when}_{short}_{pgt_id}"),
                    sql.SQL({"before": "BEFORE ", "after": "AFTER "}[when]) + sql.SQL(event),
                    sql.Identifier("pgtrickle", f"pgt_ivm_{function}_fn_{pgt_id}_{relid}"),
                )
            )
    return pgt_id, relid


def test_immediate_stream_table_is_refused(installation_node: Node) -> None:
    with installation_node.connect() as conn:
        make_immediate(conn)
    assert_refused(installation_node, "immediate_stream_table", "shop.places")


def test_immediate_stream_table_becomes_differential(installation_node: Node) -> None:
    node = installation_node
    with node.connect() as conn:
        pgt_id, relid = make_immediate(conn)
        with pytest.raises(psycopg.errors.RaiseException, match="needs the library"):
            conn.execute("INSERT INTO shop.tills VALUES (1, 'door')")
    report = adopt(node.dsn(), mode="differential")
    assert report.converted == ("shop.places",)
    assert node.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgt_ivm%'") == 0
    assert node.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'pgt_ivm%'") == 0
    state = "SELECT refresh_mode, frontier, needs_reinit FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s"
    assert node.row(state, [pgt_id]) == ("DIFFERENTIAL", None, True)
    assert node.value(
        "SELECT tracked_by_pgt_ids FROM pgtrickle.pgt_change_tracking WHERE source_relid = %s::oid", [relid]
    ) == [pgt_id]
    with node.connect() as conn:
        conn.execute("INSERT INTO shop.tills VALUES (5, 'door')")
        conn.execute("UPDATE shop.tills SET place = 'gate'")
        conn.execute("DELETE FROM shop.tills")
        conn.execute("TRUNCATE shop.tills")
        captured = conn.execute(
            sql.SQL("SELECT action, pk_hash, new_place, old_place FROM {} ORDER BY change_id").format(
                sql.Identifier("pgtrickle_changes", f"changes_{relid}")
            )
        ).fetchall()
    key = KNOWN_HASHES["5"]
    assert captured == [
        ("I", key, "door", None),
        ("U", key, "gate", "door"),
        ("D", key, None, "gate"),
        ("T", None, None, None),
    ]
    runner.upgrade(node.dsn())
    status = fetch_status(node.dsn())
    assert (status.findings, status.pending, status.interrupted, status.by_oid) == ((), (), None, 0)
    assert status.needs_reinit == ("shop.places",)
    with node.connect() as conn:
        conn.execute("INSERT INTO shop.tills VALUES (6, 'yard')")
        assert conn.execute("SELECT count(*) FROM shop.tills").fetchone() == (1,)


def test_converted_source_looks_as_any_other_of_that_version(installation_node: Node) -> None:
    """Buffer, index, sequence and triggers are as the baseline's; only its function's body is written otherwise."""
    with installation_node.connect() as conn:
        _, relid = make_immediate(conn)
        adopt(installation_node.dsn(), mode="differential")
        conn.execute("CREATE TABLE shop.other (LIKE shop.tills INCLUDING ALL)")
        other = install_source(conn, TableName("shop", "other"))
        entries = snapshot_catalog(conn).entries.items()
        converted, usual = (
            {
                (kind, subject.replace(str(number), "?").replace(name, "?")): text.replace(str(number), "?").replace(
                    name, "?"
                )
                for (kind, subject), text in entries
                if str(number) in subject and kind != "function"
            }
            for number, name in ((relid, "tills"), (other.relid, "other"))
        )
        assert converted == usual
        assert {kind for kind, _ in converted} == {"relation", "column", "index", "sequence", "trigger"}
    go_up_down_up(installation_node, sources_of(installation_node))
    assert installation_node.value("SELECT to_regclass(%s) IS NULL", [f"pgtrickle_changes.changes_{relid}"])


def test_domain_that_is_not_null_does_not_stop_a_converted_sources_writers(installation_node: Node) -> None:
    """One image of a captured row is empty: the buffer has the type below the domain, at 0001 as at the end."""
    node = installation_node
    with node.connect() as conn:
        _, relid = make_immediate(conn)
        conn.execute("CREATE DOMAIN shop.amount AS numeric(12,2) NOT NULL; CREATE DOMAIN shop.price AS shop.amount")
        conn.execute("ALTER TABLE shop.tills ADD COLUMN price shop.price DEFAULT 1")
        adopt(node.dsn(), mode="differential")
        types = conn.execute(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attname ~ '_price$' ORDER BY 1",
            [f"pgtrickle_changes.changes_{relid}"],
        ).fetchall()
        assert types == [("new_price", "numeric(12,2)"), ("old_price", "numeric(12,2)")]
        conn.execute("INSERT INTO shop.tills VALUES (6, 'yard', 2)")
        runner.upgrade(node.dsn())
        conn.execute("INSERT INTO shop.tills VALUES (7, 'shed', 3)")
        conn.execute("DELETE FROM shop.tills WHERE id = 6")
        assert conn.execute("SELECT id, price FROM shop.tills ORDER BY 1").fetchall() == [(7, 3)]
        buffer = sql.Identifier("pgtrickle_changes", f"changes_{stable_name('shop', 'tills')}")
        assert conn.execute(sql.SQL("SELECT count(*) FROM {}").format(buffer)).fetchone() == (3,)


def test_buffer_that_nothing_fills_is_not_taken_for_capture(installation_node: Node) -> None:
    node = installation_node
    with node.connect() as conn:
        _, relid = make_immediate(conn)
        buffer = sql.Identifier("pgtrickle_changes", f"changes_{relid}")
        conn.execute(sql.SQL("CREATE TABLE {} (change_id bigserial)").format(buffer))
        before = look(node)
        with pytest.raises(PreflightError) as refusal:
            adopt(node.dsn(), mode="differential")
        assert [(f.code, f.subject) for f in refusal.value.findings] == [("buffer_without_trigger", "shop.tills")]
        assert look(node) == before
        conn.execute(sql.SQL("DROP TABLE {}").format(buffer))
        assert adopt(node.dsn(), mode="differential").converted == ("shop.places",)


def test_awkward_source_of_an_immediate_stream_table_is_captured(installation_node: Node) -> None:
    """Dropped, generated and oddly named columns, a key in another order, partitions: captured from adoption on."""
    node = installation_node
    with node.connect() as conn:
        conn.execute('CREATE SCHEMA "My {0}%s"')
        name = TableName("My {0}%s", "Ta'b\"le")
        conn.execute(
            sql.SQL(
                """CREATE TABLE {} (gone int, "K ey%s" text, part int, "{{0}}" shop.state, twice int GENERATED ALWAYS
                   AS (part * 2) STORED, PRIMARY KEY (part, "K ey%s")) PARTITION BY LIST (part)"""
            ).format(name.identifier)
        )
        conn.execute(sql.SQL("ALTER TABLE {} DROP COLUMN gone").format(name.identifier))
        conn.execute(sql.SQL("CREATE TABLE shop.leaf PARTITION OF {} DEFAULT").format(name.identifier))
        spec = StreamTableSpec(
            TableName("shop", "odd"),
            sql.SQL("part"),
            sql.SQL("FROM {}").format(name.identifier),
            (name,),
            row_key=("part",),
            refresh_mode="IMMEDIATE",
        )
        create_stream_table(conn, spec)
        assert adopt(node.dsn(), mode="differential").converted == ("shop.odd",)
        relid = fetch_table(conn, name).relid
        insert = sql.SQL("INSERT INTO {} VALUES ('a', 1, 'new'), ('b', 2, NULL)").format(name.identifier)
        conn.execute(insert)
        captured = conn.execute(
            sql.SQL("SELECT pk_hash = pgtrickle.pg_trickle_hash_multi(ARRAY[new_part::text, {}]) FROM {}").format(
                sql.Identifier("new_K ey%s"), sql.Identifier("pgtrickle_changes", f"changes_{relid}")
            )
        ).fetchall()
        assert captured == [(True,), (True,)]
    go_up_down_up(node, sources_of(node))


def test_shared_source_keeps_its_pending_rows(installation_node: Node) -> None:
    """A source that a DIFFERENTIAL stream table reads too has a buffer already: it stays, with what is pending."""
    node = installation_node
    with node.connect() as conn:
        pgt_id, relid = make_immediate(conn)
        row = conn.execute("SELECT 'shop.orders'::regclass::oid::bigint").fetchone()
        assert row is not None
        conn.execute(
            "UPDATE pgtrickle.pgt_dependencies SET source_relid = %s WHERE pgt_id = %s AND source_relid = %s::oid",
            [row[0], pgt_id, relid],
        )
        buffer = ("pgtrickle_changes", f"changes_{row[0]}")
        before = snapshot_rows(conn, buffer)
        adopt(node.dsn(), mode="differential")
        assert snapshot_rows(conn, buffer) == before
        tracked = conn.execute(
            "SELECT tracked_by_pgt_ids FROM pgtrickle.pgt_change_tracking WHERE source_relid = %s", [row[0]]
        ).fetchone()
    assert tracked is not None
    assert pgt_id in tracked[0]
    assert len(tracked[0]) == 2
