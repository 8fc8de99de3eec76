"""Docker as clusters use it: what belongs to which run, and what killed runs left. Imports Docker's client late."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from harness.clusters.docker import require_docker
from harness.errors import BadInputError, EnvironmentMissingError, ServerError, WaitTimeoutError
from harness.logs import get_logger, redact
from harness.postgres.places import own_directory, run_dir
from harness.settings import load_settings
from harness.waiting import wait_until

if TYPE_CHECKING:
    import docker

# Everything that a run makes has this label, with the run's name; the others say who made it.
LABEL = "org.pgtrickle.harness.run"
_OWNER_MACHINE = "org.pgtrickle.harness.machine"
_OWNER_PROCESS = "org.pgtrickle.harness.process"
# Start and removal of a container take 0.2 s; a daemon that is busy with others' needs longer.
API_TIMEOUT_S = 60
_RELEASE_DEADLINE_S = 30.0

_log = get_logger("clusters")
_guard = threading.Lock()
_swept = False


@dataclass(frozen=True)
class Runtime:
    """A daemon that answers, and the labels of this process.

    Attributes:
        client: Docker's own client.
        labels: what everything that this run makes is marked with.
        run: a name that no other run has, for names of containers and networks.
        host: where published ports are reached from here.
        publish: on which address of the daemon's machine they are published.
    """

    client: docker.DockerClient
    labels: Mapping[str, str]
    run: str
    host: str
    publish: str


def _machine() -> str:
    """This machine, boot and process namespace: only here does a process number mean what it says."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _process(pid: int) -> str:
    """A process, by its number and when it started: in ticks since the boot where the kernel says so.

    A time of day would be another one after the clock was set, and a run that lives would look like one that is gone.

    Raises:
        psutil.NoSuchProcess: there is none, or it has ended and nobody has asked how.
    """
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.ZombieProcess(pid)
    try:
        # The name, in parentheses, may hold anything; the start is the 20th field after it.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{pid}@{stat.rpartition(')')[2].split()[19]}"
    except OSError:
        return f"{pid}@{process.create_time():.2f}"


def own_labels(run: str, pid: int | None = None) -> dict[str, str]:
    """The labels of what this process (or process ``pid``) makes."""
    return {LABEL: run, _OWNER_MACHINE: _machine(), _OWNER_PROCESS: _process(pid or os.getpid())}


def _is_left_over(labels: Mapping[str, str]) -> bool:
    """Whether its maker ran on this machine and is gone. What other machines made on a shared daemon is not judged."""
    if labels.get(_OWNER_MACHINE) != _machine():
        return False
    pid = labels.get(_OWNER_PROCESS, "").partition("@")[0]
    try:
        return _process(int(pid)) != labels[_OWNER_PROCESS]
    except psutil.AccessDenied:
        return False
    except (ValueError, psutil.NoSuchProcess):
        return True


def open_runtime() -> Runtime:
    """Reach the daemon, sweep what killed runs left (once a process), and name a new run.

    Raises:
        EnvironmentMissingError: no daemon, no right to it, too old an engine, or one that does not answer in 5 s;
            says which in one line.
        BadInputError: the daemon is on another machine, and nobody said where its ports may be published.
    """
    docker = require_docker()
    client = docker.from_env(timeout=API_TIMEOUT_S)
    host, publish = _reached_at()
    _sweep_once(client)
    run = f"harness-{secrets.token_hex(4)}"
    return Runtime(client, own_labels(run), run, host, publish)


def _reached_at() -> tuple[str, str]:
    publish = load_settings().docker_publish
    remote = urlsplit(os.environ.get("DOCKER_HOST", ""))
    if remote.scheme != "tcp" or remote.hostname in (None, "localhost", "127.0.0.1", "::1"):
        return (publish if publish not in ("0.0.0.0", "::") else "127.0.0.1"), publish  # noqa: S104 - compared, not bound
    if publish.startswith("127.") or publish == "::1":
        raise BadInputError(
            f"the Docker daemon is on {remote.hostname}, where ports would be published on {publish}, out of reach",
            hint="HARNESS_DOCKER_PUBLISH=0.0.0.0, if its network is private; every login needs a random password",
        )
    return str(remote.hostname), publish


@contextlib.contextmanager
def docker_errors(what: str, node: str | None = None) -> Iterator[None]:
    """Turn an error of Docker's client inside the block into one of ours that says ``what`` was tried."""
    docker = require_docker(look=False)
    try:
        yield
    except (docker.errors.DockerException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "explanation", None) or str(error)
        words = redact(" ".join(str(reason).split()))
        if "address pool" in words or "no available network" in words:
            raise EnvironmentMissingError(
                f"{what}: Docker has no network left to give", hint="docker network prune removes unused ones"
            ) from error
        if "no space left" in words.lower():
            raise EnvironmentMissingError(
                f"{what}: the disk of Docker is full", hint="docker system df; docker volume prune"
            ) from error
        raise ServerError(
            f"{what}: {words}", hint="docker logs, docker events and `harness doctor` say more", node=node
        ) from error


def passing_over_missing(action: Callable[[], object]) -> None:
    """Do it; what is gone already, or being removed by somebody else, is no failure."""
    errors: Any = require_docker(look=False).errors
    try:
        action()
    except errors.NotFound:
        return
    except errors.APIError as error:
        if error.status_code != 409 or "already in progress" not in str(error.explanation):
            raise


def remove_all(client: Any, chosen: Callable[[Mapping[str, str]], bool]) -> int:
    """Remove every container, then network, then volume of ours whose labels are ``chosen``; how many they were."""
    filters = {"label": LABEL}
    count = 0
    for container in client.containers.list(all=True, filters=filters, ignore_removed=True):
        if chosen(container.labels):
            passing_over_missing(lambda one=container: one.remove(force=True, v=True))  # type: ignore[misc]
            count += 1
    for network in client.networks.list(filters=filters):
        if chosen(network.attrs.get("Labels") or {}):
            passing_over_missing(network.remove)
            count += 1
    for volume in client.volumes.list(filters=filters):
        if chosen(volume.attrs.get("Labels") or {}):
            passing_over_missing(lambda one=volume: one.remove(force=True))  # type: ignore[misc]
            count += 1
    return count


def remove_run(runtime: Runtime) -> None:
    """Remove all containers, networks and volumes of this run."""
    remove_all(runtime.client, lambda labels: labels.get(LABEL) == runtime.run)


def remove_volume(client: Any, name: str) -> None:
    """Remove a volume if it is there.

    Under load the daemon may still think that a container, which is gone, uses it: that is waited for.
    """

    last: Exception | None = None

    def tried() -> bool:
        nonlocal last
        try:
            passing_over_missing(lambda: client.volumes.get(name).remove(force=True))
        except require_docker(look=False).errors.APIError as error:
            last = error
            return False
        return True

    try:
        wait_until(f"volume {name} to be free", tried, deadline_s=_RELEASE_DEADLINE_S, poll_s=0.05)
    except WaitTimeoutError:
        if last is not None:
            raise last from None
        raise


def sweep_containers(client: Any) -> int:
    """Remove what killed runs of this machine left on the daemon; how many containers, networks and volumes."""
    count = remove_all(client, _is_left_over)
    if count:
        _log.info("swept containers, networks and volumes", count=count)
    return count


def _sweep_once(client: Any) -> None:
    global _swept  # noqa: PLW0603 - once a process
    with _guard:
        if _swept:
            return
        _swept = True
    # One at a time on this machine; what one cannot remove the next one will: no start fails for it.
    with FileLock(own_directory(run_dir()) / "containers.lock", thread_local=False):
        try:
            with docker_errors("what killed runs left could not be removed"):
                sweep_containers(client)
        except (ServerError, EnvironmentMissingError) as error:
            _log.warning("not swept", reason=error.message)
