"""``harness cluster`` as a person uses it: up, status, psql, down, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.clusters import existing_cluster
from harness.postgres.installations import wheel_bindir
from harness.postgres.places import base_dir
from harness.waiting import wait_until

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """A run directory of this test's own, short enough for sockets, on the disk of the template cache."""
    place = base_dir() / f"t{os.getpid()}"
    place.mkdir(mode=0o711)
    yield os.environ | {"HARNESS_RUN_DIR": str(place), "HARNESS_CACHE_DIR": str(base_dir() / "cache"), "COLUMNS": "200"}
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.rmdir()


@pytest.fixture
def run(environment: dict[str, str]) -> Iterator[Run]:
    def harness(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", *arguments]
        return subprocess.run(
            command, env=environment | variables, capture_output=True, text=True, timeout=60, check=False
        )

    yield harness
    harness("cluster", "down", "--name", "play")


def _document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.usefixtures("citus_installation")
def test_cluster_up_outlives_its_command_and_goes_with_down(run: Run, environment: dict[str, str]) -> None:
    started = run("cluster", "up", "--name", "play", "--workers", "1", "--json")
    assert started.returncode == 0, started.stderr
    up = _document(started)
    assert up["passed"] is True
    assert up["schema"].startswith("urn:")
    assert [node["name"] for node in up["nodes"]] == ["coordinator", "worker-1"]
    state = Path(environment["HARNESS_RUN_DIR"]) / "clusters" / "play.json"
    assert state.stat().st_mode & 0o777 == 0o600
    passwords = {
        Path(node["password_file"]).read_text(encoding="utf-8").strip().rpartition(":")[2] for node in up["nodes"]
    }

    again = run("cluster", "up", "--name", "play")
    assert again.returncode == 2
    assert "'play' runs already" in again.stderr

    other = run("cluster", "up", "--name", "other", "--workers", "0")  # its sweep leaves the first one alone
    assert other.returncode == 0, other.stderr
    assert run("cluster", "down", "--name", "other").returncode == 0

    status = run("cluster", "status", "--name", "play", "--json")
    assert status.returncode == 0, status.stdout
    assert [node["is_running"] for node in _document(status)["nodes"]] == [True, True]

    asked = run("cluster", "psql", "--name", "play", "--node", "worker-1", "-c", "SELECT count(*) FROM pg_dist_node")
    assert asked.returncode == 0, asked.stderr
    assert "2" in asked.stdout
    assert run("cluster", "psql", "--name", "play", "--node", "worker-9").returncode == 2

    # Nothing that was printed or written down knows the password; the files that do are the owner's alone.
    told = started.stdout + again.stderr + status.stdout + asked.stdout + state.read_text(encoding="utf-8")
    assert not any(password in told for password in passwords)
    with existing_cluster(f"{up['dsn']}?passfile={up['password_file']}&sslmode=disable") as found:
        assert len(found.workers) == 1

    down = run("cluster", "down", "--name", "play", "--json")
    assert down.returncode == 0, down.stderr
    assert not any(Path(node["directory"]).exists() for node in up["nodes"])
    twice = run("cluster", "down", "--name", "play")
    assert twice.returncode == 2
    assert "no cluster named 'play'" in twice.stderr


@pytest.mark.usefixtures("citus_installation")
def test_cluster_status_of_a_killed_worker_is_not_healthy(run: Run) -> None:
    up = _document(run("cluster", "up", "--name", "play", "--workers", "1", "--json"))
    pids = {
        node["name"]: node["pid"] for node in _document(run("cluster", "status", "--name", "play", "--json"))["nodes"]
    }
    postmaster = psutil.Process(pids["worker-1"])
    postmaster.kill()
    wait_until("the worker to be gone", lambda: not postmaster.is_running(), deadline_s=10)
    status = run("cluster", "status", "--name", "play", "--json")
    assert status.returncode == 1
    assert [node["problem"] for node in _document(status)["nodes"]] == [None, "does not run"]
    assert run("cluster", "down", "--name", "play").returncode == 0
    assert not any(Path(node["directory"]).exists() for node in up["nodes"])


def test_cluster_status_of_an_unknown_name_is_refused(run: Run) -> None:
    done = run("cluster", "status", "--name", "nobody")
    assert done.returncode == 2
    assert "harness cluster up --name nobody" in done.stderr


def test_cluster_name_that_is_none_is_refused(run: Run) -> None:
    done = run("cluster", "up", "--name", "../etc")
    assert done.returncode == 2
    assert "'../etc' is no name" in done.stderr


def test_cluster_up_without_citus_says_where_it_looked(run: Run) -> None:
    wheel = wheel_bindir()
    assert wheel is not None
    done = run("cluster", "up", HARNESS_PG_BINDIR=str(wheel))
    assert done.returncode == 3
    assert "no PostgreSQL with Citus was found" in done.stderr
    assert str(wheel.resolve()) in done.stderr
    assert "Traceback" not in done.stderr
