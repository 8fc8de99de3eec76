"""What a figure depends on beside the code: the machine, its disk, the servers, their settings."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from harness import __version__
from harness.bench.places import SETTINGS
from harness.clusters.providers import Provider
from harness.postgres import choose_installation
from harness.postgres.places import run_dir

# Enough for a median, and over within a fifth of a second on a disk that takes 10 ms.
_FSYNCS = 21
_PAGE = bytes(8192)
_CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, str]:
    """Processors, memory, system, Python, where servers live and how long its disk takes to keep a page.

    Raises:
        BadInputError: the directory for servers cannot be used.
    """
    place = run_dir()
    return {
        "harness": __version__,
        "cpus": str(os.cpu_count() or 1),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "file system": _file_system(place),
        "fsync of a page": f"{_fsync_ms(place):.3f} ms",
        "load at the start": load_average(),
    }


def describe_servers(provider: Provider | None, missing: str) -> dict[str, str]:
    """Versions, what the cluster is made of or why there is none, and settings beside the defaults.

    Args:
        provider: who makes clusters.
        missing: why there is nobody; empty if there is.

    Raises:
        BinariesNotFoundError: there is no PostgreSQL at all.
    """
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    plain = choose_installation().version
    if provider is None:
        return {
            "PostgreSQL": plain,
            "Citus": "none",
            "cluster": "none: one server",
            "missing": missing,
            "settings": settings,
        }
    facts = {"PostgreSQL": provider.postgres_version, "Citus": provider.citus_version, "cluster": provider.label}
    return {**facts, "plain PostgreSQL": plain, "settings": settings}


def load_average() -> str:
    """Of the last one, five and fifteen minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or "unknown")


def _file_system(place: Path) -> str:
    mounts = [part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _fsync_ms(place: Path) -> float:
    """The median of writing a page and keeping it, in milliseconds; nothing is left behind."""
    took: list[float] = []
    with tempfile.TemporaryFile(dir=place) as file:
        for _ in range(_FSYNCS):
            begun = time.perf_counter()
            file.write(_PAGE)
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - begun) * 1000)
    return statistics.median(took)
