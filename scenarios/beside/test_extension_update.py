"""The public extension's own update, rehearsed with its own scripts: the command, its documents and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from harness.engines.installed import ExtensionMissingError, extension_version
from harness.rehearsal.extension.model import UpdateOptions
from harness.rehearsal.extension.run import rehearse_update
from harness.rehearsal.extension.scripts import find_extension_installation, script_directories
from harness.rehearsal.model import Verdict
from harness.report import load_schema
from scenarios.fixtures.skips import skip_extension

# The two versions at which its library of 0.67 can make stream tables.
START, TARGET = "0.66.0", "0.67.0"


@pytest.fixture(scope="module")
def scripts() -> tuple[Path, ...]:
    """Directories with the install script of the first version, which the extension does not ship."""
    try:
        installation = find_extension_installation()
    except ExtensionMissingError as error:
        skip_extension(error.message)
    if extension_version(installation) != TARGET:
        skip_extension(f"{installation.bindir} has pg_trickle {extension_version(installation)}, not {TARGET}")
    found = script_directories()
    own = installation.sharedir / "extension"
    if not any((directory / f"pg_trickle--{START}.sql").is_file() for directory in (own, *found)):
        skip_extension(f"no pg_trickle--{START}.sql (HARNESS_EXTENSION_SCRIPTS names its directory)")
    return found


def test_last_step_is_rehearsed_under_live_writers(scripts: tuple[Path, ...]) -> None:
    result = rehearse_update(UpdateOptions(START, TARGET, scripts=scripts, seed=1))
    assert [(step.start, step.target, step.verdict) for step in result.steps] == [(START, TARGET, Verdict.PASSED)]
    assert [found.version for found in result.versions] == [START, TARGET]
    for found in result.versions:
        assert (found.refreshed, found.stream_tables, found.new_stream_table) == (5, 5, ""), found.version
        assert found.fresh == "installs"
        assert len(found.functions) > 100
    assert result.writes >= 60
    assert not [check for check in result.checks if "writer" in check.name and check.verdict is Verdict.FAILED]


def test_command_writes_its_reports_and_its_exit_code_is_the_verdict(scripts: tuple[Path, ...], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "harness", "rehearse", "--extension-update", f"{START}..{TARGET}", "--json"]
    words += ["--seed", "4", "--report", str(tmp_path), "--summary", str(tmp_path / "page.md")]
    for directory in scripts:
        words += ["--extension-scripts", str(directory)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    document = json.loads(done.stdout)
    Draft202012Validator(load_schema("extension-update-1")).validate(document)
    assert done.returncode == (0 if document["passed"] else 1), done.stderr
    assert (document["from_version"], document["to_version"]) == (START, TARGET)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == document
    assert "<table>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "junit.xml").is_file()
    assert "harness rehearse" in (tmp_path / "page.md").read_text(encoding="utf-8")
