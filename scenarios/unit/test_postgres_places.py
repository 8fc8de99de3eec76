"""Users, directories, ports and passwords: what keeps servers apart."""

from __future__ import annotations

import os
import pwd
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import BadInputError, DiskFullError, EnvironmentMissingError, PortTakenError
from harness.postgres import places, ports
from harness.postgres.configuration import check_settings, hba_text, render
from harness.postgres.identity import SystemUser, can_enter, can_read_tree, child_environment, server_user
from harness.postgres.passwords import make_password, password_file, read_password_file, scram_verifier
from harness.postgres.ports import is_free, lease_port
from harness.settings import load_settings
from scenarios.fixtures.skips import skip_not_applicable

SetVariable = Callable[[str, str], None]
STRANGER = SystemUser("stranger", 54321, 54321, is_dropped_to=True)


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetVariable]:
    """Sets a variable of the environment; settings are read anew."""

    def change(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        load_settings.cache_clear()

    yield change
    monkeypatch.undo()
    load_settings.cache_clear()


def test_root_drops_to_an_ordinary_user(set_variable: SetVariable) -> None:
    if os.geteuid() != 0:
        assert (server_user().uid, server_user().is_dropped_to) == (os.geteuid(), False)
        skip_not_applicable("only root drops")
    assert server_user().uid != 0
    set_variable("HARNESS_PG_USER", "nobody")
    assert server_user().name == "nobody"
    for name in ("root", "no-such-user"):
        set_variable("HARNESS_PG_USER", name)
        with pytest.raises(BadInputError, match=f"HARNESS_PG_USER='{name}'"):
            server_user()


def test_root_without_anybody_to_drop_to_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_here(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", nobody_here)
    with pytest.raises(EnvironmentMissingError, match="neither a user postgres nor nobody"):
        server_user()


def test_readable_tree_is_told_from_a_closed_one() -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "file").write_text("x")
        (top / "file").chmod(0o644)
        assert can_enter(top, STRANGER)
        assert can_read_tree(top, STRANGER)
        (top / "file").chmod(0o600)
        assert not can_read_tree(top, STRANGER)
        top.chmod(0o700)
        assert not can_enter(top, STRANGER)


def test_child_gets_none_of_our_pg_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hush")
    monkeypatch.setenv("PGOPTIONS", "-c fsync=on")
    assert {name for name in child_environment(Path("/")) if name.startswith("PG")} == {"PGCLIENTENCODING"}


def test_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    shared.chmod(0o777)
    link.symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for path in (shared, link, tmp_path / "file"):
        with pytest.raises(BadInputError, match=str(path)):
            places.own_directory(path)


def test_run_dir_that_the_servers_user_cannot_enter_is_refused(set_variable: SetVariable) -> None:
    if os.geteuid() != 0:
        skip_not_applicable("an ordinary user's servers enter what it can enter")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o700)
        set_variable("HARNESS_RUN_DIR", f"{name}/run")
        with pytest.raises(BadInputError, match=r"HARNESS_RUN_DIR=.*cannot be entered"):
            places.run_dir()


def test_run_dir_below_a_file_is_refused(set_variable: SetVariable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    set_variable("HARNESS_RUN_DIR", str(tmp_path / "file" / "run"))
    with pytest.raises(BadInputError, match="HARNESS_RUN_DIR="):
        places.run_dir()


def test_disk_without_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="MiB free"):
        places.require_room(tmp_path, 2**60)


def test_port_is_leased_once() -> None:
    first = lease_port()
    try:
        with pytest.raises(PortTakenError, match=str(first.port)):
            lease_port(first.port)
        second = lease_port(ports=[first.port, *ports.PORT_RANGE])
        assert second.port != first.port
        second.release()
    finally:
        first.release()
    lease_port(first.port).release()


def test_port_that_someone_listens_on_is_passed_over() -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortTakenError, match=f"port {port} on 127.0.0.1 is taken"):
            lease_port(port)
        with pytest.raises(EnvironmentMissingError, match="no port"):
            lease_port(ports=[port])
    with pytest.raises(BadInputError, match="port 80 "):
        lease_port(80)


def test_passwords_differ_and_survive_the_password_file() -> None:
    words = {"postgres": make_password(), 'odd:"\\role': "a:b\\c"}
    assert words["postgres"] != make_password()
    assert read_password_file(password_file(words, 24000)) == words
    assert re.fullmatch(r"SCRAM-SHA-256\$1:[\w+/=]{24}\$[\w+/=]{44}:[\w+/=]{44}", scram_verifier("x"))


def test_configuration_gives_each_setting_a_reason_and_trusts_nobody() -> None:
    lines = render("server", 24000, Path("/s"), {"a.b": "it's"}).splitlines()
    ours = lines[: lines.index("# asked for by the caller")]
    assert all(line.startswith("# ") for line in ours[::2])
    assert lines[-1] == "a.b = 'it''s'"
    assert {line.split()[-1] for line in hba_text().splitlines()} == {"scram-sha-256"}
    with pytest.raises(BadInputError, match="Listen_Addresses"):
        check_settings({"Listen_Addresses": "*"})
