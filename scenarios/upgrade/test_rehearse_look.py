"""What a look at the source finds: each thing by name, with what to do, before anything is made."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator

import pytest

from harness.chain import runner
from harness.errors import ConnectionRefusedByInput, Finding, MissingPrivilegeError, PreflightError, RefusedError
from harness.postgres import Installation, Server
from harness.rehearsal.baseline_objects import install_source
from harness.rehearsal.look import LookReport, look, look_at_immediate
from harness.rehearsal.options import RehearsalOptions
from harness.rehearsal.place import look_around
from harness.rehearsal.source import connect_source, fetch_facts
from harness.rehearsal.tables import TableName
from scenarios.fixtures.rehearsals import OldInstallation

HEAD = runner.REVISIONS[-1]


@pytest.fixture
def dbname(old_server: Server) -> Iterator[str]:
    """A database at the baseline, with one captured table."""
    name = f"look_{secrets.token_hex(4)}"
    old_server.create_database(name)
    runner.upgrade(old_server.dsn(name), "0001")
    with old_server.connect(name) as conn:
        conn.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        install_source(conn, TableName("public", "orders"))
    yield name
    old_server.drop_database(name)


def look_at(server: Server, dbname: str, installation: Installation) -> LookReport:
    dsn = server.dsn(dbname)
    with connect_source(dsn) as connection:
        return look(connection, fetch_facts(connection, dsn), installation, runner.REVISIONS)


def named(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    assert all(finding.message for finding in findings)
    return [(finding.code, finding.subject) for finding in findings]


def test_installation_at_the_baseline_is_in_nobodys_way(
    old_server: Server, dbname: str, installation: Installation
) -> None:
    assert look_at(old_server, dbname, installation) == LookReport((), ())


def test_installation_of_the_extension_is_in_nobodys_way(
    old_installation: OldInstallation, installation: Installation
) -> None:
    assert look_at(old_installation.server, old_installation.dbname, installation) == LookReport((), ())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DROP SCHEMA pgtrickle CASCADE", [("no_catalog", "{dbname}")]),
        (
            "DROP TABLE pgtrickle.alembic_version, pgtrickle.pgt_change_tracking",
            [("half_catalog", "pgtrickle.pgt_change_tracking")],
        ),
        (
            "DROP TABLE pgtrickle.alembic_version; ALTER TABLE pgtrickle.pgt_dependencies DROP COLUMN cdc_mode CASCADE",
            [("half_catalog", "pgtrickle.pgt_dependencies")],
        ),
        (
            "DROP TABLE pgtrickle.alembic_version; ALTER TABLE pgtrickle.pgt_stream_tables ADD topk_offset int",
            [("newer_catalog", "pgtrickle.pgt_stream_tables")],
        ),
        ("UPDATE pgtrickle.alembic_version SET version_num = '0099'", [("unknown_revision", "0099")]),
        (f"UPDATE pgtrickle.alembic_version SET version_num = '{HEAD}'", [("at_head", HEAD)]),  # noqa: S608 - a constant
        ("CREATE EXTENSION pg_trickle; UPDATE pg_extension SET extversion = '0.67.0' WHERE extname = 'pg_trickle'",
         [("other_version", "pg_trickle")]),
        (("UPDATE pgtrickle.alembic_version SET version_num = '0011';"
          " CREATE TABLE pgtrickle_changes.changes_abc (change_id bigint)"),
         [("rows_without_number", "pgtrickle_changes.changes_abc")]),
        ("DELETE FROM pgtrickle.pgt_change_tracking", [("no_sources", "pgtrickle.pgt_change_tracking")]),
    ],
)  # fmt: skip
def test_catalog_that_cannot_be_upgraded_stops(
    old_server: Server, dbname: str, installation: Installation, change: str, expected: list[tuple[str, str]]
) -> None:
    with old_server.connect(dbname) as conn:
        conn.execute(change.encode())
    report = look_at(old_server, dbname, installation)
    assert named(report.stops) == [(code, subject.format(dbname=dbname)) for code, subject in expected]
    assert all(finding.hint for finding in report.stops)
    with pytest.raises(PreflightError) as caught:
        report.raise_if_stopped("somewhere")
    assert caught.value.exit_code == 2


def test_two_sources_of_one_stable_name_stop_with_both_names(
    old_server: Server, dbname: str, installation: Installation
) -> None:
    with old_server.connect(dbname) as conn:
        conn.execute('CREATE SCHEMA a; CREATE SCHEMA "a.b"')
        conn.execute('CREATE TABLE a."b.c" (i int); CREATE TABLE "a.b".c (i int)')
        install_source(conn, TableName("a", "b.c"))
        install_source(conn, TableName("a.b", "c"))
    (finding,) = look_at(old_server, dbname, installation).stops
    assert finding.code == "stable_name_collision"
    assert 'a."b.c"' in finding.message
    assert '"a.b".c' in finding.message


def test_source_that_is_gone_is_told(old_server: Server, dbname: str, installation: Installation) -> None:
    with old_server.connect(dbname) as conn:
        conn.execute("CREATE TABLE gone (i int)")
        relid = install_source(conn, TableName("public", "gone")).relid
        conn.execute("DROP TABLE gone")
    assert named(look_at(old_server, dbname, installation).warnings) == [("source_gone", f"OID {relid}")]


def test_old_and_prepared_transactions_are_told(
    old_server: Server, dbname: str, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.rehearsal.look._LONG_S", 0)
    with old_server.connect(dbname) as other, old_server.connect(dbname) as third:
        other.execute("BEGIN")
        third.execute("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'left behind'")
        try:
            warnings = look_at(old_server, dbname, installation).warnings
        finally:
            third.execute("ROLLBACK PREPARED 'left behind'")
        pid = other.info.backend_pid
    assert named(warnings) == [
        ("long_transaction", f"pid {pid} (postgres)"),
        ("prepared_transaction", "left behind"),
    ]


def test_extension_that_is_not_here_stops_only_if_something_needs_it(
    old_server: Server, dbname: str, installation: Installation
) -> None:
    old_server.sql("CREATE EXTENSION citext; CREATE EXTENSION unaccent", dbname=dbname)
    old_server.sql("CREATE TABLE people (mail citext)", dbname=dbname)
    bare = dataclasses.replace(installation, extensions={})
    report = look_at(old_server, dbname, bare)
    assert named(report.stops) == [("extension_missing_here", "citext")]
    assert named(report.warnings) == [("extension_left_out", "unaccent")]
    assert look_at(old_server, dbname, installation) == LookReport((), ())


def test_role_without_rights_is_refused_with_what_it_lacks(
    old_server: Server, dbname: str, installation: Installation
) -> None:
    role = f"poor_{secrets.token_hex(4)}"
    old_server.create_role(role)
    dsn = old_server.dsn(dbname, user=role)
    with pytest.raises(MissingPrivilegeError, match=f"user={role}: permission denied") as caught:
        look_around(RehearsalOptions(dsn=dsn))
    assert "pg_read_all_data" in caught.value.hint
    with old_server.connect(dbname) as conn:
        conn.execute(f"GRANT USAGE ON SCHEMA pgtrickle TO {role}".encode())
        conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA pgtrickle TO {role}".encode())
    with connect_source(dsn) as connection:
        report = look(connection, fetch_facts(connection, dsn), installation, runner.REVISIONS)
    assert {finding.code for finding in report.stops} == {"not_readable"}
    assert "public.orders" in {finding.subject for finding in report.stops}
    assert all("pg_read_all_data" in finding.hint for finding in report.stops if finding.hint)


def test_immediate_stream_tables_are_refused_by_name_or_told(old_server: Server, dbname: str) -> None:
    old_server.sql(
        "DROP TABLE pgtrickle.alembic_version; INSERT INTO pgtrickle.pgt_stream_tables"
        " (pgt_relid, pgt_name, pgt_schema, defining_query, refresh_mode)"
        " VALUES (1, 'now', 'public', 'SELECT 1', 'IMMEDIATE')",
        dbname=dbname,
    )
    dsn = old_server.dsn(dbname)
    with connect_source(dsn) as connection:
        facts = fetch_facts(connection, dsn)
        assert named(look_at_immediate(connection, facts, "differential")) == [("immediate", "public.now")]
        with pytest.raises(PreflightError) as caught:
            look_at_immediate(connection, facts, "refuse")
    assert named(caught.value.findings) == [("immediate", "public.now")]


@pytest.mark.parametrize(
    "change",
    [
        lambda dsn: dsn.replace("dbname=", "dbname=no_such_"),
        lambda dsn: dsn.replace("password=", "password=wrong"),
        lambda dsn: dsn.replace("user=", "user=nobody_"),
    ],
    ids=["database", "password", "role"],
)
def test_wrong_dsn_is_refused_without_its_password(
    old_installation: OldInstallation, change: Callable[[str], str]
) -> None:
    with pytest.raises(ConnectionRefusedByInput) as caught:
        look_around(RehearsalOptions(dsn=change(old_installation.dsn)))
    text = caught.value.message + caught.value.hint
    assert old_installation.server.password not in text
    assert "host=127.0.0.1" in text
    assert caught.value.exit_code == 2


def test_unsupported_server_is_refused_by_name(
    old_installation: OldInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.rehearsal.source.SUPPORTED_MAJORS", (17,))
    with pytest.raises(RefusedError, match=r"runs PostgreSQL 18\.\d+; supported are 17"):
        look_around(RehearsalOptions(dsn=old_installation.dsn))


def test_role_that_may_not_replicate_gives_no_base_backup(old_server: Server, dbname: str) -> None:
    role = f"reader_{secrets.token_hex(4)}"
    old_server.create_role(role)
    with old_server.connect(dbname) as conn:
        conn.execute(f"GRANT pg_read_all_data TO {role}".encode())
    with pytest.raises(MissingPrivilegeError, match="may not take a base backup"):
        look_around(RehearsalOptions(dsn=old_server.dsn(dbname, user=role), copy="physical"))
