"""Runs of ``benchmarks/locust/load.py`` and of locust itself, as people start them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from scenarios.fixtures.skips import skip_environment

ROOT = Path(__file__).parents[2]
LOAD = ROOT / "benchmarks" / "locust" / "load.py"
LOCUSTFILE = LOAD.with_name("locustfile.py")
TIMEOUT_S = 120.0


def environment(**extra: str) -> dict[str, str]:
    """Ours, with the checkout in it."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **extra}


def require_locust() -> None:
    """Skip where it is not installed."""
    if importlib.util.find_spec("locust") is None:
        skip_environment("locust is not installed (pip install '.[benchmarks]')")


def load_command(*arguments: str) -> list[str]:
    """The command line of a load."""
    return [sys.executable, str(LOAD), *arguments]


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command,
        env=environment(**extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def locust_command(*arguments: str) -> list[str]:
    """Locust without the command around it."""
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments]
