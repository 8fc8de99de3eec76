"""``harness demo`` as a person uses it, on Citus and on plain PostgreSQL, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.postgres.places import base_dir
from scenarios.fixtures.skips import without_citus_anywhere

Run = Callable[..., "subprocess.CompletedProcess[str]"]
# Enough for a delta, few enough for a test: what is measured is not judged at this size.
FEW = ("--rows", "20000")
# What the command promises a person, on two cores.
PROMISED_S = 20


@pytest.fixture
def run() -> Iterator[Run]:
    """Run ``harness demo`` with a run directory of this test's own, which must be empty afterwards."""
    place = base_dir() / f"d{os.getpid()}"
    place.mkdir(mode=0o711)
    environment = os.environ | {
        "HARNESS_RUN_DIR": str(place),
        "HARNESS_CACHE_DIR": str(base_dir() / "cache"),
        "COLUMNS": "100",
    }

    def harness(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "demo", *arguments]
        return subprocess.run(
            command, env=environment | variables, capture_output=True, text=True, timeout=120, check=False
        )

    yield harness
    left = [str(path) for path in place.rglob("*") if not path.is_dir() and path.suffix != ".lock"]
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.rmdir()
    assert left == []


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "harness/demo/1"
    assert found["passed"] is True
    assert found["difference"]["is_equal"] is True
    assert {each["refresh"]["action"] for each in found["rounds"]} == {"DIFFERENTIAL"}
    assert found["explanation"]["statements"]
    assert sum(found["pending"].values()) > 0
    return found


@pytest.mark.citus(">= 13")
def test_demo_on_citus_shows_placements_on_both_workers(run: Run) -> None:
    found = document(run("--json", *FEW))
    assert found["why_plain"] is None
    assert found["nodes"] == ["coordinator", "worker-1", "worker-2"]
    assert [(table["name"], table["rows"], table["placement"]) for table in found["tables"]] == [
        ("shop.orders", 20_000, "distributed by customer_id"),
    ]
    assert all(table["shards_by_node"] == {"worker-1": 2, "worker-2": 2} for table in found["tables"])


@pytest.mark.citus(">= 13")
def test_demo_keeps_its_promise_in_time(run: Run) -> None:
    # Of three runs the first that keeps it: the machine may have other things to do.
    runs = (document(run("--json")) for _ in range(3))
    found = next((each for each in runs if each["elapsed_s"] < PROMISED_S), None)
    assert found is not None
    assert found["tables"][0]["rows"] == 500_000
    assert found["stream_table"]["placement"] == "distributed"
    assert found["stream_table_placement"]["placement"] == "distributed by customer_id"
    assert found["ratio"] > 1


def test_demo_on_plain_postgresql_says_why_and_tells_the_same_story(run: Run) -> None:
    found = document(run("--on", "plain", "--json", *FEW))
    assert found["why_plain"] == "asked for with --on plain"
    assert found["nodes"] == ["server"]
    assert [table["placement"] for table in found["tables"]] == ["local"]
    assert found["stream_table"]["placement"] == "local"


def test_demo_without_citus_goes_on_with_plain_postgresql(run: Run) -> None:
    done = run(*FEW, **without_citus_anywhere())
    assert done.returncode == 0, done.stderr
    assert "no Citus here: no PostgreSQL with Citus was found" in done.stdout
    chapters = ("1. Tables", "2. A stream table", "3. Changes", "4. A refresh", "5. The SQL", "6. What it costs")
    for chapter in (*chapters, "recomputing", "ratio", "row for row", "nothing is left behind"):
        assert chapter in done.stdout
    refused = run("--on", "citus", **without_citus_anywhere())
    assert refused.returncode == 3
    assert "no PostgreSQL with Citus was found" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("arguments", [("--rows", "1"), ("--on", "moon"), ("--rows", "many")], ids=" ".join)
def test_demo_with_bad_input_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
