"""A copy of a real installation: everything arrives, re-keyed, and the source is as it was, byte for byte."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from harness.chain import runner
from harness.errors import PreflightError, ServerError
from harness.postgres import Installation, Server
from harness.rehearsal import copying
from harness.rehearsal.baseline_objects import StreamTableSpec, create_stream_table, install_source
from harness.rehearsal.copying import Copy, copy_logical
from harness.rehearsal.physical import check_physical, copy_physical
from harness.rehearsal.rekey import OidNames, fetch_names, rekey
from harness.rehearsal.source import connect_source, fetch_facts
from harness.rehearsal.tables import TableName, fetch_buffers, fetch_sources
from scenarios.fixtures.rehearsals import OldInstallation, build_old_installation, provide_extension
from scenarios.fixtures.servers import MakeServer

_CATALOG = """
SELECT s.pgt_name, s.frontier -> 'sources' IS NOT NULL, d.source_relid::regclass::text, d.source_type, d.column_snapshot
FROM pgtrickle.pgt_stream_tables s JOIN pgtrickle.pgt_dependencies d USING (pgt_id) ORDER BY 1, 3
"""
_SYSTEM_TABLES = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND (n.nspname IN ('pg_catalog', 'pgtrickle', 'pgtrickle_changes'))
ORDER BY 1, 2
"""


def hear_nothing(_message: str, _fraction: float | None) -> None:
    """Nobody needs to know."""


def copy_of(old: OldInstallation, installation: Installation) -> Copy:
    with connect_source(old.dsn) as connection:
        facts = fetch_facts(connection, old.dsn)
    return copy_logical(facts, installation, jobs=2, keep=False, say=hear_nothing)


@pytest.fixture(scope="module")
def copy(old_installation: OldInstallation, installation: Installation) -> Iterator[Copy]:
    made = copy_of(old_installation, installation)
    yield made
    made.server.destroy()


def fingerprint(server: Server, dbname: str) -> dict[str, str]:
    """Every row of every system table, the schema as pg_dump sees it, and the files themselves."""
    server.sql("CHECKPOINT", dbname=dbname)
    found = {}
    dump = server.run("pg_dump", "--schema-only", "--restrict-key=x", dbname=dbname).stdout
    found["schema"] = hashlib.sha256(dump.encode()).hexdigest()
    for schema, name in server.rows(_SYSTEM_TABLES, dbname=dbname):
        query = sql.SQL("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} t").format(
            sql.Identifier(schema, name)
        )
        found[f"{schema}.{name}"] = str(server.row(query, dbname=dbname))
        relation = sql.Identifier(schema, name).as_string()
        place = server.value("SELECT pg_relation_filepath(%s)", [relation], dbname=dbname)
        if place:
            found[f"file of {name}"] = hashlib.sha256((server.data_dir / place).read_bytes()).hexdigest()
    return found


def test_copy_has_every_row_and_object_under_its_own_oids(old_installation: OldInstallation, copy: Copy) -> None:
    old, new = old_installation, copy.server
    before = old.server.rows(_CATALOG, dbname=old.dbname)
    after = new.rows(_CATALOG, dbname=copy.dbname)
    assert [row[:4] for row in after] == [row[:4] for row in before]
    with new.connect(copy.dbname) as conn, old.server.connect(old.dbname) as origin:
        sources = fetch_sources(conn)
        assert [source.label for source in sources] == sorted(source.label for source in old.sources)
        theirs = {source.label: source for source in fetch_sources(origin)}
        assert all(source.relid != theirs[source.label].relid for source in sources), "no OID is the same by luck"
        for source in sources:
            (buffer,) = fetch_buffers(conn, [source])[source.relid]
            assert buffer.name == f"changes_{source.relid}"
            rows = sql.SQL("SELECT b::text FROM {} b ORDER BY change_id")
            original = f"changes_{theirs[source.label].relid}"
            assert (
                conn.execute(rows.format(buffer.identifier)).fetchall()
                == origin.execute(rows.format(sql.Identifier("pgtrickle_changes", original))).fetchall()
            )
        snapshot = conn.execute(
            "SELECT e ->> 'name', (e ->> 'ordinal')::int, (e ->> 'type_oid')::oid::regtype::text"
            " FROM pgtrickle.pgt_dependencies d, jsonb_array_elements(d.column_snapshot) e"
            " WHERE d.source_relid = 'shop.orders'::regclass"
        ).fetchall()
        columns = conn.execute(
            "SELECT attname::text, attnum::int, atttypid::regtype::text FROM pg_attribute"
            " WHERE attrelid = 'shop.orders'::regclass AND attnum > 0 AND attgenerated = ''"
        ).fetchall()
    assert snapshot == columns, "the dropped column is gone here, so numbers close up, and the enum has another OID"


def test_frontier_of_the_copy_separates_consumed_from_pending_and_new(copy: Copy) -> None:
    """The copy's WAL begins past the source's: what is captured now is pending, what was consumed is not."""
    relid = copy.server.value("SELECT 'shop.orders'::regclass::oid::bigint", dbname=copy.dbname)
    pending = sql.SQL(
        "SELECT count(*) FROM {} b, pgtrickle.pgt_stream_tables s"
        " WHERE s.pgt_name = 'by_cust' AND b.lsn > (s.frontier -> 'sources' -> {} ->> 'lsn')::pg_lsn"
    ).format(sql.Identifier("pgtrickle_changes", f"changes_{relid}"), sql.Literal(str(relid)))
    assert copy.server.value(pending, dbname=copy.dbname) == 30
    copy.server.sql("UPDATE shop.orders SET amt = 0 WHERE id <= 5", dbname=copy.dbname)
    assert copy.server.value(pending, dbname=copy.dbname) == 35
    assert copy.position is not None
    assert copy.server.value("SELECT pg_current_xact_id()::text::numeric", dbname=copy.dbname) > copy.position.xid


def test_copy_keeps_owners_and_rights_and_tells_what_it_leaves_out(
    old_installation: OldInstallation, copy: Copy
) -> None:
    rights = "SELECT relowner::regrole::text, relacl::text FROM pg_class WHERE oid = to_regclass(%s)"
    for name in ("shop.orders", "pgtrickle.pgt_stream_tables"):
        theirs = old_installation.server.row(rights, [name], dbname=old_installation.dbname)
        assert copy.server.row(rights, [name], dbname=copy.dbname) == theirs
    assert [(one.code, one.subject) for one in copy.warnings] == [("left_out", "view shop.refreshable")]
    assert copy.server.value("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trickle'", dbname=copy.dbname) == 0
    assert copy.server.value("SELECT count(*) FROM pg_event_trigger", dbname=copy.dbname) == 0
    assert copy.server.value("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'app'") is False


def test_source_is_unchanged_byte_for_byte(old_server: Server, installation: Installation) -> None:
    old = build_old_installation(old_server, "untouched")
    # The first reader after a write prunes pages and sets hint bits, whoever it is: let that be us, twice.
    for _ in range(2):
        old_server.sql("VACUUM (FREEZE)", dbname=old.dbname)
        fingerprint(old_server, old.dbname)
    before = fingerprint(old_server, old.dbname)
    position = old_server.value("SELECT pg_current_wal_insert_lsn()")
    copied = copy_of(old, installation)
    copied.server.destroy()
    assert old_server.value("SELECT pg_current_wal_insert_lsn()") == position, "not one WAL record was written"
    assert fingerprint(old_server, old.dbname) == before
    with connect_source(old.dsn) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("CREATE TABLE shop.mine ()")


def test_no_password_is_seen_in_any_process_list(
    old_installation: OldInstallation, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = old_installation.server.password
    seen: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_text(encoding="utf-8", errors="replace")
                except OSError:
                    continue
                if "pg_dump" in line or "pg_restore" in line:
                    seen.append(line)

    monkeypatch.setattr(copying, "rekey", lambda *_: (_ for _ in ()).throw(ServerError("enough")))
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with pytest.raises(ServerError, match="enough"):
            copy_of(old_installation, installation)
    finally:
        ended.set()
        thread.join()
    assert any("pg_dump" in line for line in seen)
    assert not any(secret in line for line in seen)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ServerError("the restore failed")])
def test_interrupted_copy_leaves_nothing(
    old_installation: OldInstallation,
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    interruption: BaseException,
) -> None:
    made: list[Server] = []
    create = Server.create

    def remember(*arguments: object, **options: object) -> Server:
        made.append(create(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    def interrupt(*_arguments: object) -> None:
        raise interruption

    monkeypatch.setattr(Server, "create", remember)
    monkeypatch.setattr(copying, "rekey", interrupt)
    with pytest.raises((KeyboardInterrupt, ServerError)):
        copy_of(old_installation, installation)
    assert len(made) == 1
    assert not made[0].root.exists()
    assert not made[0].is_running


def test_copy_that_swaps_oids_is_rekeyed_without_a_clash(make_server: MakeServer) -> None:
    """Every source gets the OID of another one: no rename may meet an object that still has the name."""
    server = make_server(name="swapped")
    server.create_database("swapped")
    runner.upgrade(server.dsn("swapped"), "0001")
    with server.connect("swapped") as conn:
        conn.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int); CREATE TABLE c (id int)")
        made = {name: install_source(conn, TableName("public", name)) for name in ("a", "b", "c")}
        spec = StreamTableSpec(TableName("public", "st"), sql.SQL("id"), sql.SQL("FROM a"), (made["a"].table,), ("id",))
        create_stream_table(conn, spec)
        conn.execute("INSERT INTO a VALUES (1)")
        real = fetch_names(conn)
        relids = {name: source.relid for name, source in made.items()}
        # As if the dump came from a database in which a, b and c had each other's OIDs.
        turned = {relids["a"]: ("public", "b"), relids["b"]: ("public", "c"), relids["c"]: ("public", "a")}
        report = rekey(conn, OidNames({**real.relations, **turned}, real.types, real.columns))
        assert report.renamed == 36, "21 objects; the 15 of them that share a schema step aside first"
        assert report.dangling == ()
        found = conn.execute(
            "SELECT d.source_relid::regclass::text, t.slot_name FROM pgtrickle.pgt_dependencies d"
            " JOIN pgtrickle.pgt_change_tracking t USING (source_relid)"
        ).fetchall()
    assert found == [("b", f"pg_trickle_cdc_{relids['b']}")]


def test_base_backup_keeps_oids_and_positions(make_server: MakeServer, installation: Installation) -> None:
    server = make_server(name="source")
    provide_extension(server)
    server.sql("ALTER SYSTEM SET archive_command = 'false'")
    old = build_old_installation(server, "shop")
    with connect_source(old.dsn) as connection:
        facts = fetch_facts(connection, old.dsn)
        check_physical(connection, facts)
        copied = copy_physical(connection, facts, installation, keep=False, say=hear_nothing)
    try:
        query = "SELECT pgt_relid::bigint, pgt_name, frontier FROM pgtrickle.pgt_stream_tables ORDER BY 2"
        assert copied.server.rows(query, dbname="shop") == server.rows(query, dbname="shop")
        assert copied.server.show("archive_command") in ("", "(disabled)")
        assert copied.server.port != server.port
    finally:
        copied.server.destroy()


def test_base_backup_says_what_it_needs(old_installation: OldInstallation) -> None:
    with connect_source(old_installation.dsn) as connection:
        facts = fetch_facts(connection, old_installation.dsn)
        with pytest.raises(PreflightError) as caught:
            check_physical(connection, facts)
    assert {finding.subject for finding in caught.value.findings} == {"max_wal_senders", "wal_level"}
    assert all(finding.hint for finding in caught.value.findings)


def test_copy_can_be_upgraded_to_head_and_back(copy: Copy) -> None:
    dsn = copy.server.dsn(copy.dbname)
    runner.upgrade(dsn)
    runner.downgrade(dsn, "0001")
    assert runner.current_revision(dsn) == "0001"
