"""What forbids taking over an installation: named with what to do, and nothing is changed."""

from __future__ import annotations

import secrets

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from harness.chain.adopt import adopt
from harness.chain.catalog import compare_catalogs, snapshot_catalog
from harness.errors import HarnessError, MissingPrivilegeError, RefusedError
from harness.postgres import DsnNode, Node, Server
from scenarios.fixtures.rehearsals import Connection, build_old_installation, provide_extension
from scenarios.fixtures.servers import MakeServer
from scenarios.upgrade.adopting import (
    assert_refused,
    look,
)

TIE = """
CREATE FUNCTION shop.tied() RETURNS int RETURN 1;
ALTER FUNCTION shop.tied() DEPENDS ON EXTENSION pg_trickle;
"""


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        (
            "CREATE VIEW shop.user_view AS SELECT pgtrickle.refresh_stream_table('x') IS NULL AS done",
            "view shop.user_view",
        ),
        (
            "CREATE FUNCTION shop.f() RETURNS void BEGIN ATOMIC SELECT pgtrickle.refresh_stream_table('x'); END",
            "function shop.f()",
        ),
        (
            "ALTER TABLE shop.orders ALTER cust SET DEFAULT length(pgtrickle.refresh_stream_table('x')::text)",
            "default value for shop.orders.cust",
        ),
        (TIE, "function shop.tied()"),
    ],
)
def test_what_depends_on_the_extension_is_named_before_anything_changes(
    installation_node: Node, statement: str, subject: str
) -> None:
    with installation_node.connect() as conn:
        conn.execute(statement.encode())
    error = assert_refused(installation_node, "object_depends", subject)
    assert {finding.code for finding in error.findings} == {"object_depends"}
    assert "drop" in error.findings[0].hint


def test_held_catalog_is_an_error_with_a_hint(installation_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.chain.adopt.LOCK_TIMEOUT_MS", 200)
    before = look(installation_node)
    with installation_node.connect(autocommit=False) as holder:
        holder.execute("SELECT count(*) FROM pgtrickle.pgt_stream_tables")
        with pytest.raises(RefusedError, match="lock timeout") as refusal:
            adopt(installation_node.dsn())
    assert "nothing was changed" in refusal.value.hint
    assert look(installation_node) == before


def test_failure_in_the_last_step_undoes_all(installation_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Connection) -> None:
        connection.execute("SELECT 1 / 0")

    monkeypatch.setattr("harness.chain.adopt._stamp", fail)
    before = look(installation_node)
    with pytest.raises(HarnessError, match="division by zero"):
        adopt(installation_node.dsn())
    assert look(installation_node) == before


@pytest.mark.parametrize(
    ("statement", "subject"),
    [
        (
            "ALTER TABLE pgtrickle.pgt_dependencies DROP COLUMN decoder_confirmed_lsn",
            "pgtrickle.pgt_dependencies.decoder_confirmed_lsn",
        ),
        (
            "ALTER TABLE pgtrickle.pgt_dependencies ALTER slot_name TYPE varchar(90)",
            "pgtrickle.pgt_dependencies.slot_name",
        ),
        (
            "ALTER TABLE pgtrickle.pgt_dependencies DROP CONSTRAINT pgt_dependencies_cdc_mode_check",
            "pgtrickle.pgt_dependencies pgt_dependencies_cdc_mode_check",
        ),
        (
            "ALTER TABLE pgtrickle.pgt_dependencies ADD source_stable_name text",
            "pgtrickle.pgt_dependencies.source_stable_name",
        ),
        ("UPDATE pg_extension SET extversion = '0.3.0' WHERE extname = 'pg_trickle'", "extension pg_trickle"),
    ],
)
def test_other_shapes_are_refused(installation_node: Node, statement: str, subject: str) -> None:
    with installation_node.connect() as conn:
        conn.execute(statement.encode())
    assert_refused(installation_node, "not_the_baseline", subject)


def test_adopting_twice_is_refused(installation_node: Node) -> None:
    adopt(installation_node.dsn())
    before = look(installation_node)
    with pytest.raises(RefusedError, match="at revision 0001 already") as refusal:
        adopt(installation_node.dsn())
    assert refusal.value.hint
    assert look(installation_node) == before


def test_database_without_an_installation_is_refused(database: Node) -> None:
    with database.connect() as conn:
        before = snapshot_catalog(conn)
        with pytest.raises(RefusedError, match="holds no pg_trickle catalog") as refusal:
            adopt(database.dsn())
        assert refusal.value.hint
        assert compare_catalogs(before, snapshot_catalog(conn)) == ()


def test_only_a_superuser_takes_over(installation_node: Node) -> None:
    role, password = f"plain_{secrets.token_hex(4)}", secrets.token_hex(8)
    installation_node.sql(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
    )
    installation_node.sql(sql.SQL("GRANT USAGE ON SCHEMA pgtrickle TO {}").format(sql.Identifier(role)))
    before = look(installation_node)
    with pytest.raises(MissingPrivilegeError) as refusal:
        adopt(make_conninfo(installation_node.dsn(), user=role, password=password))
    assert role in refusal.value.message
    assert password not in refusal.value.message
    assert look(installation_node) == before
    installation_node.sql(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
    installation_node.sql(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_preloaded_library_is_refused(make_server: MakeServer, old_server: Server) -> None:
    """A real library of that name: pending in the files, loaded by the server, then given to a database."""
    assert old_server.is_running  # PostgreSQL 18 only
    server = make_server(name="preloading")
    provide_extension(server)
    build_old_installation(server, "shop")
    server.sql("DROP VIEW shop.refreshable", dbname="shop")
    library = server.scratch_dir / "pg_trickle.so"
    library.write_bytes((server.installation.libdir / "auto_explain.so").read_bytes())
    library.chmod(0o755)
    node = DsnNode("shop", server.dsn("shop"))
    path = sql.Literal(str(library))
    server.sql(sql.SQL("ALTER SYSTEM SET shared_preload_libraries = {}").format(path))
    assert_refused(node, "library_preloaded", "shared_preload_libraries (not in force yet)")
    node.close()
    server.restart()
    assert server.show("shared_preload_libraries").strip('"') == str(library)
    assert_refused(node, "library_preloaded", "shared_preload_libraries")
    server.sql("ALTER SYSTEM RESET shared_preload_libraries")
    assert_refused(node, "library_preloaded", "shared_preload_libraries")  # until it is restarted
    node.close()
    server.restart()
    server.sql(sql.SQL("ALTER DATABASE shop SET session_preload_libraries = {}").format(path))
    assert_refused(node, "library_preloaded", "session_preload_libraries")
    assert_refused(node, "library_preloaded", "session_preload_libraries (of database shop)")
    server.sql("ALTER DATABASE shop RESET session_preload_libraries")
    node.close()
    assert adopt(node.dsn()).extension_version == "0.2.0"
