"""What ``harness doctor`` finds out about this machine: frozen values, no printing."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness import __version__
from harness.clusters.docker import DockerLook, look_at_docker
from harness.clusters.versions import choose_citus_installation, is_supported_pair
from harness.errors import HarnessError
from harness.postgres.identity import SystemUser, server_user
from harness.postgres.installations import Installation, choose_installation, find_installations
from harness.postgres.places import cache_dir, run_dir
from harness.settings import load_settings

T = TypeVar("T")

# A demonstration of a million rows took under 1 GB with its copies; the rest is for the templates.
NEEDED_BYTES = 2 * 2**30
# Extensions that scenarios, benchmarks or users of stream tables ask for.
EXTENSIONS_OF_NOTE = ("citus", "citus_columnar", "dblink", "pg_stat_statements", "pg_trickle", "postgres_fdw", "vector")


@dataclass(frozen=True)
class Problem:
    """Something that keeps the rehearsal from running: what, and what to do."""

    message: str
    hint: str


@dataclass(frozen=True)
class Skipped:
    """Something that will be skipped on this machine: what, why, and how to get it."""

    what: str
    why: str
    how_to_get: str


@dataclass(frozen=True)
class Examination:
    """What is here.

    Attributes:
        installations: every PostgreSQL that was found, in the order of the search.
        chosen: the one that a single server would use; None if none can be used.
        chosen_citus: the one that a cluster would use; None if none can be used.
        citus_problem: why there is no local cluster; empty if there is.
        docker: what Docker there is.
        user: as whom servers run; None if there is nobody to drop to.
        run_dir, cache_dir: where servers and templates live; None if they cannot be used.
        free_bytes: room left in ``run_dir``.
        problems: what keeps the rehearsal from running.
        skipped: what will be skipped.
    """

    installations: tuple[Installation, ...]
    chosen: Installation | None
    chosen_citus: Installation | None
    citus_problem: str
    docker: DockerLook
    user: SystemUser | None
    run_dir: Path | None
    cache_dir: Path | None
    free_bytes: int
    problems: tuple[Problem, ...]
    skipped: tuple[Skipped, ...]
    harness_version: str = __version__
    python_version: str = platform.python_version()
    system: str = platform.platform(terse=True)

    @property
    def can_rehearse(self) -> bool:
        """Whether ``harness rehearse`` can run here."""
        return not self.problems

    @property
    def citus_version(self) -> str | None:
        """The version of Citus that a local cluster would have."""
        return self.chosen_citus.citus_version if self.chosen_citus else None


def citus_state(installation: Installation) -> str:
    """Its Citus in words: none, the version, or the version and that it is not supported there."""
    version = installation.citus_version
    if version is None:
        return "none"
    return version if is_supported_pair(installation.major, version) else f"{version} (not supported here)"


def _tried(question: Callable[[], T], problems: list[Problem]) -> T | None:
    """The answer, or None and one more problem."""
    try:
        return question()
    except HarnessError as error:
        if all(known.message != error.message for known in problems):
            problems.append(Problem(error.message, error.hint))
        return None


def _skipped(citus: Installation | None, problem: str, docker: DockerLook) -> tuple[Skipped, ...]:
    skipped = []
    if citus is None:
        how = "install Citus 14 for PostgreSQL 18 (or 13 for 17); HARNESS_PG_BINDIR names its bin directory"
        else_where = "" if docker.can_run else ", scenarios on Citus"
        skipped.append(Skipped(f"clusters of local processes{else_where}", problem, how))
    what = "clusters in containers"
    if docker.problem:
        skipped.append(Skipped(what, docker.problem, docker.hint))
    elif not docker.has_image:
        image = load_settings().citus_image
        how = f"docker pull {image}, or HARNESS_DOCKER_PULL=1"
        skipped.append(Skipped(what, f"the image {image} is not here", how))
    return tuple(skipped)


def examine() -> Examination:
    """Look at this machine; starts nothing, raises nothing that it can report instead."""
    problems: list[Problem] = []
    installations = _tried(find_installations, problems) or ()
    chosen = _tried(choose_installation, problems)
    citus_problems: list[Problem] = []
    chosen_citus = _tried(lambda: choose_citus_installation(installations or None), citus_problems)
    citus_problem = citus_problems[0].message if citus_problems else ""
    user = _tried(server_user, problems)
    run_place = _tried(run_dir, problems)
    cache_place = _tried(cache_dir, problems)
    free_bytes = shutil.disk_usage(run_place).free if run_place else 0
    if run_place is not None and free_bytes < NEEDED_BYTES:
        problems.append(
            Problem(
                f"{run_place} has {free_bytes // 2**20} MiB free, a rehearsal needs {NEEDED_BYTES // 2**20} MiB",
                "make room, or set HARNESS_RUN_DIR to another disk",
            )
        )
    docker = look_at_docker()
    return Examination(
        installations=installations,
        chosen=chosen,
        chosen_citus=chosen_citus,
        citus_problem=citus_problem,
        docker=docker,
        user=user,
        run_dir=run_place,
        cache_dir=cache_place,
        free_bytes=free_bytes,
        problems=tuple(problems),
        skipped=_skipped(chosen_citus, citus_problem, docker),
    )
