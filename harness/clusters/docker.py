"""What Docker there is on this machine: client, daemon, images. Looks only; pulls and starts nothing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from packaging.version import InvalidVersion, Version

from harness.errors import EnvironmentMissingError
from harness.logs import redact
from harness.settings import load_settings

# A daemon on this machine answers within milliseconds; one behind a dead network never does.
LOOK_DEADLINE_S = 5.0
# The oldest engine that clusters were started on is Docker 20.10, whose interface has this version.
OLDEST_API = "1.41"


@dataclass(frozen=True)
class DockerLook:
    """What was found.

    Attributes:
        client: path of the ``docker`` program; None where there is none.
        has_package: whether the Python packages ``docker`` and ``testcontainers`` can be imported.
        daemon_version: version of the daemon that answered; None if none did.
        problem: why nothing can be run with it, in one line; empty if it can.
        hint: what to do about it.
        citus_images: tags of local images that have ``citus`` in their name, and the one that is set.
    """

    client: str | None
    has_package: bool
    daemon_version: str | None = None
    problem: str = ""
    hint: str = ""
    citus_images: tuple[str, ...] = ()

    @property
    def can_run(self) -> bool:
        """Whether clusters in containers can be started without pulling anything."""
        return not self.problem and self.has_image

    @property
    def has_image(self) -> bool:
        """Whether the image that clusters in containers use (``HARNESS_CITUS_IMAGE``) is here."""
        return load_settings().citus_image in self.citus_images


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, *(arg for arg in one.args if isinstance(arg, BaseException))]


def _why_silent(error: Exception) -> tuple[str, str]:
    """What is wrong with the daemon, and what to do: Docker's client wraps all of it into one class (containers.md)."""
    causes = list(_causes(error))
    words = next(iter(str(error).strip().splitlines()), "no reason given")
    if any(isinstance(cause, PermissionError) for cause in causes):
        return "this user has no right to Docker's socket", "join the group docker, or use rootless Docker"
    if any(isinstance(cause, FileNotFoundError) for cause in causes):
        return "no daemon: its socket is not there", "start Docker, or set DOCKER_HOST"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "no daemon: nobody listens at its address", "start Docker, or set DOCKER_HOST"
    if any("timed out" in str(cause).lower() for cause in causes):
        return "the daemon does not answer", "restart Docker, or set DOCKER_HOST"
    return f"no daemon answers: {redact(words)}", "start Docker, or set DOCKER_HOST"


def _is_too_old(api_version: str) -> bool:
    try:
        return Version(api_version) < Version(OLDEST_API)
    except InvalidVersion:
        return False


def _knock(base_url: str) -> None:
    # Docker's client leaves its socket open when it cannot connect.
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if base_url.startswith("http+docker://") and address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(LOOK_DEADLINE_S)
            probe.connect(address.removeprefix("unix://"))


def _ask_version(docker: Any) -> Any:
    # With a version the client asks nothing before it is there to be closed; this one question needs none.
    with contextlib.closing(docker.from_env(timeout=LOOK_DEADLINE_S, version=OLDEST_API)) as client:
        _knock(str(client.api.base_url))
        return client.api.version(api_version=False)


def _ask_images(docker: Any) -> tuple[str, ...]:
    # In the daemon's own version: an old one is refused by a new daemon.
    with contextlib.closing(docker.from_env(timeout=LOOK_DEADLINE_S)) as client:
        tags = {tag for found in client.images.list() for tag in found.tags if "citus" in tag}
        with contextlib.suppress(docker.errors.ImageNotFound):
            client.images.get(load_settings().citus_image)
            tags.add(load_settings().citus_image)
    return tuple(sorted(tags))


def _ask_daemon(docker: Any, look: DockerLook) -> DockerLook:
    try:
        said = _ask_version(docker)
        version, api_version = str(said["Version"]), str(said.get("ApiVersion", ""))
        if _is_too_old(api_version):
            return replace(
                look,
                daemon_version=version,
                problem=f"the engine is too old: {version}, interface {api_version}",
                hint=f"Docker 20.10 or newer, with interface {OLDEST_API}",
            )
        images = _ask_images(docker)
    except (docker.errors.DockerException, OSError) as error:
        problem, hint = _why_silent(error)
        return replace(look, problem=problem, hint=hint)
    return replace(look, daemon_version=version, citus_images=images)


def _within(deadline_s: float, look: Callable[[], DockerLook]) -> DockerLook | None:
    """The answer, or None after the deadline; the thread that still waits ends with the process."""
    answers: list[DockerLook] = []
    thread = threading.Thread(target=lambda: answers.append(look()), name="docker-look", daemon=True)
    thread.start()
    thread.join(deadline_s)
    return answers[0] if answers else None


def look_at_docker(*, deadline_s: float = LOOK_DEADLINE_S) -> DockerLook:
    """Ask what Docker there is; answers within ``deadline_s`` seconds whatever the daemon does, and raises nothing."""
    packages = [name for name in ("docker", "testcontainers") if importlib.util.find_spec(name) is None]
    look = DockerLook(shutil.which("docker"), not packages)
    if packages:
        return replace(
            look,
            problem=f"the Python package {packages[0]} is missing",
            hint="pip install 'pgtrickle-citus-harness[containers]'",
        )
    docker = importlib.import_module("docker")
    found = _within(deadline_s, lambda: _ask_daemon(docker, look))
    return found or replace(
        look, problem=f"the daemon did not answer within {deadline_s:.0f} s", hint="restart Docker, or set DOCKER_HOST"
    )


def require_docker(*, look: bool = True) -> Any:
    """Docker's client library, and (with ``look``) a daemon that answers.

    Raises:
        EnvironmentMissingError: why clusters in containers cannot be had, in one line.
    """
    if look:
        found = look_at_docker()
        if found.problem:
            raise EnvironmentMissingError(f"no clusters in containers: {found.problem}", hint=found.hint)
    return importlib.import_module("docker")
