"""``harness bench`` without a server: what is refused, what is written when a group breaks off, what an extra lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from harness.bench import run as bench_run
from harness.bench.model import GroupResult, Profile, Tell
from harness.bench.registry import GROUPS, Group
from harness.bench.supply import Supply
from harness.cli import bench as bench_command
from harness.cli.app import app
from harness.errors import HarnessError, ServerGoneError
from harness.report import load_schema
from scenarios.fixtures.bench import make_bench, make_positions, write_bench

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """The command in an empty directory; a refusal's exit code is that of its error."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str | Path) -> Result:
        return CliRunner().invoke(app, ["bench", *map(str, words)], env={"COLUMNS": "200", "NO_COLOR": "1"})

    return command


def refusal(result: Result) -> HarnessError:
    assert isinstance(result.exception, HarnessError), result.output
    assert result.stdout == ""
    return result.exception


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "refesh"], "no group 'refesh'"),
        (["run", "--keep", "../x"], "'../x' is no name"),
        (["run", "--out", "nowhere/x.json"], "--out nowhere/x.json"),
        (["run", "--out", "/proc/x.json"], "--out /proc/x.json"),
        (["run", "--html", "."], "--html ."),
        (["run", "--junit", "nowhere/x.xml"], "--junit nowhere/x.xml"),
        (["run", "--summary", "nowhere/x.md"], "--summary nowhere/x.md"),
        (["run", "--cluster", "penguins"], "'penguins'"),
        (["compare", "a.json", "nothing.json"], "'nothing.json' is no file"),
        (["compare", "a.json", "chaos.json"], "its schema is 'harness/chaos/1'"),
        (["compare", "a.json", "newer.json"], "newer.json is harness/bench/2"),
        (["compare", "a.json", "text.json"], "text.json is no result of harness bench"),
        (["compare", "a.json", "."], ". cannot be read"),
        (["compare", "a.json", "a.json", "--margin", "-5"], "--margin -5"),
        (["report", "newer.json", "--html", "x.html"], "newer.json is harness/bench/2"),
        (["report", "a.json", "--html", "nowhere/x.html"], "--html nowhere/x.html"),
        (["keep", "a.json", "--out", "kept.json"], "1 runs do not say"),
        (["keep", "a.json", "a.json", "a.json", "--out", "nowhere/kept.json"], "--out nowhere/kept.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_by_its_value_and_nothing_is_written(
    invoke: Invoke, tmp_path: Path, words: list[str], named: str
) -> None:
    write_bench(tmp_path / "a.json", make_bench())
    (tmp_path / "chaos.json").write_text('{"schema": "harness/chaos/1"}', encoding="utf-8")
    (tmp_path / "newer.json").write_text('{"schema": "harness/bench/2"}', encoding="utf-8")
    (tmp_path / "text.json").write_text("no document", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    error = refusal(invoke(*words))
    assert error.exit_code == 2
    assert named in error.message
    assert error.hint
    assert sorted(tmp_path.iterdir()) == before


def test_unknown_profile_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("run", "--profile", "quick")
    assert result.exit_code == 2
    assert "'quick'" in result.output


def test_list_has_every_group_and_its_seconds(invoke: Invoke) -> None:
    listed = json.loads(invoke("list", "--json").stdout)
    assert [group["name"] for group in listed["groups"]] == [group.name for group in GROUPS]
    assert listed["groups"][0]["seconds"]["smoke"] == GROUPS[0].seconds[Profile.SMOKE]
    text = invoke("list").stdout
    assert all(group.name in text for group in GROUPS)


class BrokenOff(Group):
    """A group whose server dies."""

    def load(self) -> Callable[[Supply, Profile, Tell], GroupResult]:
        def answer(_supply: Supply, _profile: Profile, _tell: Tell) -> GroupResult:
            raise ServerGoneError("it died", node="worker-1")

        return answer


class Good(Group):
    """A group that found something."""

    def load(self) -> Callable[[Supply, Profile, Tell], GroupResult]:
        return lambda _supply, _profile, _tell: make_positions()


def test_a_run_that_breaks_off_keeps_what_it_found_with_the_error(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = (Good("a", "A", {Profile.SMOKE: 1.0}), BrokenOff("b", "B", {Profile.SMOKE: 1.0}))
    monkeypatch.setattr(bench_command, "choose_groups", lambda _names, _profile: groups)
    monkeypatch.setattr(bench_run, "describe_machine", lambda: {"cpus": "2"})
    result = invoke("run", "--profile", "smoke", "--plain", "--json", "--keep", "now", "--html", "now.html")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    jsonschema.validate(document, load_schema("bench-1"))
    assert (document["passed"], document["error"]) == (False, "b: ServerGoneError [worker-1]: it died")
    assert [group["name"] for group in document["groups"]] == ["positions"]
    assert json.loads((tmp_path / ".benchmarks/harness/now.json").read_text("utf-8")) == document
    assert "What broke it off" in (tmp_path / "now.html").read_text("utf-8")
    assert "about" in result.stderr


def test_kept_results_are_compared_by_name(invoke: Invoke, tmp_path: Path) -> None:
    store = tmp_path / ".benchmarks" / "harness"
    store.mkdir(parents=True)
    write_bench(store / "before.json", make_bench(make_positions()))
    write_bench(store / "now.json", make_bench(make_positions(slower=2)))
    same, worse = invoke("compare", "before", "before"), invoke("compare", "before", "now")
    assert (same.exit_code, worse.exit_code) == (0, 1)
    assert "PASSED" in same.stdout
    assert "nextval/cache_1 : none" in worse.stdout


def test_kept_ratios_of_runs_judge_another_one(invoke: Invoke, tmp_path: Path) -> None:
    runs = [write_bench(tmp_path / f"{seed}.json", make_bench(make_positions(seed=seed))) for seed in range(4)]
    made = invoke("keep", *runs, "--out", "kept.json")
    assert (made.exit_code, made.stdout) == (0, "kept.json: 6 ratios of 4 runs\n")
    jsonschema.validate(json.loads((tmp_path / "kept.json").read_text("utf-8")), load_schema("bench-kept-1"))
    slow = write_bench(tmp_path / "slow.json", make_bench(make_positions(seed=9, slower=2)))
    assert invoke("compare", "kept.json", slow).exit_code == 1
    assert invoke("compare", "kept.json", runs[0]).exit_code == 0


def without(module: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in an installation that does not have a module."""
    program = (
        f"import sys\nsys.modules[{module!r}] = None\nfrom harness.cli import main\n"
        "sys.argv = ['harness', 'bench', *sys.argv[1:]]\nmain()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "words"), [("numpy", ["run", "--plain"]), ("matplotlib", ["run", "--html", "x.html"])]
)
def test_missing_extra_is_named_before_anything_begins(module: str, words: list[str]) -> None:
    done = without(module, *words)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"needs {module}" in done.stderr
    assert "pgtrickle-citus-harness[bench]" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_needs_no_extra_works_without_it(tmp_path: Path) -> None:
    path = write_bench(tmp_path / "a.json", make_bench())
    assert without("numpy", "list").returncode == 0
    assert without("numpy", "compare", path, path).returncode == 0
    done = without("matplotlib", "report", path, "--html", tmp_path / "a.html")
    assert (done.returncode, (tmp_path / "a.html").exists()) == (3, False)
