"""Taking over pg_trickle 0.2.0 on a real server: what stays, what goes, with its library or without."""

from __future__ import annotations

import secrets

import psycopg
import pytest

from harness.chain import runner
from harness.chain.adopt import adopt
from harness.chain.catalog import compare_catalogs, snapshot_catalog
from harness.chain.status import fetch_status
from harness.postgres import Node, Server
from harness.rehearsal.tables import fetch_sources
from scenarios.upgrade.adopting import (
    HASHES,
    KNOWN_HASHES,
    go_up_down_up,
    look,
    sources_of,
    write,
)

# As the extension has them: C, out of a library that is not here, whatever is. CREATE FUNCTION would look for it.
WITHOUT_LIBRARY = """
UPDATE pg_proc SET prolang = (SELECT oid FROM pg_language WHERE lanname = 'c'), probin = '$libdir/pg_trickle_gone',
    prosrc = proname || '_wrapper', proconfig = NULL
WHERE pronamespace = 'pgtrickle'::regnamespace AND proname NOT LIKE 'pgt_ivm_%_fn_%';
SET event_triggers = off;
DROP FUNCTION pgtrickle._xxh64(bytea, bigint);
"""


def test_adopting_keeps_what_is_there_and_leaves_the_extension(installation_node: Node) -> None:
    node, before = installation_node, look(installation_node)
    hashes = node.row(HASHES)
    report = adopt(node.dsn())
    after = look(node)
    assert report.extension_version == "0.2.0"
    assert report.members == len(before.members)
    assert (report.converted, report.differences) == ((), ())
    assert after.members == ()
    assert after.rows == before.rows  # the frontier, what is pending, the storage
    assert sum(name.startswith("pgtrickle_changes.") and len(rows) > 0 for name, rows in after.rows.items()) == 3
    changed = compare_catalogs(before.catalog, after.catalog)
    assert {(d.kind, d.subject) for d in changed if d.after is None} == {
        ("event trigger", "pg_trickle_ddl_tracker"),
        ("event trigger", "pg_trickle_drop_tracker"),
        ("extension", "pg_trickle"),
        ("function", "pgtrickle._on_ddl()"),
        ("function", "pgtrickle.pgt_ivm_apply_delta(bigint,oid,boolean,boolean)"),
        ("function", "pgtrickle.refresh_stream_table(text)"),
    }
    assert len(report.dropped) == 5
    assert all("alembic_version" in d.subject for d in changed if d.after is not None)
    assert node.row(HASHES) == hashes == (list(KNOWN_HASHES.values()), 7013913361365764082, 5400)
    assert node.value("SELECT count(*) FROM pgtrickle.pg_stat_stream_tables") == 2
    assert node.value("SELECT count(*) FROM pgtrickle.stream_tables_info") == 2
    assert fetch_status(node.dsn()).revision == "0001"
    go_up_down_up(node, sources_of(node))


def test_adopted_catalog_is_what_the_first_revision_makes(installation_node: Node, old_server: Server) -> None:
    adopt(installation_node.dsn())
    fresh = f"fresh_{secrets.token_hex(4)}"
    old_server.create_database(fresh)
    try:
        runner.upgrade(old_server.dsn(fresh), "0001")
        with old_server.connect(fresh) as one, installation_node.connect() as other:
            expected, found = snapshot_catalog(one), snapshot_catalog(other)
    finally:
        old_server.drop_database(fresh)
    told = [
        f"{difference.kind} {difference.subject}"
        for difference in compare_catalogs(expected, found)
        if difference.subject.startswith("pgtrickle.") or difference.subject in ("pgtrickle", "pgtrickle_changes")
    ]
    assert told == ["relation pgtrickle.pgt_stream_tables"]  # a SELECT that was granted to app stays


def test_library_is_not_needed(installation_node: Node) -> None:
    node = installation_node
    with node.connect() as conn:
        conn.execute(WITHOUT_LIBRARY.encode())
    with node.connect() as conn, pytest.raises(psycopg.errors.UndefinedFile):
        conn.execute("CREATE TABLE shop.new (a int)")
    with node.connect() as conn, pytest.raises(psycopg.errors.UndefinedFile):
        write(conn)
    before = look(node)
    report = adopt(node.dsn())
    assert "function pgtrickle.refresh_stream_table(pg_catalog.text)" in report.dropped
    assert look(node).rows == before.rows
    with node.connect() as conn:
        conn.execute("CREATE TABLE shop.new (a int)")
        sources = fetch_sources(conn)
        assert conn.execute(
            "SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang"
            " WHERE l.lanname = 'c' AND p.probin LIKE '%trickle%'"
        ).fetchone() == (0,)
        assert conn.execute(HASHES.encode()).fetchone() == (list(KNOWN_HASHES.values()), 7013913361365764082, 5400)
    go_up_down_up(node, sources)


def test_harmless_differences_are_told(installation_node: Node) -> None:
    with installation_node.connect() as conn:
        conn.execute("CREATE INDEX mine ON pgtrickle.pgt_stream_tables (status, pgt_name)")
        conn.execute("COMMENT ON TABLE pgtrickle.pgt_dependencies IS 'read by reports'")
        conn.execute("ALTER TABLE pgtrickle.pgt_refresh_history OWNER TO app")
    told = "\n".join(adopt(installation_node.dsn()).differences)
    assert "index pgtrickle.mine is new" in told
    assert "comment table pgtrickle.pgt_dependencies is new: read by reports" in told
    assert "owner pgtrickle.pgt_refresh_history changed: postgres -> app" in told
    runner.upgrade(installation_node.dsn())
