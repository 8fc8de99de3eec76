"""Rehearsals on a dump: what is brought back that a dump lacks, and which files are refused, by name."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from harness.chain import runner
from harness.errors import BadInputError, HarnessError, PreflightError, UnsupportedVersionError
from harness.postgres import DsnNode, Installation, Node, Server, find_installations
from harness.rehearsal import dump as dumps
from harness.rehearsal.dump import check_is_archive, restored_dump
from harness.rehearsal.model import Verdict
from harness.rehearsal.options import RehearsalOptions
from harness.rehearsal.run import rehearse
from scenarios.fixtures.rehearsals import OldInstallation
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.upgrade.small_installation import build_small_installation, write_changes

# What a name may hold, in a line whose words are parted by blanks; and a name that looks like a line.
HOSTILE = """
CREATE ROLE "the owner" NOLOGIN;
CREATE ROLE "o""dd" NOLOGIN;
CREATE SCHEMA "a b" AUTHORIZATION "the owner";
CREATE TABLE "a b"."c d" (id int PRIMARY KEY);
CREATE TABLE "a b"."c" (id int PRIMARY KEY);
CREATE TABLE "a b"."two
lines; 1259 1 TABLE" (id int);
CREATE DOMAIN "a b"."a type" AS int;
ALTER TABLE "a b"."c d" OWNER TO "o""dd";
ALTER TABLE "a b"."c" OWNER TO "the owner";
GRANT SELECT ON public.orders TO "the owner";
"""
TRACKED: LiteralString = (
    "SELECT source_relid::regclass::text, slot_name, source_relid::bigint FROM pgtrickle.pgt_change_tracking"
)
SNAPSHOTS: LiteralString = "SELECT source_relid::regclass::text, column_snapshot::text FROM pgtrickle.pgt_dependencies"


def captured_rows(node: Node, tracked: list[TupleRow]) -> dict[str, int]:
    """How many rows the buffer of each source holds."""
    query = sql.SQL("SELECT count(*) FROM pgtrickle_changes.{}")
    return {name: node.value(query.format(sql.Identifier(f"changes_{oid}"))) for name, _slot, oid in tracked}


def hear_nothing(_message: str, _fraction: float | None) -> None:
    """Progress that nobody asked for."""


@pytest.fixture(scope="module")
def source(installation: Installation) -> Iterator[Server]:
    """A server with installations as a dump can hold them: at 0001, at 0004, and of 0.2 without its extension."""
    server = Server.create(installation, name="dumped")
    try:
        server.start()
        for dbname, revision in (("first", "0001"), ("half", "0004"), ("unowned", "0001")):
            server.create_database(dbname)
            build_small_installation(DsnNode(dbname, server.dsn(dbname)))
            runner.upgrade(server.dsn(dbname), revision)
        with server.connect("half") as conn:
            conn.execute(HOSTILE.encode())
            write_changes(conn)
        server.sql("DROP TABLE pgtrickle.alembic_version", dbname="unowned")
        yield server
    finally:
        server.destroy()


def dump(server: Server, dbname: str, place: Path, *options: str) -> Path:
    """What pg_dump makes of a database."""
    name = f"{dbname}-{len(list(server.scratch_dir.iterdir()))}"
    server.run("pg_dump", *options, f"--file={name}", dbname=dbname)
    target = place / f"{dbname}.dump"
    shutil.move(server.scratch_dir / name, target)
    return target


@pytest.fixture(scope="module")
def archive(source: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A custom dump of the installation at 0004."""
    return dump(source, "half", tmp_path_factory.mktemp("dumps"), "--format=custom")


@pytest.mark.parametrize("dbname", ["half", "unowned"])
def test_dump_is_rehearsed_as_the_database_would_be(dbname: str, source: Server, tmp_path: Path) -> None:
    file = dump(source, dbname, tmp_path, "--format=custom")
    result = rehearse(RehearsalOptions(dump=file, seed=3))
    assert [check for check in result.checks if check.verdict is Verdict.FAILED] == []
    assert result.passed
    assert result.source_dsn == f"dump {dbname}.dump of PostgreSQL {source.installation.version}"
    assert result.warnings == ()
    asked = source.value("SELECT count(DISTINCT source_relid) FROM pgtrickle.pgt_change_tracking", dbname=dbname)
    assert result.sources == asked == 3
    assert result.revisions[0].revision == ("0002" if dbname == "unowned" else "0005")


@pytest.mark.parametrize("form", ["custom", "directory", "tar"])
def test_each_form_has_its_names_by_oid_and_its_pending_rows(form: str, source: Server, tmp_path: Path) -> None:
    file = dump(source, "first", tmp_path, f"--format={form}")
    with restored_dump(file, jobs=2, say=hear_nothing) as restored:
        node, original = DsnNode("dump", restored.dsn), DsnNode("first", source.dsn("first"))
        there, here = sorted(original.rows(TRACKED)), sorted(node.rows(TRACKED))
        assert [row[0] for row in here] == [row[0] for row in there]
        assert [row[1] for row in here] == [f"pg_trickle_cdc_{row[2]}" for row in here]
        assert {row[2] for row in here} != {row[2] for row in there}
        assert captured_rows(node, here) == captured_rows(original, there)
        assert sorted(node.rows(SNAPSHOTS)) == sorted(original.rows(SNAPSHOTS))
        node.close()
        original.close()
        root = restored.server.root
    assert not root.exists()


def test_names_with_blanks_owners_and_rights_come_back(archive: Path) -> None:
    with restored_dump(archive, jobs=1, say=hear_nothing) as restored:
        node = DsnNode("dump", restored.dsn)
        owners: dict[str, str] = dict(
            node.rows(
                "SELECT relname, relowner::regrole::text FROM pg_class WHERE relnamespace = '\"a b\"'::regnamespace"
            )
        )
        assert owners["c"] == '"the owner"'
        assert owners["c d"] == '"o""dd"'
        assert node.value("""SELECT has_table_privilege('the owner', 'public.orders', 'SELECT')""")
        node.close()
        assert restored.warnings == ()


def test_relations_are_found_by_the_longest_name_that_fits() -> None:
    lines = (
        "1; 1259 17000 TABLE a b c d owner",
        "2; 1259 17001 TABLE a b c owner",
        "3; 1259 17002 VIEW a b c d e owner",
        "4; 1259 17003 TABLE nothing here owner",
        "5; 0 0 COMMENT a b TABLE c owner",
        "6; 1259 17004 SEQUENCE a b c owner",
    )
    archive = dumps._Archive(Path("x"), lines, "18.6", 18, None)  # type: ignore[arg-type]
    restored = [("a b", "c d"), ("a b", "c"), ("a", "b c d e")]
    found = dumps._named(archive, 1259, ("TABLE ", "VIEW "), restored)
    assert found == {17000: ("a b", "c d"), 17001: ("a b", "c"), 17002: ("a", "b c d e")}


def test_transaction_ids_of_the_dump_lie_behind_the_server(source: Server, tmp_path: Path) -> None:
    """A captured row names the transaction that wrote it; the server that was dumped may be far ahead of a new one."""
    buffer = source.value(
        "SELECT relname::text FROM pg_class WHERE relname ~ '^changes_' AND relkind = 'r' LIMIT 1", dbname="half"
    )
    far = 7 * 2**32 + 5
    query = sql.SQL("UPDATE pgtrickle_changes.{} SET xid = {}::text::xid8")
    source.sql(query.format(sql.Identifier(buffer), sql.Literal(str(far))), dbname="half")
    file = dump(source, "half", tmp_path, "--format=custom")
    with restored_dump(file, jobs=1, say=hear_nothing) as restored:
        assert restored.server.value("SELECT pg_current_xact_id()::text::numeric::bigint") > far


def test_installation_that_its_extension_owns_is_refused_since_a_dump_lacks_its_rows(
    old_installation: OldInstallation, tmp_path: Path
) -> None:
    file = dump(old_installation.server, old_installation.dbname, tmp_path, "--format=custom")
    with pytest.raises(PreflightError) as caught:
        rehearse(RehearsalOptions(dump=file))
    assert [finding.code for finding in caught.value.findings] == ["dump_without_catalog_rows"]
    assert "--dsn" in caught.value.findings[0].hint


def test_database_without_a_catalog_is_refused(source: Server, tmp_path: Path) -> None:
    file = dump(source, "postgres", tmp_path, "--format=custom")
    with pytest.raises(PreflightError) as caught:
        rehearse(RehearsalOptions(dump=file))
    assert [finding.code for finding in caught.value.findings] == ["no_catalog"]


def test_half_a_catalog_is_refused_as_in_a_database(source: Server, tmp_path: Path) -> None:
    source.close()  # a template must be left by all
    source.create_database("halved", template="unowned")
    source.sql("DROP TABLE pgtrickle.pgt_dependencies CASCADE", dbname="halved")
    with pytest.raises(PreflightError) as caught:
        rehearse(RehearsalOptions(dump=dump(source, "halved", tmp_path, "--format=custom")))
    assert {finding.code for finding in caught.value.findings} == {"half_catalog"}


def test_dump_of_another_version_is_refused_by_its_name(
    archive: Path, source: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = source.installation.version
    for other, told in (("19.1", "from PostgreSQL 19.1; supported are"), ("16.9", "from PostgreSQL 16.9; supported")):
        forged = tmp_path / f"{other}.dump"
        forged.write_bytes(archive.read_bytes().replace(version.encode(), other.encode()[: len(version)], 1))
        with pytest.raises(UnsupportedVersionError, match=told):
            rehearse(RehearsalOptions(dump=forged))
    newer = bytearray(archive.read_bytes())
    newer[6] = 99  # the archive's own minor version
    (tmp_path / "newer.dump").write_bytes(newer)
    with pytest.raises(BadInputError, match="unsupported version") as caught:
        rehearse(RehearsalOptions(dump=tmp_path / "newer.dump"))
    assert "HARNESS_PG_BINDIR" in caught.value.hint


def test_dump_newer_than_what_is_here_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tuple(one for one in find_installations() if one.is_supported)
    older = [type(one)(**{**one.__dict__, "major": 17, "version": "17.2"}) for one in here[:1]]
    monkeypatch.setattr(dumps, "find_installations", lambda: older)
    if here[0].major == 17:
        skip_not_applicable("the dump is from 17")
    with pytest.raises(UnsupportedVersionError, match=r"the newest that is here is 17\.2"):
        rehearse(RehearsalOptions(dump=archive))


def test_file_that_is_no_archive_is_refused_by_what_it_is(source: Server, tmp_path: Path) -> None:
    script = dump(source, "first", tmp_path, "--format=plain")
    packed = tmp_path / "first.sql.gz"
    packed.write_bytes(gzip.compress(script.read_bytes()))
    (tmp_path / "cluster.sql").write_text("--\n-- PostgreSQL database cluster dump\n--\n", encoding="ascii")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello", encoding="ascii")
    (tmp_path / "directory").mkdir()
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("toc"), io.BytesIO())
    for name, told in (
        ("first.dump", "is a script"),
        ("first.sql.gz", "compressed with gzip"),
        ("cluster.sql", "pg_dumpall"),
        ("empty", "is empty"),
        ("text", "is no dump of pg_dump"),
        ("other.tar", "is no dump of pg_dump"),
        ("directory", "cannot be read: No such file"),
        ("nothing", "cannot be read: No such file"),
    ):
        with pytest.raises(BadInputError, match=told) as caught:
            check_is_archive(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert caught.value.hint


def test_dump_that_ends_too_early_is_refused_and_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Server] = []
    create = Server.create

    def remember(*arguments: object, **options: object) -> Server:
        made.append(create(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(Server, "create", remember)
    for share in (0.05, 0.97):
        cut = tmp_path / f"{share}.dump"
        cut.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
        with pytest.raises(BadInputError) as caught:
            rehearse(RehearsalOptions(dump=cut))
        assert str(cut) in caught.value.message
    assert len(made) == 1
    assert not made[0].root.exists()


@pytest.mark.parametrize(
    "options",
    [RehearsalOptions(dump=Path("x"), dsn="dbname=x"), RehearsalOptions(dump=Path("x"), copy="physical")],
    ids=["dsn", "physical"],
)
def test_two_sources_or_a_base_backup_of_a_dump_are_refused(options: RehearsalOptions) -> None:
    with pytest.raises(HarnessError, match="dump") as caught:
        rehearse(options)
    assert caught.value.exit_code == 2


def test_command_rehearses_a_dump_and_says_how_to_again(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "rehearse", "--dump", str(archive), "--report", str(tmp_path / "r")]
    done = subprocess.run(
        [*command, "--summary", str(tmp_path / "s.md")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"--dump {archive}" in done.stdout
    assert "dump half.dump of PostgreSQL" in (tmp_path / "s.md").read_text(encoding="utf-8")
