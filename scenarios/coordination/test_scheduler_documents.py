"""The unit and the compose file in docs/ start the scheduler as it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app

DOCS = Path(__file__).parents[2] / "docs" / "scheduler"


def _of_the_unit() -> list[str]:
    found = re.search(r"^ExecStart=\S+/harness (.*)$", (DOCS / "harness-scheduler.service").read_text(), re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


def _of_the_compose_file() -> list[str]:
    found = re.search(r"^ +command: \[(.*)\]$", (DOCS / "compose.yaml").read_text(), re.MULTILINE)
    assert found is not None
    words = re.findall(r'"([^"]*)"', found[1])
    assert words[0] == "harness"
    return words[1:]


@pytest.mark.parametrize("words", [_of_the_unit(), _of_the_compose_file()], ids=["unit", "compose"])
def test_command_in_the_documents_is_one_that_exists(words: list[str]) -> None:
    assert words[:2] == ["scheduler", "run"]
    shown = CliRunner().invoke(app, ["scheduler", "run", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    for word in words:
        if word.startswith("--"):
            assert word in shown.output, word
    # Everything but the database is read: it is the DSN that is missing.
    done = CliRunner().invoke(app, [*words, "--dsn", "no dsn"])
    assert type(done.exception).__name__ == "BadInputError", done.output


@pytest.mark.parametrize("name", ["harness-scheduler.service", "compose.yaml"])
def test_time_to_stop_is_longer_than_the_grace(name: str) -> None:
    text = (DOCS / name).read_text()
    grace = int(re.search(r'--grace"?,? "?(\d+)s', text)[1])  # type: ignore[index]
    stop = int(re.search(r"(?:TimeoutStopSec=|stop_grace_period: )(\d+)", text)[1])  # type: ignore[index]
    assert stop > grace
