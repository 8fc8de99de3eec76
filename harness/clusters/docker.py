"""What Docker there is on this machine: client, daemon, images. Looks only; pulls and starts nothing."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harness.logs import redact

# The official image for PostgreSQL 18 (F27).
CITUS_IMAGE = "citusdata/citus:14.1.0"
# A daemon on this machine answers within milliseconds; one behind a dead network never does.
LOOK_DEADLINE_S = 5.0


@dataclass(frozen=True)
class DockerLook:
    """What was found.

    Attributes:
        client: path of the ``docker`` program; None where there is none.
        has_package: whether the Python package ``docker`` (it comes with testcontainers) can be imported.
        daemon_version: version of the daemon that answered; None if none did.
        problem: why nothing can be run with it, in one line; empty if it can.
        citus_images: tags of local images that have ``citus`` in their name.
    """

    client: str | None
    has_package: bool
    daemon_version: str | None = None
    problem: str = ""
    citus_images: tuple[str, ...] = ()

    @property
    def has_default_image(self) -> bool:
        """Whether the image that clusters in containers use is here."""
        return CITUS_IMAGE in self.citus_images


def _ask_daemon(docker: Any, look: DockerLook) -> DockerLook:
    # No daemon, a dead socket and missing rights all come as DockerException, from the constructor on (containers.md).
    try:
        client = docker.from_env(timeout=LOOK_DEADLINE_S)
        try:
            version = str(client.version()["Version"])
            tags = sorted(tag for image in client.images.list() for tag in image.tags if "citus" in tag)
        finally:
            client.close()
    except docker.errors.DockerException as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        return replace(look, problem=f"no daemon answers: {redact(reason)}")
    return replace(look, daemon_version=version, citus_images=tuple(tags))


def _within(deadline_s: float, look: Callable[[], DockerLook]) -> DockerLook | None:
    """The answer, or None after the deadline; the thread that still waits ends with the process."""
    answers: list[DockerLook] = []
    thread = threading.Thread(target=lambda: answers.append(look()), name="docker-look", daemon=True)
    thread.start()
    thread.join(deadline_s)
    return answers[0] if answers else None


def look_at_docker(*, deadline_s: float = LOOK_DEADLINE_S) -> DockerLook:
    """Ask what Docker there is; answers within ``deadline_s`` seconds whatever the daemon does, and raises nothing."""
    look = DockerLook(shutil.which("docker"), importlib.util.find_spec("docker") is not None)
    if not look.has_package:
        hint = "the Python package docker is missing (it comes with testcontainers)"
        return replace(look, problem=hint)
    docker = importlib.import_module("docker")
    found = _within(deadline_s, lambda: _ask_daemon(docker, look))
    return found or replace(look, problem=f"the daemon did not answer within {deadline_s:.0f} s")
