"""Which lines of a node's log fail a test."""

from __future__ import annotations

import pytest

from scenarios.fixtures.cluster_logs import Allowed, unexpected_lines

_AT = "2026-11-21 04:05:09.347 UTC [11906]"


@pytest.mark.parametrize(
    "line",
    [
        f'{_AT} postgres@postgres  42P01 ERROR:  relation "x" does not exist',
        f"{_AT} postgres@v1 citus_internal gpid=99 57P01 FATAL:  terminating connection due to administrator command",
        f'{_AT} FATAL:  terminating background worker "Citus Maintenance Daemon: 5/10" due to administrator command',
        f"{_AT} LOG:  database system is ready to accept connections",
        "\tat some place in a longer message",
    ],
)
def test_line_that_is_expected_passes(line: str) -> None:
    assert list(unexpected_lines(line)) == []


@pytest.mark.parametrize(
    "line",
    [
        f"{_AT} PANIC:  could not write",
        f"{_AT} ERROR:  cache lookup failed for relation 42",
        f"{_AT} postgres@postgres app XX000 FATAL:  out of something",
        f"{_AT} LOG:  client backend (PID 12) was terminated by signal 11: Segmentation fault",
    ],
)
def test_line_that_nobody_expects_is_found(line: str) -> None:
    assert list(unexpected_lines(f"{_AT} LOG:  fine\n{line}")) == [line]
    assert list(unexpected_lines(line, [Allowed(".", "this test does it on purpose")])) == []
