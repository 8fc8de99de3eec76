"""A data directory made by ``initdb`` once, and copied for each server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from harness.errors import DiskFullError, ServerStartError
from harness.postgres.configuration import FILE_NAME, hba_text
from harness.postgres.identity import SystemUser, child_environment, run_process
from harness.postgres.installations import Installation
from harness.postgres.passwords import make_password, write_secret
from harness.postgres.places import cache_dir, own_directory, require_room

SUPERUSER = "postgres"
# Counts up when what is in a template changes, so that older ones are not used.
_FORMAT = 1
# initdb takes half a second; the rest is for a machine that does much else.
_INITDB_TIMEOUT_S = 120.0
_COPY_TIMEOUT_S = 60.0
# A template and a server's first WAL: 40 MB and 16 MB a segment.
NEEDED_BYTES = 150 * 2**20


@dataclass(frozen=True)
class Template:
    """A data directory to copy.

    Every copy has the same system identifier (F35): it does not tell servers apart.

    Attributes:
        data_dir: the directory, owned by the servers' user.
        password: the superuser's, until the copy has one of its own.
    """

    data_dir: Path
    password: str


def fetch_template(installation: Installation, user: SystemUser) -> Template:
    """The template of this installation and user, made now if there is none yet.

    Raises:
        ServerStartError: initdb failed; its last words are in ``log_tail``.
        DiskFullError: there is no room.
    """
    postgres = installation.program("postgres").stat()
    identity = f"{_FORMAT}\0{installation.bindir}\0{postgres.st_size}\0{postgres.st_mtime_ns}\0{user.uid}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    templates = own_directory(cache_dir() / "templates")
    place = templates / f"{installation.version}-{key}"
    if not place.exists():
        with FileLock(templates / f"{place.name}.lock", thread_local=False):
            if not place.exists():
                _build(installation, user, place)
    return Template(place / "data", (place / "password").read_text(encoding="utf-8"))


def _build(installation: Installation, user: SystemUser, place: Path) -> None:
    require_room(place.parent, NEEDED_BYTES)
    for left in place.parent.glob(f"{place.name}.building-*"):  # a killed run's; we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    building = own_directory(place.with_name(f"{place.name}.building-{secrets.token_hex(4)}"))
    try:
        data_dir = make_server_directory(building / "data", user)
        password = make_password()
        write_secret(building / "pwfile", password, user.uid, user.gid)
        _run_initdb(installation, user, data_dir, building)
        (building / "pwfile").unlink()
        write_secret(building / "password", password, os.geteuid(), os.getegid())
        (data_dir / "pg_hba.conf").write_text(hba_text(), encoding="ascii")
        with (data_dir / "postgresql.conf").open("a", encoding="ascii") as file:
            file.write(f"include = '{FILE_NAME}'\n")
        _make_wal_sparse(data_dir, user)
        building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _run_initdb(installation: Installation, user: SystemUser, data_dir: Path, building: Path) -> None:
    command: list[str | Path] = [
        installation.program("initdb"),
        f"--pgdata={data_dir}",
        f"--username={SUPERUSER}",
        f"--pwfile={building / 'pwfile'}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # The same order and case on every machine, whatever its libc knows.
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]
    try:
        done = run_process(
            command, user, cwd=building, environment=child_environment(building), timeout_s=_INITDB_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerStartError(f"initdb of {installation.bindir} did not run as {user.name}: {error}") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        if "No space left on device" in said:
            raise DiskFullError(f"{building} is full", hint="make room, or set HARNESS_CACHE_DIR to another disk")
        raise ServerStartError(
            f"initdb of {installation.bindir} failed as {user.name}: {said.splitlines()[-1] if said else 'no word'}",
            hint="`harness doctor` says which binaries there are",
            log_tail=said,
        )


def _make_wal_sparse(data_dir: Path, user: SystemUser) -> None:
    # The one WAL segment is 16 MB of zeros after the first few hundred kB: as a hole they cost a copy nothing.
    for segment in (data_dir / "pg_wal").iterdir():
        if segment.is_file():
            content = segment.read_bytes()
            fresh = segment.with_suffix(".sparse")
            fresh.touch(mode=0o600)
            fresh.write_bytes(content.rstrip(b"\0"))
            os.truncate(fresh, len(content))
            give_to(fresh, user)
            fresh.replace(segment)


def give_to(path: Path, user: SystemUser) -> None:
    """Make ``path`` belong to the servers' user, where that is another one than ours."""
    if user.is_dropped_to:
        os.chown(path, user.uid, user.gid)


def make_server_directory(path: Path, user: SystemUser) -> Path:
    """Make a directory that only the servers' user (and root) can enter."""
    path.mkdir(mode=0o700)
    give_to(path, user)
    return path


def copy_template(template: Template, target: Path, user: SystemUser) -> None:
    """Fill the empty directory ``target`` with a copy, by reflink where the file system has it.

    Raises:
        DiskFullError: there is no room.
        ServerStartError: the copy failed.
    """
    require_room(target, NEEDED_BYTES)
    # cp copies 970 files in 60 ms, as the servers' user; a loop in Python took twice that.
    if sys.platform == "darwin":
        attempts = [["cp", "-cpR"], ["cp", "-pR"]]
    else:
        attempts = [["cp", "-a", "--reflink=auto"], ["cp", "-a"]]
    said = ""
    for attempt in attempts:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = run_process(
                [*attempt, f"{template.data_dir}/.", target],
                user,
                cwd=target,
                environment=child_environment(target),
                timeout_s=_COPY_TIMEOUT_S,
            )
            if done.returncode == 0:
                return
            said = done.stderr.strip()
    require_room(target, NEEDED_BYTES)
    raise ServerStartError(f"the template {template.data_dir} could not be copied to {target}", log_tail=said)
