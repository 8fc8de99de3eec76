"""Where servers, templates and locks live, and that nobody else can write there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import struct
import sys
from pathlib import Path

from harness.errors import BadInputError, DiskFullError
from harness.postgres.identity import can_enter, server_user
from harness.settings import load_settings

# Below /tmp on every system: TMPDIR is 49 characters long on macOS, and a socket's path may have 103 (107 on Linux).
_SHORT_BASE = Path("/tmp")  # noqa: S108 - the directory made in it is checked to be ours alone
# sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero byte included.
SOCKET_PATH_LIMIT_BYTES = 103 if os.uname().sysname == "Darwin" else 107

# FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL of linux/fs.h, on 64-bit systems.
_GET_FLAGS, _SET_FLAGS, _TOP_OF_HIERARCHY = 0x80086601, 0x40086602, 0x00020000


def _make_directory(path: Path) -> None:
    # Each with its mode set afterwards: with a umask of 077 the servers' user could not enter root's.
    mode = 0o711 if server_user().is_dropped_to else 0o700
    for missing in reversed([one for one in (path, *path.parents) if not one.exists()]):
        missing.mkdir(mode=mode, exist_ok=True)
        missing.chmod(mode)


def own_directory(path: Path) -> Path:
    """Make ``path`` a directory that only this user writes to; root's can be entered (not listed) by the server's user.

    Raises:
        BadInputError: something else is there: a link, a file, or a directory that others own or write to.
    """
    try:
        _make_directory(path)
        info = path.lstat()
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be a directory for servers: {error.strerror}",
            hint="set HARNESS_RUN_DIR to a directory that you can write to",
        ) from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise BadInputError(
            f"{path} is not a directory that belongs to you alone", hint="remove it, or set HARNESS_RUN_DIR to another"
        )
    return path


def base_dir() -> Path:
    """The private directory of this user below /tmp, the same for all runs; holds what runs share."""
    return own_directory(_SHORT_BASE / f"pgtrickle-harness-{os.geteuid()}")


def run_dir() -> Path:
    """Where servers live: ``HARNESS_RUN_DIR``, else the private directory below /tmp.

    Raises:
        BadInputError: the directory that was set cannot be written to, or the server's user cannot enter it.
    """
    wanted = load_settings().run_dir
    if wanted is None:
        return base_dir()
    user = server_user()
    path = wanted.expanduser().absolute()
    try:
        _make_directory(path)
    except OSError as error:
        raise BadInputError(
            f"HARNESS_RUN_DIR={str(wanted)!r} cannot be made: {error.strerror}",
            hint="name a directory you can write to",
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadInputError(f"HARNESS_RUN_DIR={str(wanted)!r} cannot be written to", hint="name one that can")
    if user.is_dropped_to and not can_enter(path, user):
        raise BadInputError(
            f"HARNESS_RUN_DIR={str(wanted)!r} cannot be entered by {user.name!r}, as whom servers run",
            hint="give search permission on it and all above it, name another, or set HARNESS_PG_USER",
        )
    return path


def servers_dir() -> Path:
    """Where each server has its directory."""
    path = own_directory(run_dir() / "servers")
    _spread_out(path)
    return path


def _spread_out(path: Path) -> None:
    """On ext4, give each directory made in ``path`` a block group of its own (``chattr +T``); elsewhere do nothing.

    Without a journal ext4 hands out no inode that was deleted within the last minutes, and looks for another one by
    one: where servers come and go in one group, a copy of 970 files took 0.75 s there, and 0.05 s with the flag.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            flags = bytearray(8)  # the kernel reads and writes an int there, and says long in the number of the call
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
            (now,) = struct.unpack_from("=I", flags)
            if not now & _TOP_OF_HIERARCHY:
                fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("=II", now | _TOP_OF_HIERARCHY, 0))
        finally:
            os.close(descriptor)


def sockets_dir() -> Path:
    """Where sockets are whose server lives too deep for a socket's path."""
    return own_directory(base_dir() / "sockets")


def cache_dir() -> Path:
    """Templates and copied binaries: ``HARNESS_CACHE_DIR``, else inside `run_dir`, where a reflink can reach.

    Raises:
        BadInputError: it cannot be made, or the server's user cannot enter it.
    """
    wanted = load_settings().cache_dir
    if wanted is None:
        return own_directory(run_dir() / "cache")
    path = own_directory(wanted.expanduser().absolute())
    user = server_user()
    if user.is_dropped_to and not can_enter(path, user):
        raise BadInputError(
            f"HARNESS_CACHE_DIR={str(wanted)!r} cannot be entered by {user.name!r}, as whom servers run",
            hint="give search permission on it and all above it, or name another",
        )
    return path


def require_room(path: Path, needed_bytes: int) -> None:
    """Make sure that there is room below ``path``.

    Raises:
        DiskFullError: less than ``needed_bytes`` are free.
    """
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < needed_bytes:
        raise DiskFullError(
            f"{path} has {free_bytes // 2**20} MiB free, {needed_bytes // 2**20} MiB are needed",
            hint="make room, or set HARNESS_RUN_DIR to another disk",
        )
