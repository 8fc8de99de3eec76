"""Binaries that the servers' user cannot read, such as a venv below /root, are copied to the cache once."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import stat
from pathlib import Path

from filelock import FileLock

from harness.errors import BinariesNotFoundError
from harness.postgres.identity import SystemUser, can_read_tree
from harness.postgres.installations import Installation
from harness.postgres.places import cache_dir, own_directory, require_room

# bin, lib, share and the libraries beside them took 40 MB for PostgreSQL 18 with contrib and Citus.
_NEEDED_BYTES = 120 * 2**20


def readable_by(installation: Installation, user: SystemUser) -> Installation:
    """The same installation, or a copy of it that ``user`` can read and run.

    Args:
        installation: which.
        user: as whom servers run.

    Returns:
        The installation itself where nothing hinders ``user``; else its copy in the cache, made at the first call.

    Raises:
        BinariesNotFoundError: it is spread over the system, so that no copy of it would find its parts.
    """
    if not user.is_dropped_to:
        return installation
    parts = (installation.bindir, installation.libdir, installation.sharedir)
    if all(can_read_tree(part, user) for part in parts) and _has_readable_libraries(installation, user):
        return installation
    prefix = Path(os.path.commonpath(parts))
    if prefix in (Path("/"), Path("/usr"), Path("/usr/local")):
        raise BinariesNotFoundError(
            f"{user.name} cannot read the PostgreSQL {installation.version} in {installation.bindir}",
            hint="let everybody read it, or name another user in HARNESS_PG_USER",
        )
    place = own_directory(cache_dir() / "binaries") / f"{installation.version}-{_fingerprint(installation, prefix)}"
    # A wheel's libraries lie beside the package, and are found by the relative place (F28): both keep their names.
    copied = place / prefix.parent.name / prefix.name
    with FileLock(place.with_name(f"{place.name}.lock"), thread_local=False):
        if not place.exists():
            _copy(prefix, parts, place)
    return dataclasses.replace(
        installation,
        bindir=copied / installation.bindir.relative_to(prefix),
        libdir=copied / installation.libdir.relative_to(prefix),
        sharedir=copied / installation.sharedir.relative_to(prefix),
        origin=f"{installation.origin}, copied for {user.name}",
    )


def _libraries_beside(prefix: Path) -> Path | None:
    libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
    return libraries if libraries.is_dir() else None


def _has_readable_libraries(installation: Installation, user: SystemUser) -> bool:
    libraries = _libraries_beside(installation.bindir.parent)
    return libraries is None or can_read_tree(libraries, user)


def _fingerprint(installation: Installation, prefix: Path) -> str:
    # Names, sizes and times of all programs and modules: an upgraded or rebuilt tree is copied again.
    seen = hashlib.sha256(str(prefix).encode())
    for directory in (installation.bindir, installation.libdir, installation.sharedir / "extension"):
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                info = path.stat()
                seen.update(f"{path}\0{info.st_size}\0{info.st_mtime_ns}\0".encode())
    return seen.hexdigest()[:16]


def _copy(prefix: Path, parts: tuple[Path, ...], place: Path) -> None:
    require_room(place.parent, _NEEDED_BYTES)
    building = place.with_name(f"{place.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    tops = {part.relative_to(prefix).parts[0] for part in parts}
    # Headers and static libraries run no server.
    leave_out = shutil.ignore_patterns("*.a", "pgxs")
    for top in sorted(tops):
        shutil.copytree(
            prefix / top, building / prefix.parent.name / prefix.name / top, ignore=leave_out, symlinks=True
        )
    libraries = _libraries_beside(prefix)
    if libraries is not None:
        shutil.copytree(libraries, building / libraries.name, symlinks=True)
    for path in (building, *building.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            runs = path.is_dir() or bool(mode & stat.S_IXUSR)
            path.chmod(0o755 if runs else 0o644)
    building.rename(place)
