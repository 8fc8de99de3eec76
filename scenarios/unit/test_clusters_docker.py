"""Why there are no clusters in containers: each cause is recognised within 5 s and said in one line."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clusters.docker import look_at_docker, require_docker
from harness.clusters.providers import choose_provider
from harness.errors import BadInputError, CitusMissingError, EnvironmentMissingError, UnsupportedVersionError
from harness.postgres.addresses import read_node_addresses
from harness.settings import load_settings


@pytest.fixture(autouse=True)
def settings_are_read_again() -> Iterator[None]:
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def _look_within_5_s() -> str:
    started = time.monotonic()
    found = look_at_docker()
    assert time.monotonic() - started < 5.5
    assert "\n" not in found.problem
    if found.problem:
        assert found.hint
        with pytest.raises(EnvironmentMissingError, match="no clusters in containers") as refused:
            require_docker()
        assert found.problem in refused.value.message
    return found.problem


def test_socket_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert _look_within_5_s() == "no daemon: its socket is not there"


def test_address_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert _look_within_5_s() == "no daemon: nobody listens at its address"


def test_socket_without_the_right_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: str) -> None:
        raise PermissionError(13, "Permission denied")  # root may do everything: an ordinary user gets this

    monkeypatch.setattr("harness.clusters.docker._knock", refuse)
    assert _look_within_5_s() == "this user has no right to Docker's socket"


def test_daemon_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        problem = look_at_docker().problem
        assert time.monotonic() - started < 15, "it waits for ever where nobody gives up"
    assert "not answer" in problem


class _OldDaemon(http.server.BaseHTTPRequestHandler):
    """Answers every question with its version, as Docker 1.13 did."""

    def do_GET(self) -> None:
        self.answer(200, {"Version": "1.13.1", "ApiVersion": "1.26", "MinAPIVersion": "1.12"})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library calls it so
        """Say nothing on the terminal."""


def test_engine_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _OldDaemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_address[1]}")
        try:
            assert _look_within_5_s() == "the engine is too old: 1.13.1, interface 1.26"
        finally:
            server.shutdown()


class _NewDaemon(_OldDaemon):
    """Refuses what speaks its language of some years ago, as Docker 29 does."""

    def do_GET(self) -> None:
        if self.path == "/version":
            self.answer(200, {"Version": "29.0.1", "ApiVersion": "1.52", "MinAPIVersion": "1.44"})
        elif self.path.startswith("/v1.52/images/json"):
            self.answer(200, [])
        elif self.path.startswith("/v1.52/images/"):
            self.answer(404, {"message": "No such image"})
        else:
            self.answer(400, {"message": "client version 1.41 is too old. Minimum supported API version is 1.44"})


def test_engine_that_knows_no_old_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NewDaemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_address[1]}")
        try:
            found = look_at_docker()
        finally:
            server.shutdown()
    assert (found.problem, found.daemon_version, found.citus_images) == ("", "29.0.1", ())


def test_no_password_in_what_is_said_of_a_dsn() -> None:
    for wrong in ("postgresql://u:s3cretPw%zz@h/x", "u:s3cretPw@host:5432/x", "postgresql://u:s3cretPw@[::1/x"):
        with pytest.raises(BadInputError) as refused:
            choose_provider(wrong)
        assert "s3cretPw" not in refused.value.message + refused.value.hint


def test_word_that_names_no_kind_of_cluster_is_refused() -> None:
    with pytest.raises(BadInputError, match="'remote' says nothing of a cluster"):
        choose_provider("remote")


def test_neither_citus_nor_docker_says_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none_here() -> None:
        raise CitusMissingError("no PostgreSQL with Citus: looked nowhere", hint="install it")

    monkeypatch.setattr("harness.clusters.providers.choose_citus_installation", none_here)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.delenv("HARNESS_CLUSTER", raising=False)
    with pytest.raises(CitusMissingError) as missing:
        choose_provider()
    assert "looked nowhere" in missing.value.message
    assert "its socket is not there" in missing.value.message
    assert "install it" in missing.value.hint


def test_local_citus_of_another_version_falls_back_to_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong_pair() -> None:
        raise UnsupportedVersionError("Citus 12.1 on PostgreSQL 16 is not supported")

    monkeypatch.setattr("harness.clusters.providers.choose_citus_installation", wrong_pair)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.delenv("HARNESS_CLUSTER", raising=False)
    with pytest.raises(CitusMissingError, match=r"Citus 12\.1 on PostgreSQL 16 is not supported; no clusters in"):
        choose_provider()
    with pytest.raises(UnsupportedVersionError):
        choose_provider("local")


def test_daemon_elsewhere_needs_a_word_about_its_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.clusters.container_runtime import _reached_at  # noqa: PLC0415 - imports Docker's client

    monkeypatch.setenv("DOCKER_HOST", "tcp://docker:2375")
    with pytest.raises(BadInputError, match="daemon is on docker"):
        _reached_at()
    monkeypatch.setenv("HARNESS_DOCKER_PUBLISH", "0.0.0.0")  # noqa: S104 - what is tested
    load_settings.cache_clear()
    assert _reached_at() == ("docker", "0.0.0.0")  # noqa: S104
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert _reached_at() == ("127.0.0.1", "0.0.0.0")  # noqa: S104


def test_addresses_of_nodes_are_read_and_nonsense_is_named() -> None:
    assert read_node_addresses(" w1:5432=127.0.0.1:15432, w2:5432=localhost:2 ,") == {
        ("w1", 5432): ("127.0.0.1", 15432),
        ("w2", 5432): ("localhost", 2),
    }
    with pytest.raises(BadInputError, match=r"'w1=127\.0\.0\.1', which names no node"):
        read_node_addresses("w1=127.0.0.1")
