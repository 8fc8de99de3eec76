"""A command loads what it needs, and no other command's libraries."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.cli.groups import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_and_says_what_it_is(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    assert f" {name} " in shown.output
    assert "--install-completion" not in shown.output


def test_help_lists_them_all_in_order() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert re.findall(r"^│ (\w+) +\S", shown, re.MULTILINE) == list(COMMANDS)


def test_misspelled_command_is_answered_with_the_one_that_is_meant() -> None:
    done = CliRunner().invoke(app, ["clutser"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 2
    assert "Did you mean 'cluster'?" in done.output


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["--version"], {"alembic", "sqlalchemy", "sqlglot", "jinja2", "docker"}),
        (["doctor", "--help"], {"alembic", "sqlalchemy", "sqlglot"}),
        (["st", "--help"], {"alembic", "sqlalchemy", "docker"}),
        (["bench", "list"], {"numpy", "matplotlib", "docker"}),
        (["inspect", "list_nodes", "--help"], {"alembic", "sqlalchemy", "sqlglot", "docker", "mcp"}),
        (["mcp", "--help"], {"alembic", "sqlalchemy", "sqlglot", "docker", "mcp"}),
    ],
)
def test_libraries_of_other_commands_are_not_loaded(words: list[str], unwanted: set[str]) -> None:
    program = (
        "import sys\nfrom harness.cli import main\nsys.argv = ['harness', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False
    )
    loaded = set(done.stdout.partition("loaded:")[2].split())
    assert "harness" in loaded, done.stderr
    assert not loaded & unwanted
