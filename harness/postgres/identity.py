"""As whom servers run: PostgreSQL refuses to run as root, so root drops to an ordinary user here."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import BadInputError, EnvironmentMissingError
from harness.settings import load_settings

# What a child keeps of our environment. Everything else, PG* above all, could change what a server does.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "ASAN_OPTIONS")


@dataclass(frozen=True)
class SystemUser:
    """A user of this machine.

    Attributes:
        name: the login name.
        uid: the user's number.
        gid: the number of its primary group, the only group that servers keep.
        is_dropped_to: whether it is another user than the one that runs the harness.
    """

    name: str
    uid: int
    gid: int
    is_dropped_to: bool


def server_user() -> SystemUser:
    """The user that servers run as.

    Returns:
        The current user; as root ``HARNESS_PG_USER``, else ``postgres`` where it exists, else ``nobody``.

    Raises:
        BadInputError: ``HARNESS_PG_USER`` is unknown here, or is root.
        EnvironmentMissingError: root, and there is no user to drop to.
    """
    if os.geteuid() != 0:
        try:
            name = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # a container's made-up number; initdb says what it thinks of it
            name = str(os.geteuid())
        return SystemUser(name, os.geteuid(), os.getegid(), is_dropped_to=False)
    wanted = load_settings().pg_user
    for name in (wanted,) if wanted else ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise BadInputError(
                f"HARNESS_PG_USER={name!r} is root, as which PostgreSQL refuses to run", hint="name an ordinary user"
            )
        return SystemUser(name, entry.pw_uid, entry.pw_gid, is_dropped_to=True)
    if wanted:
        raise BadInputError(f"HARNESS_PG_USER={wanted!r} is no user of this machine", hint="name one that exists")
    raise EnvironmentMissingError(
        "running as root, and there is neither a user postgres nor nobody to run servers as",
        hint="create one and name it in HARNESS_PG_USER",
    )


def _is_allowed(info: os.stat_result, user: SystemUser, bits: int) -> bool:
    if user.uid == info.st_uid:
        granted = info.st_mode >> 6
    elif user.gid == info.st_gid:
        granted = info.st_mode >> 3
    else:
        granted = info.st_mode
    return (granted & bits) == bits


def can_enter(path: Path, user: SystemUser) -> bool:
    """Whether ``user`` can reach the directory ``path``: search permission on it and on all above it."""
    resolved = path.resolve()
    return all(_is_allowed(above.stat(), user, 0o1) for above in (resolved, *resolved.parents))


def can_read_tree(path: Path, user: SystemUser) -> bool:
    """Whether ``user`` can read everything below the directory ``path``, and run what is executable for its owner."""
    if not can_enter(path, user):
        return False
    for found in (path, *path.rglob("*")):
        try:
            info = found.stat()
        except FileNotFoundError:
            continue  # a dangling link hinders nobody
        needed = 0o5 if stat.S_ISDIR(info.st_mode) or info.st_mode & stat.S_IXUSR else 0o4
        if not _is_allowed(info, user, needed):
            return False
    return True


def child_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a server or one of its programs: ours without ``PG*``, messages in English, time in UTC.

    Args:
        home: a directory that the child may enter, given as ``HOME``.
        extra: added at the end.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    kept.setdefault("PATH", os.defpath)
    return {**kept, "HOME": str(home), "LC_ALL": "C", "TZ": "UTC", "PGCLIENTENCODING": "UTF8", **(extra or {})}


def start_process(
    arguments: Sequence[str | Path],
    user: SystemUser,
    *,
    cwd: Path,
    output: IO[bytes] | int,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start a long-running child as ``user``, in a session of its own so that Ctrl-C reaches only the harness.

    Args:
        arguments: program and arguments; never a password.
        user: as whom it runs.
        cwd: a directory that this user can enter.
        output: takes stdout and stderr.
        environment: the whole environment.
    """
    return subprocess.Popen(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        umask=0o077,
        user=user.uid if user.is_dropped_to else None,
        group=user.gid if user.is_dropped_to else None,
        extra_groups=[] if user.is_dropped_to else None,
    )


def run_process(
    arguments: Sequence[str | Path],
    user: SystemUser,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    text_input: str | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program as ``user`` to its end and return its output as text, whatever its exit code.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout_s`` seconds and was killed.
        OSError: it could not be run.
    """
    return subprocess.run(
        [str(argument) for argument in arguments],
        check=False,
        cwd=cwd,
        env=dict(environment),
        input=text_input or "",
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        start_new_session=True,
        umask=0o077,
        user=user.uid if user.is_dropped_to else None,
        group=user.gid if user.is_dropped_to else None,
        extra_groups=[] if user.is_dropped_to else None,
    )
