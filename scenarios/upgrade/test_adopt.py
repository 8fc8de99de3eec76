"""Taking over pg_trickle 0.2.0 on a real server: what stays, what goes, what forbids it, all or nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from harness.chain import runner
from harness.chain.adopt import adopt
from harness.chain.catalog import CatalogSnapshot, compare_catalogs, snapshot_catalog, snapshot_rows
from harness.chain.status import fetch_status
from harness.errors import HarnessError, MissingPrivilegeError, PreflightError, RefusedError
from harness.postgres import DsnNode, Node, Server
from harness.rehearsal.baseline_objects import StreamTableSpec, create_stream_table, install_source
from harness.rehearsal.checks import check_captured, check_contents
from harness.rehearsal.contents import drop_kept, note_captured, take_first
from harness.rehearsal.model import Verdict
from harness.rehearsal.tables import SourceTable, TableName, fetch_buffers, fetch_sources, fetch_table
from scenarios.fixtures.rehearsals import Connection, build_old_installation, provide_extension
from scenarios.fixtures.servers import MakeServer

CATALOG_ROWS = tuple(
    ("pgtrickle", name)
    for name in ("pgt_stream_tables", "pgt_dependencies", "pgt_refresh_history", "pgt_change_tracking")
)
STORAGE = (("shop", "by_cust"), ("shop", "days"))
KNOWN_HASHES = {"5": 8905914713984357400, "1000": -3423056992172536074}
HASHES = (
    "SELECT array_agg(pgtrickle.pg_trickle_hash(v)), pgtrickle.pg_trickle_hash_multi(ARRAY['b', '2']),"
    " pgtrickle.parse_duration_seconds('1h30m') FROM unnest(ARRAY['5', '1000']) v"
)
TIE = """
CREATE FUNCTION shop.tied() RETURNS int RETURN 1;
ALTER FUNCTION shop.tied() DEPENDS ON EXTENSION pg_trickle;
"""
# As the extension has them: C, out of a library that is not here. CREATE FUNCTION would look for it.
WITHOUT_LIBRARY = """
UPDATE pg_proc SET prolang = (SELECT oid FROM pg_language WHERE lanname = 'c'), probin = '$libdir/pg_trickle',
    prosrc = proname || '_wrapper', proconfig = NULL
WHERE pronamespace = 'pgtrickle'::regnamespace AND proname NOT LIKE 'pgt_ivm_%_fn_%';
SET event_triggers = off;
DROP FUNCTION pgtrickle._xxh64(bytea, bigint);
"""


@dataclass(frozen=True)
class Everything:
    """What must be the same before and after a refusal: definitions, rows, and whose the objects are."""

    catalog: CatalogSnapshot
    rows: Mapping[str, tuple[str, ...]]
    members: tuple[str, ...]


def look(node: Node) -> Everything:
    with node.connect() as conn:
        buffers = conn.execute(
            "SELECT 'pgtrickle_changes', relname FROM pg_class"
            " WHERE relnamespace = 'pgtrickle_changes'::regnamespace AND relkind = 'r' ORDER BY 2"
        ).fetchall()
        relations = (*CATALOG_ROWS, *STORAGE, *((schema, name) for schema, name in buffers))
        members = conn.execute(
            "SELECT pg_describe_object(classid, objid, 0) FROM pg_depend"
            " WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid <> 'pg_type'::regclass"
            " AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_trickle') ORDER BY 1"
        ).fetchall()
        return Everything(snapshot_catalog(conn), snapshot_rows(conn, *relations), tuple(row[0] for row in members))


@pytest.fixture(scope="module")
def template(old_server: Server) -> str:
    """An installation to copy: a copied database keeps its OIDs, which its names hold."""
    build_old_installation(old_server, "adopt_template")
    old_server.sql("DROP VIEW shop.refreshable", dbname="adopt_template")
    old_server.close()
    return "adopt_template"


@pytest.fixture
def installation_node(old_server: Server, template: str) -> Iterator[Node]:
    """A 0.2.0 installation of the test's own; nothing in it depends on what leaves."""
    dbname = f"adopt_{secrets.token_hex(4)}"
    old_server.create_database(dbname, template=template)
    node = DsnNode(dbname, old_server.dsn(dbname))
    try:
        yield node
    finally:
        node.close()
        old_server.drop_database(dbname)


def sources_of(node: Node) -> tuple[SourceTable, ...]:
    with node.connect() as conn:
        return fetch_sources(conn)


def write(conn: Connection) -> None:
    conn.execute("INSERT INTO shop.orders (cust, amt) VALUES (1, 5), (NULL, 7)")
    conn.execute("UPDATE shop.orders SET amt = amt + 1 WHERE id BETWEEN 40 AND 45")
    conn.execute("DELETE FROM shop.orders WHERE id = 50")
    conn.execute("""INSERT INTO shop."Odd.Näme" VALUES (9, NULL), (9, NULL)""")
    conn.execute("UPDATE shop.parts SET at = '2026-08-02' WHERE id = 3")


def assert_captures(node: Node, conn: Connection, sources: tuple[SourceTable, ...], phase: str) -> None:
    note_captured(conn, sources)
    before = count_captured(conn, sources)
    write(conn)
    assert count_captured(conn, sources) > before
    results = (*check_contents(conn, sources, phase=phase), *check_captured(conn, sources, phase=phase))
    assert results
    assert [result for result in results if result.verdict is Verdict.FAILED] == [], node.name


def count_captured(conn: Connection, sources: tuple[SourceTable, ...]) -> int:
    total = 0
    for buffers in fetch_buffers(conn, sources).values():
        (buffer,) = buffers
        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(buffer.identifier)).fetchone()
        assert row is not None
        total += row[0]
    return total


def assert_refused(node: Node, code: str, subject: str) -> PreflightError:
    before = look(node)
    with pytest.raises(PreflightError) as refusal:
        adopt(node.dsn())
    assert look(node) == before
    found = [finding for finding in refusal.value.findings if finding.code == code]
    assert subject in [finding.subject for finding in found]
    assert all(finding.hint and finding.message for finding in found)
    return refusal.value


def go_up_down_up(node: Node, sources: tuple[SourceTable, ...]) -> None:
    with node.connect() as conn:
        take_first(conn, sources)
        adopted, rows = snapshot_catalog(conn), snapshot_rows(conn, *CATALOG_ROWS)
        runner.upgrade(node.dsn())
        assert_captures(node, conn, sources, "head")
        runner.downgrade(node.dsn(), "0001")
        assert compare_catalogs(adopted, snapshot_catalog(conn)) == ()
        assert snapshot_rows(conn, *CATALOG_ROWS) == rows
        assert_captures(node, conn, sources, "0001 again")
        runner.upgrade(node.dsn())
        assert_captures(node, conn, sources, "head again")
        drop_kept(conn)
    assert runner.current_revision(node.dsn()) == runner.REVISIONS[-1]


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
