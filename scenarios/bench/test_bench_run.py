"""A smoke run on real Citus and what is made of it; runs without Citus; what is refused; Ctrl-C leaves nothing."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lxml import etree, html

from harness.bench.model import Profile
from harness.bench.registry import choose_groups
from harness.postgres.places import cache_dir
from harness.postgres.processes import processes_below
from harness.report import load_schema
from harness.waiting import wait_until
from scenarios.bench.commands import run, start
from scenarios.fixtures.skips import without_citus_anywhere


class Smoke:
    """What one smoke run left behind."""

    def __init__(self, place: Path) -> None:
        self.out, self.html, self.junit = place / "smoke.json", place / "smoke.html", place / "junit.xml"
        files = ("--out", self.out, "--html", self.html, "--junit", self.junit, "--summary", place / "summary.md")
        self.done = run("run", "--profile", "smoke", "--json", *files, HARNESS_REQUIRE_CITUS="1")
        self.summary = (place / "summary.md").read_text(encoding="utf-8")

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.done.stdout)
        return document


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    return Smoke(tmp_path_factory.mktemp("smoke"))


@pytest.mark.slow
@pytest.mark.citus(">= 13")
def test_smoke_run_passes_on_a_cluster_and_every_answer_is_right(smoke: Smoke) -> None:
    assert smoke.done.returncode == 0, smoke.done.stderr
    document = smoke.document
    jsonschema.validate(document, load_schema("bench-1"))
    assert document["passed"] is True
    assert [group["name"] for group in document["groups"]] == [group.name for group in choose_groups([], Profile.SMOKE)]
    for group in document["groups"]:
        assert group["skipped"] == "", group
        assert group["checks"], f"{group['name']} looked at no answer"
        assert all(check["passed"] for check in group["checks"])
        assert group["ratios"], f"{group['name']} compared nothing"
    assert document["facts"]["Citus"] != "none"


@pytest.mark.slow
@pytest.mark.citus(">= 13")
def test_smoke_run_says_the_same_in_every_file(smoke: Smoke) -> None:
    document = smoke.document
    assert json.loads(smoke.out.read_text(encoding="utf-8")) == document
    page = " ".join(html.parse(smoke.html).getroot().itertext())
    for goal in document["goals"]:
        assert goal["name"] in page
    assert document["answer"] in page
    cases = etree.parse(smoke.junit).getroot()
    assert cases.attrib["failures"] == "0"
    assert len(cases.findall("testsuite")) == 1 + len(document["groups"])
    assert document["verdict"].split(";")[0] in smoke.done.stderr
    assert "passed" in smoke.summary.splitlines()[0]


@pytest.mark.slow
@pytest.mark.citus(">= 13")
def test_result_is_compared_with_itself_and_with_a_worse_one(smoke: Smoke, tmp_path: Path) -> None:
    done = run("compare", smoke.out, smoke.out, "--json")
    assert done.returncode == 0, done.stderr
    same = json.loads(done.stdout)
    jsonschema.validate(same, load_schema("bench-compare-1"))
    assert {ratio["change"] for ratio in same["ratios"]} == {"noise"}
    assert same["differences"] == []

    document = smoke.document
    ratio = next(ratio for group in document["groups"] for ratio in group["ratios"] if ratio["better"] == "lower")
    high = ratio["interval"]["high"]
    ratio["interval"] = {"value": high * 3, "low": high * 2.9, "high": high * 3.1}
    worse = tmp_path / "worse.json"
    worse.write_text(json.dumps(document), encoding="utf-8")
    done = run("compare", smoke.out, worse, "--json", "--summary", tmp_path / "summary.md")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(each["name"], each["change"]) for each in found["ratios"] if each["fails"]] == [(ratio["name"], "worse")]
    assert "1 worse" in (tmp_path / "summary.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.citus(">= 13")
def test_page_is_made_again_from_the_document(smoke: Smoke, tmp_path: Path) -> None:
    done = run("report", smoke.out, "--html", tmp_path / "again.html")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'again.html'}\n"), done.stderr
    titles = [html.parse(path).findtext(".//title") for path in (smoke.html, tmp_path / "again.html")]
    assert titles[0] == titles[1] == "Passed: what capture and refresh cost"


@pytest.fixture
def without_citus() -> dict[str, str]:
    """An environment in which only the wheel's PostgreSQL is found."""
    return without_citus_anywhere()


def test_without_citus_what_needs_none_runs_and_says_what_is_missing(
    without_citus: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "starts.json"
    done = run("run", "starts", "matrix", "--profile", "smoke", "--out", out, **without_citus)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    jsonschema.validate(document, load_schema("bench-1"))
    starts, matrix = document["groups"]
    assert (starts["skipped"], [each["name"] for each in starts["measurements"]]) == ("", ["server"])
    assert matrix["skipped"].startswith("environment: no PostgreSQL with Citus was found")
    assert document["facts"]["missing"] == matrix["skipped"]
    assert document["facts"]["Citus"] == "none"
    # What goes on is told in lines where there is no terminal.
    assert "starts: begins  (about" in done.stderr
    assert "PASSED" in done.stdout


def test_chain_on_more_and_more_sources_keeps_what_was_captured(tmp_path: Path) -> None:
    out = tmp_path / "migrations.json"
    done = run("run", "migrations", "--profile", "smoke", "--plain", "--out", out)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(out.read_text(encoding="utf-8"))["groups"]
    names = [check["name"] for check in group["checks"]]
    assert sorted(names) == ["down/10", "down/40", "up/10", "up/40"]
    assert [line["name"] for line in group["series"]] == ["up", "down"]
    assert [ratio["name"] for ratio in group["ratios"]] == ["up/40 : up/10, a source"]


@pytest.mark.parametrize(("arguments", "required"), [(["matrix"], "0"), (["starts"], "1")])
def test_without_citus_that_is_needed_or_required_nothing_runs(
    without_citus: dict[str, str], tmp_path: Path, arguments: list[str], required: str
) -> None:
    out = tmp_path / "none.json"
    variables = without_citus | {"HARNESS_REQUIRE_CITUS": required}
    done = run("run", *arguments, "--profile", "smoke", "--json", "--out", out, **variables)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no PostgreSQL with Citus was found" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_existing_cluster_is_not_measured() -> None:
    done = run("run", "starts", "--cluster", "host=127.0.0.1 port=1 dbname=x connect_timeout=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.fixture
def own_run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path
        assert processes_below(path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_neither_servers_nor_files(
    own_run_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    variables = {"HARNESS_RUN_DIR": str(own_run_dir), "HARNESS_CACHE_DIR": str(cache_dir())}
    process = start("run", "starts", "--profile", "full", "--plain", "--out", tmp_path / "out.json", **variables)
    try:
        wait_until("a server of the run", lambda: processes_below(own_run_dir), deadline_s=60)
        process.send_signal(number)
        out, complaint = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, out) == (3, "")
    assert "Traceback" not in complaint
    assert list(tmp_path.iterdir()) == []
    left = [path for path in (own_run_dir / "servers").iterdir() if path.is_dir()]
    assert left == []
