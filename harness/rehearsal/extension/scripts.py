"""Versions of the extension: what was asked for, which scripts there are, and the way from one to the other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.engines.installed import (
    EXTENSION,
    ExtensionMissingError,
    choose_extension_installation,
    extension_version,
)
from harness.errors import BadInputError, Finding, PreflightError, UnsupportedVersionError
from harness.postgres import Installation, find_installations
from harness.rehearsal.tables import Connection
from harness.settings import load_settings

_VERSION = r"[0-9A-Za-z][0-9A-Za-z._+-]*?"
_SPAN = re.compile(rf"({_VERSION})\.\.({_VERSION})")
_INSTALLS = re.compile(rf"{EXTENSION}--((?:(?!--).)+)\.sql")
_UPDATES = re.compile(rf"{EXTENSION}--((?:(?!--).)+)--((?:(?!--).)+)\.sql")
# extension_control_path came with PostgreSQL 18 (its release notes, "Server Configuration").
_OWN_DIRECTORY_SINCE = 18


@dataclass(frozen=True)
class ScriptDirectory:
    """Where the server finds the extension's scripts.

    Attributes:
        directory: the one that holds control file and scripts.
        settings: what the server needs to be told to look there.
    """

    directory: Path
    settings: dict[str, str]

    @property
    def installable(self) -> frozenset[str]:
        """The versions that have an install script of their own: only these are fresh when they are created."""
        found = (_INSTALLS.fullmatch(path.name) for path in self.directory.glob(f"{EXTENSION}--*.sql"))
        return frozenset(match[1] for match in found if match)

    def require_way(self, start: str, target: str) -> None:
        """Say no before anything is copied; which way it is, the server says (`fetch_path`).

        Raises:
            PreflightError: there is no way between the two; names both.
        """
        found = (_UPDATES.fullmatch(path.name) for path in self.directory.glob(f"{EXTENSION}--*--*.sql"))
        updates = {(match[1], match[2]) for match in found if match}
        reached, fresh = {start}, {start}
        while fresh:
            fresh = {after for before, after in updates if before in fresh} - reached
            reached |= fresh
        if target not in reached:
            raise _no_way(start, target, self.installable)


def script_directories() -> tuple[Path, ...]:
    """The directories of ``HARNESS_EXTENSION_SCRIPTS``."""
    return tuple(Path(part) for part in load_settings().extension_scripts.split(":") if part)


def parse_span(text: str) -> tuple[str, str]:
    """The two versions of ``FROM..TO``.

    Raises:
        BadInputError: it is none, or both are the same.
    """
    match = _SPAN.fullmatch(text)
    if match is None or match[1] == match[2]:
        raise BadInputError(
            f"--extension-update {text!r} names no two versions", hint="such as 0.66.0..0.67.0; two dots between them"
        )
    return match[1], match[2]


def find_extension_installation(*, major: int | None = None) -> Installation:
    """The first supported PostgreSQL here that has the extension.

    Args:
        major: it must be of this major version, as a base backup needs it; None: any.

    Raises:
        ExtensionMissingError: there is none; says where it was looked for.
    """
    first = choose_extension_installation()
    fitting = (one for one in find_installations() if one.major == major and extension_version(one) is not None)
    found = first if major is None else next(fitting, None)
    if found is None:
        raise ExtensionMissingError(
            f"no PostgreSQL {major} with {EXTENSION} was found, only {first.version} in {first.bindir}",
            hint="a base backup runs on its own major version: install the extension there, or set HARNESS_PG_BINDIR",
        )
    return found


def gather_scripts(installation: Installation, extra: Sequence[Path], place: Path) -> ScriptDirectory:
    """Control file and scripts of the installation, and those of other directories beside them.

    Args:
        installation: which has the extension.
        extra: directories with ``pg_trickle--*.sql``; a script of theirs wins over the installation's.
        place: a directory that is ours, readable by the server; used only where there are others.

    Raises:
        BadInputError: a directory has no such script.
        UnsupportedVersionError: the server looks in one directory only (before PostgreSQL 18).
    """
    own = installation.sharedir / "extension"
    if not extra:
        return ScriptDirectory(own, {})
    if installation.major < _OWN_DIRECTORY_SINCE:
        raise UnsupportedVersionError(
            f"--extension-scripts needs PostgreSQL 18; {installation.bindir} has {installation.version}",
            hint=f"copy the scripts to {own}",
        )
    target = place / "extension"
    target.mkdir(parents=True, mode=0o755)
    for directory in (own, *extra):
        scripts = sorted(directory.glob(f"{EXTENSION}--*.sql"))
        if not scripts and directory != own:
            raise BadInputError(
                f"--extension-scripts {directory} has no {EXTENSION}--*.sql", hint="name the directory of the scripts"
            )
        for script in scripts:
            shutil.copyfile(script, target / script.name)
    shutil.copyfile(own / f"{EXTENSION}.control", target / f"{EXTENSION}.control")
    for path in (place, target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # Other extensions are still found where they were.
    return ScriptDirectory(target, {"extension_control_path": f"{place}:$system"})


def fetch_path(conn: Connection, start: str, target: str) -> tuple[str, ...]:
    """The versions from one to the other, both included, as ``ALTER EXTENSION ... UPDATE`` would go.

    Raises:
        PreflightError: there is no such version, or no way between the two; names both.
    """
    row = conn.execute(
        "SELECT path FROM pg_catalog.pg_extension_update_paths(%s) WHERE source = %s AND target = %s",
        [EXTENSION, start, target],
    ).fetchone()
    if row is None or row[0] is None:
        known = conn.execute(
            "SELECT version FROM pg_catalog.pg_available_extension_versions WHERE name = %s", [EXTENSION]
        ).fetchall()
        raise _no_way(start, target, [str(version) for (version,) in known])
    return tuple(str(row[0]).split("--"))


def _no_way(start: str, target: str, installable: Iterable[str]) -> PreflightError:
    listed = ", ".join(sorted(installable))
    finding = Finding(
        "no_update_path",
        f"{start}..{target}",
        f"the scripts here have no way from {start} to {target} (installable: {listed})",
        "name more scripts with --extension-scripts DIR, or other versions",
    )
    return PreflightError(f"{EXTENSION} cannot be updated from {start} to {target}", (finding,))
