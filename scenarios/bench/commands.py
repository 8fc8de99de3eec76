"""``harness bench`` as its users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A machine that others share may take several times as long as two cores of our own.
DEADLINE_S = 540


def start(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """The command, under way."""
    environment = {name: value for name, value in os.environ.items() if name != "HARNESS_REQUIRE_CITUS"}
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "bench", *map(str, arguments)],
        env=environment | {"COLUMNS": "200"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, ended."""
    process = start(*arguments, **variables)
    try:
        out, complaint = process.communicate(timeout=DEADLINE_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, complaint)
