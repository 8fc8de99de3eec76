"""Marks in a log, and what is found after them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import WaitTimeoutError
from harness.postgres.log import BEGINNING, ServerLog


def test_log_search_from_a_mark_sees_only_what_came_after(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log")
    assert log.since(log.mark()) == ""
    log.path.write_text("ERROR one\nLOG two\n")
    mark = log.mark()
    with log.path.open("a") as file:
        file.write("ERROR three ümlaut\n")
    assert log.search("ERROR", mark) == ["ERROR three ümlaut"]
    assert len(log.search("ERROR", BEGINNING)) == 2
    assert log.wait_for("three", mark, 0.1) == "ERROR three ümlaut"


def test_log_wait_for_a_line_that_never_comes_names_pattern_and_file(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log")
    with pytest.raises(WaitTimeoutError, match=r"line like 'never' in .*log"):
        log.wait_for("never", deadline_s=0.05)


def test_log_tail_hides_passwords(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log")
    log.path.write_text("STATEMENT: ALTER ROLE x PASSWORD 'hush'\n")
    assert "hush" not in log.tail()
