"""`harness inspect` within this process, and as a subprocess, as somebody runs it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from typer.testing import CliRunner

from harness.cli.app import app, print_error
from harness.clusters import RunningCluster
from harness.errors import HarnessError
from harness.settings import load_settings

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on stdout, and nothing else is there."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def envelope(self) -> dict[str, Any]:
        """The only inspector's answer."""
        (found,) = self.document["inspectors"]
        assert isinstance(found, dict)
        return found


def worker_name(cluster: RunningCluster, number: int) -> str:
    """``host:port`` of a worker as Citus has it, which need not be how it is reached from here; from 1."""
    found: str = cluster.value(
        "SELECT nodename || ':' || nodeport FROM pg_catalog.pg_dist_node WHERE groupid = %s AND noderole = 'primary'",
        [number],
    )
    return found


def environment(dsn: str | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of a shell in which HARNESS_DSN is the only word about a database."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "HARNESS_DSN"))}
    return {**plain, "COLUMNS": "200", "NO_COLOR": "1", **({"HARNESS_DSN": dsn} if dsn else {}), **(extra or {})}


def command(*arguments: str) -> list[str]:
    """The words of a command."""
    return [sys.executable, "-m", "harness", *arguments]


def run(*arguments: str, dsn: str | None = None, extra: Mapping[str, str] | None = None) -> Done:
    """``harness inspect ...`` in this process (a new one takes a second to import what it needs)."""
    changed: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("PG", "HARNESS_DSN"))}
    changed |= {"COLUMNS": "200", "NO_COLOR": "1", **({"HARNESS_DSN": dsn} if dsn else {}), **(extra or {})}
    load_settings.cache_clear()
    try:
        done = CliRunner().invoke(app, ["inspect", *arguments], env=changed)
    finally:
        load_settings.cache_clear()
    if done.exception is None or isinstance(done.exception, SystemExit):
        return Done(done.exit_code, done.stdout, done.stderr)
    if not isinstance(done.exception, HarnessError):
        raise done.exception
    told = io.StringIO()
    print_error(done.exception, Console(file=told, highlight=False, soft_wrap=True))
    return Done(done.exception.exit_code, done.stdout, done.stderr + told.getvalue())


def spawn(*arguments: str, dsn: str | None = None, extra: Mapping[str, str] | None = None) -> Done:
    """``harness ...`` in a process of its own, to its end."""
    done = subprocess.run(
        command(*arguments), env=environment(dsn, extra), capture_output=True, check=False, timeout=TIMEOUT_S
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())
