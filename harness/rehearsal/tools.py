"""PostgreSQL's own programs (pg_dump, pg_restore, pg_basebackup), run without a password in sight."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.errors import DiskFullError, HarnessError, ServerError
from harness.logs import redact

# Below this much free room a failed program is taken to have failed for want of it.
_FULL_BELOW_BYTES = 32 * 2**20
_POLL_S = 0.1
_STOP_GRACE_S = 5.0


@dataclass(frozen=True)
class Access:
    """How to reach a database from a program: arguments without secrets, and an environment that names a password file.

    Attributes:
        conninfo: the connection string for the command line; holds no password.
        env: what the program's environment needs beside the current one.
    """

    conninfo: str
    env: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def password_file(dsn: str, directory: Path, *, read_only: bool = False) -> Iterator[Access]:
    """Split a DSN into what may be seen in a process list and what may not.

    Args:
        dsn: a connection string or URI, resolved to one host.
        directory: a private directory; the files made in it (mode 0600) are removed at the end.
        read_only: every transaction of the program is read-only by default.

    Yields:
        The access, valid inside the block.
    """
    parameters = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    password = parameters.pop("password", None)
    key_password = parameters.pop("sslpassword", None)
    env: dict[str, str] = {}
    made: list[Path] = []
    if read_only:
        options = f"{parameters.pop('options', '')} -c default_transaction_read_only=on".strip()
        env["PGOPTIONS"] = options
    try:
        if password is not None:
            escaped = password.replace("\\", "\\\\").replace(":", "\\:")
            parameters["passfile"] = str(_write_private(directory / "source.pgpass", f"*:*:*:*:{escaped}\n", made))
        if key_password is not None:  # libpq reads it from a connection string or a service file only
            lines = f"[harness_source]\nsslpassword={key_password}\n"
            env["PGSERVICEFILE"] = str(_write_private(directory / "source.service", lines, made))
            parameters["service"] = "harness_source"
        yield Access(make_conninfo(**parameters), env)
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _write_private(path: Path, text: str, made: list[Path]) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    made.append(path)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def run_program(
    program: Path,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    disk: Path,
    accepted: tuple[int, ...] = (0,),
    on_tick: Callable[[], None] | None = None,
    user: int | None = None,
    group: int | None = None,
) -> int:
    """Run one program to its end; an exception or Ctrl-C on the way stops it and its children.

    Args:
        program: the executable.
        arguments: what follows it; must hold no secret.
        env: added to the current environment.
        log: a file for what it prints; its tail goes into the error.
        disk: a path on the disk that it fills, to tell a full disk from another failure.
        accepted: exit codes that are good.
        on_tick: called about ten times a second while it runs, for progress.
        user, group: run as these ids (only as root).

    Returns:
        The exit code.

    Raises:
        DiskFullError: it failed and the disk is full.
        ServerError: it failed otherwise; the message has its last line.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_MESSAGES": "C", **env},
            cwd=log.parent,  # in the server's own directory: what sweeps that finds this too
            start_new_session=True,  # Ctrl-C comes to us, and we stop it
            user=user,
            group=group,
        )
        try:
            code = _wait(process, on_tick)
        except BaseException:
            _stop(process)
            raise
    if code in accepted:
        return code
    raise program_failure(program.name, log, disk, code)


def _wait(process: subprocess.Popen[bytes], on_tick: Callable[[], None] | None) -> int:
    while True:
        try:
            return process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            if on_tick is not None:
                on_tick()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and its workers: its session is its own, so its id is the group's."""
    started = time.monotonic()
    for signal_number in (15, 9):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=max(0.1, _STOP_GRACE_S - (time.monotonic() - started)))
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def program_failure(name: str, log: Path, disk: Path, code: int) -> HarnessError:
    """The error for a program that failed: a full disk, or its own last words."""
    if is_disk_full(disk):
        return disk_full(disk, f"{name} stopped")
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = redact(" | ".join(lines[-3:])) or "it said nothing"
    return ServerError(
        f"{name} ended with code {code}: {told}", hint="the source was only read; nothing was changed there"
    )


def is_disk_full(path: Path) -> bool:
    """Is there no room left where this path lies?"""
    return shutil.disk_usage(path).free < _FULL_BELOW_BYTES


def disk_full(path: Path, what: str) -> DiskFullError:
    """The error for a disk that filled up on the way."""
    free_mb = shutil.disk_usage(path).free / 2**20
    return DiskFullError(
        f"{what}: no room left on the disk of {path} ({free_mb:.0f} MB free)",
        hint="free some, or set HARNESS_RUN_DIR to a directory on a larger disk; the source was not changed",
    )


def is_no_space(error: OSError) -> bool:
    """Did the operating system say that the disk, or the quota, is full?"""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
