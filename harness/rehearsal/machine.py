"""What a figure of a rehearsal depends on beside the database: the machine, and what was asked for."""

from __future__ import annotations

import os
import platform

import psutil

from harness.rehearsal.options import RehearsalOptions


def describe_hardware() -> dict[str, str]:
    """Processors, memory, system and Python; for people."""
    return {
        "cpus": str(os.cpu_count() or 1),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def describe_machine(options: RehearsalOptions) -> dict[str, str]:
    """Processors, memory, system, Python, and the options that a figure depends on; for people."""
    facts = describe_hardware() | {
        "lock_timeout": f"{options.lock_timeout_ms} ms",
        "writers": str(options.threads),
        "crash": "once a revision" if options.crash else "no",
    }
    return facts if options.dsn is None else {**facts, "copy": options.copy}
