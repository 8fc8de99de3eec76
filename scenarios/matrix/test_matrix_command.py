"""``harness matrix`` as a person and a pipeline use it: a table, a document, JUnit, a page, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree, html

from scenarios.fixtures.skips import without_citus_anywhere

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run() -> Run:
    def harness(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "HARNESS_REQUIRE_CITUS"}
        return subprocess.run(
            [sys.executable, "-m", "harness", "matrix", *arguments],
            env=environment | {"COLUMNS": "200"} | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return harness


@pytest.fixture
def without_citus() -> dict[str, str]:
    """An environment in which only the wheel's PostgreSQL is found."""
    return without_citus_anywhere()


@pytest.mark.citus(">= 13")
def test_rows_that_were_asked_for_run_and_are_reported_in_every_form(run: Run, tmp_path: Path) -> None:
    junit, page = tmp_path / "junit.xml", tmp_path / "matrix.html"
    done = run("--row", "3", "--row", "1", "--json", "--junit", str(junit), "--html", str(page))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["passed"]) == ("harness/matrix/1", True)
    assert [(row["number"], row["verdict"], row["reason"]) for row in document["rows"]] == [
        (1, "passed", ""),
        (3, "passed", ""),
    ]
    third = document["rows"][1]
    assert third["name"] == "distributed_to_local"
    assert third["elapsed_s"] > 0
    assert third["topology"]["cluster"] == "1+2"
    assert third["topology"]["changes of orders were captured on every worker"].count("group") == 2
    assert third["counts"]["orders"] == third["counts"]["totals"] > 0
    assert "2 of 2 rows passed" in done.stderr

    cases = etree.parse(junit).getroot().findall("testsuite/testcase")
    assert [case.attrib["name"] for case in cases] == ["row_01_local_regression", "row_03_distributed_to_local"]
    assert not any(case.findall("failure") or case.findall("skipped") for case in cases)
    assert "1+2" in (cases[1].findtext("system-out") or "")
    text = " ".join(html.parse(page).getroot().itertext())
    assert "Passed" in text
    assert "worker-1: 3 on each of 2 shards" in text


def test_without_citus_row_one_runs_and_the_others_say_what_is_missing(
    run: Run, without_citus: dict[str, str], tmp_path: Path
) -> None:
    junit = tmp_path / "junit.xml"
    done = run("--row", "1", "--row", "3", "--json", "--junit", str(junit), **without_citus)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["passed"] is True
    first, third = document["rows"]
    assert (first["verdict"], first["topology"]["cluster"]) == ("passed", "one server")
    assert (third["verdict"], third["topology"], third["elapsed_s"]) == ("skipped", {}, 0)
    assert third["reason"].startswith("environment: no PostgreSQL with Citus was found")
    skipped = etree.parse(junit).getroot().find(".//testcase[@name='row_03_distributed_to_local']/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == third["reason"]


def test_without_citus_that_is_required_every_row_fails_with_the_reason(
    run: Run, without_citus: dict[str, str]
) -> None:
    done = run("--json", HARNESS_REQUIRE_CITUS="1", **without_citus)
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert document["passed"] is False
    assert {row["verdict"] for row in document["rows"]} == {"failed"}
    assert len(document["rows"]) == 10
    assert all("no PostgreSQL with Citus was found" in row["reason"] for row in document["rows"])
    assert "Traceback" not in done.stderr


def test_rows_that_all_need_citus_prove_nothing_without_it(run: Run, without_citus: dict[str, str]) -> None:
    done = run("--row", "3", **without_citus)
    assert done.returncode == 3
    assert "no PostgreSQL with Citus was found" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--row", "11"], "no row 11"), (["--junit", "/no/such/place/junit.xml"], "/no/such/place/junit.xml")],
)
def test_bad_option_is_refused_by_its_value(run: Run, arguments: list[str], named: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
