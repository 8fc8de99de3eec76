"""Whole rehearsals: of a demonstration, of an installation by its DSN, through crashes, and cut short in every step."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from harness.chain import runner
from harness.chain.revisions import REVISIONS, revisions_after
from harness.errors import CheckFailedError, DiskFullError, HarnessError, ServerGoneError
from harness.postgres import Server
from harness.rehearsal.demonstration import build_demonstration
from harness.rehearsal.model import RehearsalResult, Verdict
from harness.rehearsal.options import STEPS, Progress, RehearsalOptions
from harness.rehearsal.run import rehearse
from scenarios.fixtures.rehearsals import OldInstallation, build_old_installation, provide_extension
from scenarios.fixtures.servers import MakeServer

SMALL = RehearsalOptions(sources=24, rows=2000, seed=11)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """Every server that is made during the test."""
    servers: list[Server] = []
    create = Server.create

    def remember(*arguments: object, **options: object) -> Server:
        servers.append(create(*arguments, **options))  # type: ignore[arg-type]
        return servers[-1]

    monkeypatch.setattr(Server, "create", remember)
    return servers


def assert_nothing_left(made: list[Server]) -> None:
    assert made
    for server in made:
        assert not server.is_running
        assert not server.root.exists()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("writer")]


def assert_passed(result: RehearsalResult) -> None:
    failed = [check for check in result.checks if check.verdict is Verdict.FAILED]
    assert failed == []
    assert [(step.name, step.verdict) for step in result.steps] == [(name, Verdict.PASSED) for name in STEPS]
    assert result.passed


def test_demonstration_goes_up_down_and_up_again_with_nothing_lost(made: list[Server]) -> None:
    told: list[Progress] = []
    result = rehearse(SMALL, told.append)
    assert_passed(result)
    assert_nothing_left(made)
    assert [(one.revision, one.direction) for one in result.revisions] == [
        *((revision, "up") for revision in REVISIONS[1:]),
        *((revision, "down") for revision in reversed(REVISIONS[1:])),
        *((revision, "up") for revision in REVISIONS[1:]),
    ]
    assert result.sources == 24
    assert result.writes > 0
    assert result.upgrade_s > 0
    assert all(one.sources_moved == 24 for one in result.revisions if one.revision in ("0002", "0006"))
    assert {"cpus", "postgresql", "fsync", "seed"} <= result.facts.keys()
    assert list(dict.fromkeys(event.step for event in told)) == list(STEPS)
    assert all(event.fraction is None or 0 <= event.fraction <= 1 for event in told)


def test_demonstration_survives_a_crash_in_every_revision(made: list[Server]) -> None:
    result = rehearse(RehearsalOptions(sources=24, rows=2000, seed=12, crash=True))
    assert_passed(result)
    assert [one.crashes for one in result.revisions] == [1] * 3 * (len(REVISIONS) - 1)
    assert_nothing_left(made)


def test_installation_of_the_extension_is_rehearsed_on_a_copy(
    old_installation: OldInstallation, made: list[Server]
) -> None:
    result = rehearse(RehearsalOptions(dsn=old_installation.dsn, seed=13))
    assert_passed(result)
    assert result.sources == 3
    assert old_installation.server.password not in repr(result)
    assert result.source_dsn.startswith("host=127.0.0.1 port=")
    assert_nothing_left(made)


def test_installation_of_the_extension_is_rehearsed_on_a_base_backup(
    make_server: MakeServer, made: list[Server]
) -> None:
    server = make_server(name="source")
    provide_extension(server)
    old = build_old_installation(server, "shop")
    server.sql("DROP VIEW shop.refreshable", dbname="shop")  # it needs the library, which adopting takes away
    made.clear()
    assert_passed(rehearse(RehearsalOptions(dsn=old.dsn, seed=14, copy="physical")))
    assert_nothing_left(made)
    assert server.value("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trickle'", dbname="shop") == 1


def test_installation_that_is_half_way_is_rehearsed_from_there(make_server: MakeServer, made: list[Server]) -> None:
    """Awkward tables at revision 0004, by stable names, with transaction ids in their buffers; a dump has all of it."""
    server = make_server(name="source")
    server.create_database("half")
    dsn = server.dsn("half")
    runner.upgrade(dsn, "0001")
    with server.connect("half") as conn:
        build_demonstration(conn, rows=2000, seed=15)
    runner.upgrade(dsn, "0004")
    made.clear()
    result = rehearse(RehearsalOptions(dsn=dsn, seed=15))
    assert_passed(result)
    rest = revisions_after("0004")
    assert [(one.revision, one.direction) for one in result.revisions] == [
        *((revision, "up") for revision in rest),
        *((revision, "down") for revision in reversed(rest)),
        *((revision, "up") for revision in rest),
    ]
    assert runner.current_revision(dsn) == "0004"
    assert_nothing_left(made)


def at(step: str, action: Callable[[], None]) -> Callable[[Progress], None]:
    """A listener that acts once, when a step says its second word (its first is that it begins)."""
    words: list[str] = []

    def listen(event: Progress) -> None:
        if event.step == step:
            words.append(event.message)
            if len(words) == 2:
                action()

    return listen


def kill_all(servers: list[Server]) -> None:
    for server in servers:
        server.kill()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_in_any_step_leaves_nothing(made: list[Server], step: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        rehearse(SMALL, at(step, interrupt))
    if step != "look":
        assert_nothing_left(made)


def test_ctrl_c_while_copying_leaves_nothing(old_installation: OldInstallation, made: list[Server]) -> None:
    with pytest.raises(KeyboardInterrupt):
        rehearse(RehearsalOptions(dsn=old_installation.dsn, seed=1), at("copy", interrupt))
    assert_nothing_left(made)


@pytest.mark.parametrize("step", ["check", "up", "check_down"])
def test_copy_that_dies_on_the_way_is_told(made: list[Server], step: str) -> None:
    with pytest.raises(ServerGoneError, match="died in the middle") as caught:
        rehearse(SMALL, at(step, lambda: kill_all(made)))
    assert caught.value.exit_code == 3
    assert_nothing_left(made)


def test_source_that_dies_on_the_way_is_told(make_server: MakeServer, made: list[Server]) -> None:
    server = make_server(name="source")
    provide_extension(server)
    old = build_old_installation(server, "shop")
    made.clear()
    with pytest.raises(HarnessError) as caught:
        rehearse(RehearsalOptions(dsn=old.dsn, seed=1), at("copy", server.kill))
    assert "nothing was changed there" in caught.value.hint
    assert server.password not in caught.value.message
    assert_nothing_left(made)


@pytest.mark.parametrize("error", [psycopg.errors.DiskFull("full"), OSError(28, "No space left on device")])
def test_full_disk_on_the_way_is_told(made: list[Server], monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fill(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("harness.rehearsal.contents.take_first", fill)
    with pytest.raises(DiskFullError, match="no room left"):
        rehearse(SMALL)
    assert_nothing_left(made)


def test_too_small_a_disk_is_told_before_anything_is_made(made: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.rehearsal.look._SPARE_BYTES", 2**62)
    with pytest.raises(DiskFullError, match="a copy needs about"):
        rehearse(SMALL)
    assert made == []


def test_revision_that_fails_is_a_failed_rehearsal_with_its_reason(
    made: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = runner.upgrade

    def fail(dsn: str, revision: str = "head", **options: object) -> None:
        if revision == "0004":
            raise CheckFailedError("revision 0004 up: a column is missing", hint="find it")
        upgrade(dsn, revision, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "upgrade", fail)
    result = rehearse(SMALL)
    assert not result.passed
    verdicts = {step.name: step.verdict for step in result.steps}
    assert verdicts["up"] is Verdict.FAILED
    assert verdicts["check_up"] is Verdict.PASSED, "what is half up has lost nothing"
    assert [name for name in STEPS if verdicts[name] is Verdict.SKIPPED] == [
        "down",
        "check_down",
        "up_again",
        "compare",
    ]
    assert "a column is missing" in next(step.detail for step in result.steps if step.name == "up")
    assert_nothing_left(made)
