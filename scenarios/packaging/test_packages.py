"""The wheel and the sdist: what is in them, and that an environment with nothing else of ours does everything.

The dependencies are those of the running environment, by a path file: nothing is downloaded. ``ci.yml`` installs the
wheel with all of them into an empty environment, as a user does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.chain.revisions import REVISIONS
from harness.postgres import Node
from harness.postgres.places import cache_dir
from scenarios.fixtures.skips import skip_environment
from scenarios.plugin.projects import STREAM_TABLES

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
# Beside .py: what the package reads while it runs.
READ_AT_RUN_TIME = {".j2", ".css", ".json", ".sql", ".mako"}


@dataclass(frozen=True)
class Packages:
    """The two files that are uploaded."""

    wheel: Path
    sdist: Path


def check(*command: str | Path, cwd: Path, timeout_s: float = TIMEOUT_S, **extra: str) -> str:
    """Run a command as somebody who has no checkout; what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HARNESS_CLUSTER")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, "HARNESS_CACHE_DIR": str(cache_dir()), "COLUMNS": "200", **extra},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Built from the checkout, without a network."""
    if importlib.util.find_spec("hatchling") is None:
        skip_environment("hatchling is not installed here (it is in the extra scenarios)")
    place = tmp_path_factory.mktemp("dist")
    check(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", place, cwd=ROOT)
    return Packages(next(place.glob("*.whl")), next(place.glob("*.tar.gz")))


def make_environment(place: Path, package: Path) -> Path:
    """A virtual environment with one package of ours in it and nothing else; its directory of programs."""
    if importlib.util.find_spec("pip") is None:
        skip_environment("pip is not installed here")
    check(sys.executable, "-m", "venv", "--without-pip", place, cwd=place.parent)
    programs = place / "bin"
    site = Path(
        check(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip()
    )
    # The dependencies; what is installed in the environment itself comes first.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "--no-compile", "-q"]
    check(sys.executable, "-m", "pip", "--python", programs / "python", "install", *options, package, cwd=place)
    return programs


@pytest.fixture(scope="module")
def from_wheel(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment into which the wheel was installed."""
    return make_environment(tmp_path_factory.mktemp("wheel") / "venv", packages.wheel)


@pytest.fixture(scope="module")
def from_sdist(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment into which the sdist was installed."""
    return make_environment(tmp_path_factory.mktemp("sdist") / "venv", packages.sdist)


def sources() -> set[str]:
    """What belongs to the package, of the files in the checkout."""
    paths = (path for folder in ("harness", "migrations") for path in (ROOT / folder).rglob("*"))
    return {
        str(path.relative_to(ROOT))
        for path in paths
        if path.suffix in READ_AT_RUN_TIME | {".py"} or path.name == "py.typed"
    }


def hashes_below(place: Path) -> dict[str, str]:
    """Each installed file of ours by its path, with the hash of its content."""
    found = (path for name in ("harness", "migrations") for path in (place / name).rglob("*") if path.is_file())
    files = (path for path in found if "__pycache__" not in path.parts)
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def site_of(programs: Path) -> Path:
    """Where the installed package is, as its Python says."""
    answer = check(programs / "python", "-c", "import harness; print(harness.__file__)", cwd=programs.parent)
    place = Path(answer.strip()).parents[1]
    assert place.is_relative_to(programs.parent), "the environment's own package is used"
    return place


def test_wheel_holds_the_package_and_nothing_else(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as wheel:
        names = set(wheel.namelist())
    information = {name for name in names if ".dist-info/" in name}
    assert {name.rsplit("/", 1)[1] for name in information} == {
        *("METADATA", "WHEEL", "RECORD", "LICENSE", "entry_points.txt"),
    }
    assert names - information == sources()


def test_sdist_holds_what_builds_and_explains_the_package(packages: Packages) -> None:
    with tarfile.open(packages.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert sources() <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {
        *("harness", "migrations", "docs"),
        *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "PKG-INFO", ".gitignore"),
    }
    assert not {name for name in names if "__pycache__" in name or name.endswith(".pyc")}


def test_both_install_the_same_files(packages: Packages, from_wheel: Path, from_sdist: Path) -> None:
    installed = hashes_below(site_of(from_wheel))
    assert set(installed) == sources()
    assert installed == hashes_below(site_of(from_sdist))
    assert installed == {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in sources()}


def test_metadata_names_extras_entry_points_and_the_oldest_python(from_wheel: Path) -> None:
    program = (
        "import json; from importlib.metadata import distribution, entry_points as e\n"
        "d = distribution('pgtrickle-citus-harness')\n"
        "print(json.dumps([d.version, d.metadata.get_all('Provides-Extra'), d.metadata['Requires-Python'],"
        " e(group='pytest11', name='trickle')['trickle'].load().__name__]))"
    )
    version, extras, python, plugin = json.loads(check(from_wheel / "python", "-c", program, cwd=from_wheel.parent))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert version == project["version"]
    assert set(extras) == set(project["optional-dependencies"])
    assert python == project["requires-python"]
    assert plugin == "harness.pytest_plugin"


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_commands_work_where_there_is_no_checkout(
    kind: str, from_wheel: Path, from_sdist: Path, tmp_path: Path, database: Node
) -> None:
    harness = {"wheel": from_wheel, "sdist": from_sdist}[kind] / "harness"
    assert check(harness, "--version", cwd=tmp_path).startswith("harness ")
    if kind == "wheel":
        assert "--dump" in check(harness, "rehearse", "--help", cwd=tmp_path)
        assert "PostgreSQL" in check(harness, "doctor", cwd=tmp_path)
    check(harness, "migrate", "up", cwd=tmp_path, HARNESS_DSN=database.dsn())
    assert database.value("SELECT version_num FROM pgtrickle.alembic_version") == REVISIONS[-1]
    assert "pgtrickle" in check(harness, "migrate", "sql", "up", "base", "head", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wheel_rehearses_and_writes_every_form_of_its_report(from_wheel: Path, tmp_path: Path) -> None:
    options = ("--sources", "3", "--rows", "300", "--summary", "s.md")
    check(from_wheel / "harness", "rehearse", *options, cwd=tmp_path)
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"report.html", "report.json", "junit.xml"}
    schema = "from harness.report import load_schema; print(load_schema()['$id'], load_schema('matrix-1')['$id'])"
    assert "rehearsal:1" in check(from_wheel / "python", "-c", schema, cwd=tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that is not ours."""
    (tmp_path / "test_stream_tables.py").write_text(STREAM_TABLES, encoding="utf-8")
    return tmp_path


def test_pytest_finds_the_plugin_by_its_entry_point(from_wheel: Path, project: Path) -> None:
    pytest_of_the_wheel = (from_wheel / "python", "-m", "pytest", "-p", "no:cacheprovider")
    assert "--trickle-cluster" in check(*pytest_of_the_wheel, "--help", cwd=project)
    output = check(*pytest_of_the_wheel, "--trickle-cluster", "none", "-W", "error", cwd=project)
    assert "2 passed" in output
