"""The house keeps its word: documents, settings, the pipeline and the package say the same."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from harness import errors
from harness.settings import CitusSettings, Settings
from scenarios.fixtures.skips import skip_not_applicable

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands_of_the_readme() -> list[str]:
    section = read("README.md").split("## Two commands", 1)[1].split("\n## ", 1)[0]
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)]


def test_readme_has_two_one_line_commands_that_do_their_own_setup() -> None:
    found = commands_of_the_readme()
    assert len(found) == 2
    for command in found:
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert found[0].endswith("harness rehearse")


def test_pipeline_runs_the_tests_with_the_readmes_command() -> None:
    assert commands_of_the_readme()[1] in read(".ci/run")
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert not re.search(r"^[^#]*HARNESS_REQUIRE_CITUS", read(".ci/run"), re.MULTILINE)


@pytest.mark.parametrize(("ratios", "tests", "code"), [(0, 0, 0), (3, 0, 3), (0, 5, 5), (3, 5, 3)])
def test_pipeline_ends_with_the_code_of_what_failed_first(tmp_path: Path, ratios: int, tests: int, code: int) -> None:
    commands = {
        "bin/python3": "",
        ".venv/bin/pip": "",
        ".venv/bin/tox": f'case "$*" in *ratios*) exit {ratios};; *tests*) echo "== 1 in 2.0s =="; exit {tests};; esac',
        ".ci/run": read(".ci/run"),
    }
    for name, text in commands.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    done = subprocess.run(
        [tmp_path / ".ci/run"],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "== 1 in 2.0s =="


def test_documented_settings_are_those_that_exist() -> None:
    documented = re.findall(
        r"^\| `((?:HARNESS|CITUS)_[A-Z_]+)` \| .* \| (.*) \|$", read("docs/settings.md"), re.MULTILINE
    )
    existing = [
        (prefix + name.upper(), field.description)
        for prefix, model in (("HARNESS_", Settings), ("CITUS_", CitusSettings))
        for name, field in model.model_fields.items()
    ]
    assert documented == existing


def test_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d) \|", read("README.md"), re.MULTILINE)}
    assert documented == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


def test_each_dependency_has_its_reason() -> None:
    text = read("pyproject.toml")
    declared = tomllib.loads(text)["project"]["dependencies"]
    lines = text.split("dependencies = [", 1)[1].split("\n]", 1)[0].splitlines()
    for requirement in declared:
        number = next(number for number, line in enumerate(lines) if f'"{requirement}"' in line)
        assert "#" in lines[number] or lines[number - 1].lstrip().startswith("#"), requirement


def test_hooks_before_a_commit_are_local() -> None:
    assert set(re.findall(r"repo: (\S+)", read(".pre-commit-config.yaml"))) == {"local"}


# What a room may not import: those above it, and those beside it.
UPPER = {
    *("citus", "chain", "trickle", "engines", "inspectors", "scheduler", "faults", "chaos"),
    *("matrix", "rehearsal", "report", "bench", "mcp", "cli", "pytest_plugin"),
}
ABOVE_STREAM_TABLES = {"scheduler", "faults", "chaos", "matrix", "rehearsal", "report", "bench", "cli", "pytest_plugin"}
ABOVE = {
    "postgres": {"clusters", *UPPER},
    "clusters": UPPER,
    "citus": UPPER - {"citus"},
    "chain": {"engines", "inspectors", "mcp", *ABOVE_STREAM_TABLES},
    "trickle": {"engines", "inspectors", "mcp", *ABOVE_STREAM_TABLES},
    "engines": {"inspectors", "mcp", *ABOVE_STREAM_TABLES},
    "scheduler": {"faults", "chaos", "matrix", "rehearsal", "report", "bench", "cli", "pytest_plugin"},
    "faults": {"chaos", "matrix", "rehearsal", "report", "bench", "cli", "pytest_plugin"},
    "chaos": {"rehearsal", "bench", "cli", "pytest_plugin"},
    "matrix": {"report", "bench", "cli", "pytest_plugin"},
    "rehearsal": {"matrix", "report", "bench", "cli", "pytest_plugin"},
    "report": {"bench", "cli", "chain", "clusters", "postgres", "pytest_plugin"},
    "bench": {"chaos", "cli", "pytest_plugin"},
    # It renders its own page, as bench does.
    "inspectors": {"scheduler", "faults", "chaos", "matrix", "rehearsal", "bench", "mcp", "cli", "pytest_plugin"},
    "mcp": {"scheduler", "faults", "chaos", "matrix", "rehearsal", "bench", "cli", "pytest_plugin"},
    "cli": {"pytest_plugin"},
}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", ABOVE)
def test_imports_point_down(room: str) -> None:
    forbidden = {f"harness.{name}" for name in ABOVE[room]}
    for path in (ROOT / "harness" / room).rglob("*.py"):
        upward = {name for name in imports_of(path) if ".".join(name.split(".")[:2]) in forbidden}
        assert not upward, path


def test_migrations_import_nothing_of_the_harness() -> None:
    for path in (ROOT / "migrations").rglob("*.py"):
        assert not {name for name in imports_of(path) if name.split(".")[0] == "harness"}, path


def test_installed_package_holds_what_it_reads() -> None:
    try:
        files = {str(file) for file in metadata.files("pgtrickle-citus-harness") or ()}
    except metadata.PackageNotFoundError:
        skip_not_applicable("the package is not installed here (tox installs it)")
    if "harness/__init__.py" not in files:
        skip_not_applicable("the package is installed as editable")
    read_at_run_time = {".py", ".j2", ".css", ".json", ".sql", ".mako"}
    expected = {
        str(path.relative_to(ROOT))
        for folder in ("harness", "migrations")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in read_at_run_time or path.name == "py.typed"
    }
    assert expected <= files
