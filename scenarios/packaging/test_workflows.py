"""The pipelines: what they promise, the shell in them, and those in the documents."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.clusters import SUPPORTED_PAIRS
from scenarios.fixtures.skips import skip_not_applicable

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCUMENT = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
_PINNED = re.compile(r"uses: (?:\./\S+|[\w.-]+/[\w./-]+@[0-9a-f]{40} # v[\d.]+)(?: #.*)?$")


def load(path: Path) -> dict[Any, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def steps_of(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_may_only_read_ends_in_time_and_pins_what_it_uses(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert "uses" in job or job["timeout-minutes"], name
        assert "permissions" not in job, name
    uses = [line.strip().removeprefix("- ") for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert [line for line in uses if not _PINNED.match(line)] == []
    for step in steps_of(workflow):
        # Values come by the environment: in a shell's text they would be part of the program.
        assert "${{" not in step.get("run", ""), step
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_every_supported_pair_and_python_is_tested() -> None:
    jobs = load(ROOT / ".github/workflows/ci.yml")["jobs"]
    scenarios = jobs["scenarios"]
    pairs = {
        int(one["postgres"]): int(one["citus"].partition(".")[0]) for one in scenarios["strategy"]["matrix"]["include"]
    }
    assert pairs == dict(SUPPORTED_PAIRS)
    assert scenarios["env"]["HARNESS_REQUIRE_CITUS"] == scenarios["env"]["HARNESS_DOCKER_PULL"] == "1"
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    commands = " ".join(step.get("run", "") for job in jobs.values() for step in job.get("steps", []))
    environments = set(re.findall(r"^\[testenv:(\w+)\]", (ROOT / "tox.ini").read_text("utf-8"), re.MULTILINE))
    named = {name for group in re.findall(r"tox (?:-c \S+ )?-e ([\w,]+)", commands) for name in group.split(",")}
    assert named <= environments
    assert named >= {"lint", "types", "tests", "bench", "actionlint"}


def test_workflows_hold_before_actionlint() -> None:
    program = shutil.which("actionlint")
    if program is None:
        skip_not_applicable("actionlint is not installed here; tox -e actionlint has it, where GitHub is reached")
    done = subprocess.run([program, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------------------------------- the step that rehearses

_HARNESS = """#!{python}
import json, os, pathlib, sys
arguments = sys.argv[1:]
place = pathlib.Path(__file__).parent
place.joinpath("called").write_text(json.dumps([arguments, os.environ.get("HARNESS_REHEARSE_DSN")]))
pathlib.Path(arguments[arguments.index("--summary") + 1]).write_text("## what came of it\\n")
sys.exit(int(os.environ["ENDS_WITH"]))
"""


class Step:
    """The step of the reusable workflow that rehearses, run by bash as a runner does."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.programs = place / "temp" / "venv" / "bin"
        self.programs.mkdir(parents=True)
        harness = self.programs / "harness"
        harness.write_text(_HARNESS.format(python=sys.executable), encoding="utf-8")
        harness.chmod(0o755)
        step = next(step for step in steps_of(load(ROOT / ".github/workflows/rehearse.yml")) if step.get("id"))
        self.script = step["run"]
        self.variables = set(step["env"])

    def run(self, ends_with: int = 0, /, **variables: str) -> subprocess.CompletedProcess[str]:
        given = {name: variables.get(name, "") for name in self.variables}
        files = {name: str(self.place / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        runner = {"RUNNER_TEMP": str(self.place / "temp"), "PATH": os.environ["PATH"], "ENDS_WITH": str(ends_with)}
        return subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.script],
            env={**given, **files, **runner},
            cwd=self.place,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    @property
    def called(self) -> tuple[list[str], str]:
        """What the command was given: arguments, and the DSN in its environment."""
        arguments, dsn = json.loads((self.programs / "called").read_text(encoding="utf-8"))
        return arguments, dsn

    def written(self, name: str) -> str:
        path = self.place / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path)


def test_step_keeps_the_secret_out_of_the_arguments_and_passes_on_what_came_of_it(step: Step) -> None:
    done = step.run(1, HARNESS_REHEARSE_DSN="postgresql://me:hunter2@h/d", OPTIONS="--crash  --threads 4")
    assert done.returncode == 1
    arguments, dsn = step.called
    assert arguments[:4] == ["rehearse", "--crash", "--threads", "4"]
    assert dsn == "postgresql://me:hunter2@h/d"
    assert "hunter2" not in " ".join(arguments) + done.stdout + done.stderr
    assert step.written("GITHUB_OUTPUT") == "exit-code=1\n"
    assert step.written("GITHUB_STEP_SUMMARY") == "## what came of it\n"


def test_step_takes_a_dump_from_the_artifact_or_from_the_repository(step: Step) -> None:
    assert step.run(DUMP="a b;$(exit 9).dump").returncode == 0
    assert step.called[0][:3] == ["rehearse", "--dump", "a b;$(exit 9).dump"]
    assert step.run(DUMP="shop.dump", DUMP_ARTIFACT="shop").returncode == 0
    assert step.called[0][2] == f"{step.place}/temp/dump/shop.dump"


@pytest.mark.parametrize("given", [{}, {"DUMP": "x", "HARNESS_REHEARSE_DSN": "dbname=x"}], ids=["neither", "both"])
def test_step_refuses_neither_and_both(step: Step, given: dict[str, str]) -> None:
    done = step.run(0, **given)
    assert done.returncode == 2
    assert "::error::give the input dump" in done.stdout
    assert not (step.programs / "called").exists()


# --------------------------------------------------------------------------------------------------- bench smoke


def benchmarks(path: Path, **medians_s: float) -> Path:
    entries = [
        {"fullname": f"benchmarks/x.py::{name}", "stats": {"median": median}} for name, median in medians_s.items()
    ]
    path.write_text(json.dumps({"benchmarks": entries}), encoding="utf-8")
    return path


def summarise(before: Path, now: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / ".github/bench_summary.py"), str(before), str(now)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_bench_comparison_shows_ratios_and_what_is_worth_a_look(tmp_path: Path) -> None:
    before = benchmarks(tmp_path / "before.json", same=0.001, slow=0.010, gone=1)
    done = summarise(before, benchmarks(tmp_path / "now.json", same=0.0011, slow=0.020, new=2))
    assert done.returncode == 0
    assert "3 benchmarks, 2 of them compared with what was before; 1 took at least 1.5 times as long." in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| <code>")]
    assert [row.split("|")[2:5] for row in rows] == [
        [" 1.00 s ", " \u2013 ", " \u2013 "],
        [" \u2013 ", " 2.00 s ", " \u2013 "],
        [" 1.00 ms ", " 1.10 ms ", " 1.10 "],
        [" 10.0 ms ", " 20.0 ms ", " 2.00 "],
    ]


def test_bench_comparison_without_a_before_says_so_and_without_a_now_fails(tmp_path: Path) -> None:
    now = benchmarks(tmp_path / "now.json", one=1)
    done = summarise(tmp_path / "nothing.json", now)
    assert (done.returncode, "nothing to compare with" in done.stdout) == (0, True)
    assert summarise(now, tmp_path / "nothing.json").returncode == 1


# --------------------------------------------------------------------------------------------------- the documents


def blocks() -> list[Any]:
    return [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]


def test_inputs_are_documented_with_their_defaults() -> None:
    call = load(ROOT / ".github/workflows/rehearse.yml")[True]["workflow_call"]  # YAML 1.1 reads "on" as true
    documented = dict(re.findall(r"^\| `([\w-]+)` \|\s*`?([^`|]*?)`?\s*\|", DOCUMENT, re.MULTILINE))
    assert {name: str(given["default"]) for name, given in call["inputs"].items()} == documented
    assert all(f"`{name}`" in DOCUMENT for name in (*call["secrets"], *call["outputs"]))


def test_callers_in_the_document_give_what_the_workflow_takes() -> None:
    call = load(ROOT / ".github/workflows/rehearse.yml")[True]["workflow_call"]
    callers = [
        job for block in blocks() for job in block.get("jobs", {}).values() if "rehearse.yml" in job.get("uses", "")
    ]
    assert len(callers) == 2
    for job in callers:
        assert set(job.get("with", {})) <= set(call["inputs"])
        assert set(job.get("secrets", {})) <= set(call["secrets"])


def test_gitlab_pipeline_is_whole_and_holds_no_secret() -> None:
    pipeline = next(block for block in blocks() if "stages" in block)
    jobs = {name: job for name, job in pipeline.items() if name != "stages"}
    for name, job in jobs.items():
        if name.startswith("."):
            continue
        assert job["extends"] in jobs
        assert job["stage"] in pipeline["stages"]
        assert job["script"]
        assert job["artifacts"]["when"] == "always"
        assert job["artifacts"]["reports"]["junit"]
        assert "HARNESS_REHEARSE_DSN" not in job.get("variables", {})
    assert jobs["stream-tables"]["variables"]["HARNESS_DOCKER_PUBLISH"] == "0.0.0.0"  # noqa: S104 - the job's own network
