"""The pytest plugin in projects that are not ours: fixtures, options, skips, and that nothing is left."""

from __future__ import annotations

import ast
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict

import harness
from harness.clusters.running import MOST_WORKERS
from harness.postgres import Installation, find_installations
from harness.postgres.places import cache_dir
from harness.postgres.processes import processes_below
from harness.pytest_plugin import options
from harness.waiting import wait_until
from scenarios.fixtures.clusters import MakeCluster
from scenarios.fixtures.skips import skip_not_applicable
from scenarios.plugin.projects import (
    CLUSTER,
    FACTORY,
    NAMES_ITS_CLUSTER,
    PLAIN,
    STREAM_TABLES,
    UNUSED,
    WAITS,
)

pytest_plugins = ["pytester"]

HOME = Path(harness.__file__).parents[1]
IS_INSTALLED = "trickle" in {point.name for point in metadata.entry_points(group="pytest11")}
# Where it is installed, its entry point loads it.
LOADS = () if IS_INSTALLED else ("-p", "harness.pytest_plugin")
FROM_HERE = ("-p", "no:cacheprovider", *LOADS)
TIMEOUT_S = 120.0


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> Iterator[Path]:
    """Where the project's servers live: nothing may be left there. Templates come from the common cache."""
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(cache_dir()))
    for name in ("HARNESS_CLUSTER", "HARNESS_REQUIRE_CITUS", "CITUS_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(HOME))
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        path = Path(name)
        path.chmod(0o711)
        monkeypatch.setenv("HARNESS_RUN_DIR", name)
        yield path
        servers = path / "servers"
        assert [left for left in (servers.iterdir() if servers.exists() else ()) if left.is_dir()] == []
        assert processes_below(path) == []


Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, run_dir: Path) -> Run:
    """Run pytest in the project, in a process of its own."""

    def go(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(*FROM_HERE, "-rs", *arguments, timeout=TIMEOUT_S)

    return go


@pytest.fixture
def without_citus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a PostgreSQL without Citus can be found, and no Docker."""
    plain = next((one for one in find_installations() if one.is_supported and one.citus_version is None), None)
    if plain is None:
        skip_not_applicable("every PostgreSQL here has Citus")
    monkeypatch.setenv("HARNESS_PG_BINDIR", str(plain.bindir))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def test_fixtures_on_plain_postgresql(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_plain=PLAIN, test_stream_tables=STREAM_TABLES, test_cluster=CLUSTER)
    result = run("--trickle-cluster", "none")
    result.assert_outcomes(passed=4, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*not applicable: trickle_cluster is none, this run has no cluster"])


@pytest.mark.citus
def test_fixtures_on_a_real_cluster(
    pytester: pytest.Pytester, run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # First, so that the harness is imported while a test has a stderr of its own; logs are written after it.
    pytester.makepyfile(test_0_factory=FACTORY, test_1_cluster=CLUSTER, test_2_stream_tables=STREAM_TABLES)
    monkeypatch.setenv("HARNESS_LOG_LEVEL", "info")
    pytester.makeini("[pytest]\ntrickle_settings =\n  work_mem = 5MB\n  log_statement = 'ddl'\n")
    wanted = request.config.getoption("--cluster", None)
    if wanted not in (None, "local", "containers"):
        skip_not_applicable("the factory needs clusters that can be started")
    result = run(*(() if wanted is None else ("--trickle-cluster", wanted)))
    result.assert_outcomes(passed=5)


@pytest.mark.citus
def test_existing_cluster_is_used_and_left_as_it_was(
    pytester: pytest.Pytester, run: Run, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster(workers=1)
    databases = "SELECT array_agg(datname::text ORDER BY datname) FROM pg_database"
    before = [node.value(databases) for node in cluster.nodes]
    pytester.makepyfile(
        test_stream_tables=STREAM_TABLES,
        test_factory=FACTORY,
        test_workers="def test_workers(citus_cluster):\n    assert len(citus_cluster.workers) == 1\n",
    )
    monkeypatch.setenv("HARNESS_CLUSTER", cluster.coordinator.dsn())
    # Another process reaches the nodes of a cluster in containers at other addresses than they do each other.
    reached = [(node.address, conninfo_to_dict(node.dsn())) for node in cluster.nodes]
    addresses = (f"{name}:{port}={here['host']}:{here['port']}" for (name, port), here in reached)
    monkeypatch.setenv("HARNESS_NODE_ADDRESSES", ",".join(addresses))
    result = run("--trickle-workers", "1")
    result.assert_outcomes(passed=3, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*names an existing cluster, which is not broken"])
    assert [node.value(databases) for node in cluster.nodes] == before
    pytester.makeini("[pytest]\ntrickle_settings = work_mem = 5MB\n")
    result = run("--trickle-workers", "1", "-k", "test_workers")
    result.stdout.fnmatch_lines(["*trickle_settings cannot be given to an existing cluster*"])
    assert result.ret == 1


@pytest.mark.citus
def test_each_worker_of_xdist_has_a_cluster_of_its_own(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(NAMES_ITS_CLUSTER)
    result = run("-n", "2")
    result.assert_outcomes(passed=4)
    said = {path.name.split("-")[0]: path.read_text(encoding="ascii") for path in pytester.path.glob("gw*")}
    assert len(said) == len(set(said.values())) == 2


def test_missing_citus_is_a_typed_skip_that_says_what_to_do(
    pytester: pytest.Pytester, run: Run, without_citus: None
) -> None:
    pytester.makepyfile(test_cluster=CLUSTER, test_stream_tables=STREAM_TABLES, test_factory=FACTORY, test_plain=PLAIN)
    result = run()
    result.assert_outcomes(passed=2, skipped=5)
    result.stdout.fnmatch_lines(["SKIPPED*environment: *Citus*"])


def test_missing_citus_fails_where_nothing_may_be_missing(
    pytester: pytest.Pytester, run: Run, without_citus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_cluster=CLUSTER)
    for ini, variable, told in (
        ("trickle_require = true", "", "trickle_require is set"),
        ("", "1", "HARNESS_REQUIRE_CITUS is set"),
    ):
        pytester.makeini(f"[pytest]\n{ini}\n")
        monkeypatch.setenv("HARNESS_REQUIRE_CITUS", variable)
        result = run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines([f"*environment: *Citus*{told}*"])
        result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("option", "ini", "told"),
    [
        (("--trickle-cluster", "lokal"), "", "--trickle-cluster: 'lokal' is no way to a cluster; use auto, local*"),
        ((), "trickle_cluster = lokal", "trickle_cluster: 'lokal' is no way to a cluster*"),
        (("--trickle-workers", "33"), "", "--trickle-workers: '33' is no number of workers; use 0 to 32"),
        (("--trickle-workers=-1",), "", "--trickle-workers: '-1' is no number of workers*"),
        ((), "trickle_workers = two", "trickle_workers: 'two' is no number of workers*"),
        ((), "trickle_require = perhaps", "trickle_require: 'perhaps' is neither true nor false"),
        ((), "trickle_settings = work_mem", "trickle_settings: 'work_mem' is not NAME = VALUE"),
    ],
)
def test_wrong_value_is_a_usage_error_that_names_it(
    option: tuple[str, ...], ini: str, told: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(UNUSED)
    pytester.makeini(f"[pytest]\n{ini}\n")
    result = pytester.runpytest_inprocess(*FROM_HERE, *option)  # it ends before anything of the project runs
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{told}"])


def test_dsn_that_leads_nowhere_is_told_without_its_password(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(CLUSTER)
    result = run("--trickle-cluster", "postgresql://me:hunter2@127.0.0.1:1/db")
    assert result.ret == 1
    output = result.stdout.str() + result.stderr.str()
    assert "127.0.0.1:1 cannot be reached" in output
    assert "During handling" not in output
    assert "hunter2" not in output


def test_variable_that_cannot_be_used_is_told_by_its_name(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_server(postgres_server):\n    pass\n")
    monkeypatch.setenv("HARNESS_START_TIMEOUT_S", "soon")
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["HARNESS_START_TIMEOUT_S='soon' cannot be used: *"])


def test_setting_that_does_not_exist_is_told_by_its_name(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(PLAIN)
    pytester.makeini("[pytest]\ntrickle_settings = no_such_setting = 1\n")
    result = run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*no_such_setting*"])


def test_command_line_wins_over_the_ini_file_and_help_has_both(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        "def test_options(trickle_options):\n"
        "    assert (trickle_options.cluster, trickle_options.workers) == ('none', 3)\n"
        "    assert trickle_options.require and trickle_options.settings == {'work_mem': '5MB', 'a.b': 'c = d'}\n"
    )
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\ntrickle_cluster = "local"\ntrickle_workers = "3"\ntrickle_require = "yes"\n'
        'trickle_settings = ["work_mem = 5MB", "a.b = \'c = d\'"]\n'
    )
    run("--trickle-cluster", "none").assert_outcomes(passed=1)
    result = run("--help")
    for name in ("cluster", "workers", "require"):
        result.stdout.fnmatch_lines_random([f"*--trickle-{name}*", f"*trickle_{name} *"])
    result.stdout.fnmatch_lines(["*trickle_settings *"])


def test_unused_it_starts_nothing_and_imports_nothing(pytester: pytest.Pytester, run: Run, run_dir: Path) -> None:
    pytester.makepyfile(UNUSED)
    run().assert_outcomes(passed=1)
    assert list(run_dir.iterdir()) == []


def test_import_costs_milliseconds() -> None:
    program = (
        "import sys, time, pytest; before = set(sys.modules); start = time.perf_counter()\n"
        "import harness.pytest_plugin\n"
        "print(time.perf_counter() - start, *sorted(set(sys.modules) - before))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(HOME)},
        ).stdout.split()
        for _ in range(3)
    ]
    assert set(answers[0][1:]) == {"harness", "harness.pytest_plugin", "harness.pytest_plugin.options"}
    # Seen: 1 to 2 ms; the rest is room for a machine with other things to do.
    assert min(float(answer[0]) for answer in answers) < 0.02


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_run_that_is_ended_removes_its_server(number: signal.Signals, pytester: pytest.Pytester, run_dir: Path) -> None:
    pytester.makepyfile(WAITS)
    said = pytester.path / "server"
    command = [sys.executable, "-m", "pytest", *FROM_HERE]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_until("the server", lambda: said.exists() and said.read_text(encoding="utf-8").strip(), deadline_s=30)
            root, pid = said.read_text(encoding="utf-8").split()
            assert psutil.pid_exists(int(pid))
            process.send_signal(number)
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == (2 if number is signal.SIGINT else 143)
    assert not Path(root).exists()
    assert not psutil.pid_exists(int(pid))


def fixtures_in(path: Path) -> set[str]:
    """The names of the fixtures that a file defines."""
    functions = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef))
    return {
        function.name
        for function in functions
        if any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)
    }


def test_names_are_not_those_of_our_own_scenarios() -> None:
    root = Path(__file__).parents[2]
    plugin = fixtures_in(Path(harness.__file__).parent / "pytest_plugin" / "__init__.py")
    shared = itertools.chain((root / "scenarios/fixtures").glob("*.py"), (root / "scenarios").glob("**/conftest.py"))
    assert plugin >= {"citus_cluster", "citus_cluster_factory", "postgres_server", "migrated", "stream_tables"}
    assert not plugin & set(itertools.chain.from_iterable(fixtures_in(path) for path in shared))


def test_limits_are_those_of_the_harness(installation: Installation) -> None:
    assert options.MOST_WORKERS == MOST_WORKERS
    documented = (Path(__file__).parents[2] / "docs" / "pytest-plugin.md").read_text(encoding="utf-8")
    for name in fixtures_in(Path(harness.__file__).parent / "pytest_plugin" / "__init__.py"):
        assert f"`{name}`" in documented
