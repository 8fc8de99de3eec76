"""Logs go to what stderr is when something is logged, not to what it was once."""

from __future__ import annotations

import io

import pytest
import structlog

from harness.logs import configure_logging, get_logger


def test_logger_outlives_the_stderr_that_it_was_configured_with(monkeypatch: pytest.MonkeyPatch) -> None:
    former = structlog.get_config()
    first, second = io.StringIO(), io.StringIO()
    try:
        monkeypatch.setattr("sys.stderr", first)
        configure_logging()
        get_logger("rooms").warning("one")
        monkeypatch.setattr("sys.stderr", second)
        assert "one" in first.getvalue()
        first.close()
        get_logger("rooms").warning("two", dsn="host=a password=hunter2")
        assert "two" in second.getvalue()
        assert "hunter2" not in second.getvalue()
    finally:
        structlog.configure(**former)
