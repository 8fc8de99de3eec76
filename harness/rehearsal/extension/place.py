"""The database whose extension is updated: a demonstration in a new server, or a base backup of a real one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from harness.engines.installed import EXTENSION, SERVER_SETTINGS, extension_version
from harness.errors import CheckFailedError, Finding, PreflightError
from harness.postgres import Installation, Server
from harness.postgres.places import run_dir
from harness.rehearsal.copying import COPY_DBNAME, Say
from harness.rehearsal.extension.demonstration import build
from harness.rehearsal.extension.model import Fresh, UpdateOptions
from harness.rehearsal.extension.scripts import (
    ScriptDirectory,
    fetch_path,
    find_extension_installation,
    gather_scripts,
)
from harness.rehearsal.extension.verbs import fetch_extension_sources
from harness.rehearsal.look import check_room
from harness.rehearsal.physical import check_physical, copy_physical, fetch_cluster_size
from harness.rehearsal.source import connect_source, fetch_facts, show_dsn, told_as_source_failure
from harness.rehearsal.tables import Connection, SourceTable

# An update and a DROP of everything lock each object that they touch.
_SETTINGS = {**SERVER_SETTINGS, "max_locks_per_transaction": "1024"}
#: In the place of a source's address.
DEMONSTRATION = "demonstration"


@dataclass(frozen=True)
class Place:
    """A database at the first version; its server is to be destroyed by whoever holds this.

    Attributes:
        server, dbname: where.
        sources: the tables that are written to.
        path: every version from the first to the last.
        scripts: where the server finds them.
        library_version: the default version of the installation whose library it runs on.
        source_dsn: where it came from, without password.
        warnings: what a person should know.
        refused: stream tables of the demonstration that the extension did not make.
        fresh: what was found of fresh installations, by version: each is made once.
    """

    server: Server
    dbname: str
    sources: tuple[SourceTable, ...]
    path: tuple[str, ...]
    scripts: ScriptDirectory
    library_version: str
    source_dsn: str
    warnings: tuple[Finding, ...] = ()
    refused: tuple[str, ...] = ()
    fresh: dict[str, Fresh] = field(default_factory=dict, compare=False, repr=False)

    def connect(self) -> Connection:
        """A new connection, as superuser, in autocommit."""
        return self.server.connect(self.dbname)


@contextlib.contextmanager
def made_place(options: UpdateOptions, say: Say) -> Iterator[Place]:
    """Make the database and remove it again.

    Args:
        options: what to rehearse.
        say: told what happens and how far it is, 0 to 1.

    Raises:
        ExtensionMissingError: no PostgreSQL here has the extension.
        PreflightError: there is no way between the versions, or the source has another one.
        CheckFailedError: the first version cannot be installed.
    """
    if options.dsn is None:
        with made_ground(options, say) as ground:
            say("sources and stream tables", 0.5)
            yield ground.demonstrate(COPY_DBNAME, options.start, options.target)
        return
    with _scratch() as scratch:
        place = _copy(options, scratch, say)
        try:
            yield place
        finally:
            place.server.destroy()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="harness-extension-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)  # the server runs as another user
        yield directory


@dataclass(frozen=True)
class Ground:
    """A server that finds the scripts, for demonstrations.

    Attributes:
        server, scripts, library_version: as of a `Place`.
        fresh: what was found of fresh installations, for all its places.
    """

    server: Server
    scripts: ScriptDirectory
    library_version: str
    fresh: dict[str, Fresh] = field(default_factory=dict, compare=False, repr=False)

    def demonstrate(self, dbname: str, start: str, target: str) -> Place:
        """A new database with the extension at the first version, and the demonstration.

        Raises:
            PreflightError: there is no way between the versions.
            CheckFailedError: the first version cannot be installed.
        """
        self.server.create_database(dbname)
        with contextlib.closing(self.server.connect(dbname)) as conn:
            path = fetch_path(conn, start, target)
            install(conn, start)
            sources, refused = build(conn)
        return Place(
            self.server,
            dbname,
            sources,
            path,
            self.scripts,
            self.library_version,
            DEMONSTRATION,
            refused=refused,
            fresh=self.fresh,
        )


@contextlib.contextmanager
def made_ground(options: UpdateOptions, say: Say) -> Iterator[Ground]:
    """Start a server for demonstrations and remove it again.

    Raises:
        ExtensionMissingError: no PostgreSQL here has the extension.
    """
    with _scratch() as scratch:
        installation = find_extension_installation()
        scripts = gather_scripts(installation, options.scripts, scratch)
        say("a server for the demonstration", 0.0)
        server = Server.create(
            installation, name="extension", settings={**_SETTINGS, **scripts.settings}, keep=options.keep
        )
        try:
            server.start()
            yield Ground(server, scripts, _library(installation))
        finally:
            server.destroy()


def _library(installation: Installation) -> str:
    return extension_version(installation) or "unknown"


def install(conn: Connection, version: str) -> None:
    """``CREATE EXTENSION`` at one version.

    Raises:
        CheckFailedError: its script fails with this library; with the server's words.
    """
    try:
        conn.execute(sql.SQL("CREATE EXTENSION {} VERSION {}").format(sql.Identifier(EXTENSION), sql.Literal(version)))
    except psycopg.errors.DatabaseError as error:
        if conn.closed or conn.broken:
            raise
        raise CheckFailedError(
            f"{EXTENSION} {version} cannot be installed: {error.diag.message_primary}",
            hint="with the library that is here; see CREATE EXTENSION ... VERSION",
            sqlstate=error.sqlstate,
        ) from None


def _copy(options: UpdateOptions, scratch: Path, say: Say) -> Place:
    assert options.dsn is not None  # noqa: S101 - asked for by made_place
    with connect_source(options.dsn) as connection, told_as_source_failure(show_dsn(options.dsn)):
        facts = fetch_facts(connection, options.dsn)
        _refuse_other_version(facts.extension_version, options.start, facts.shown)
        installation = find_extension_installation(major=facts.major)
        check_physical(connection, facts)
        check_room(run_dir(), fetch_cluster_size(connection), physical=True)
        scripts = gather_scripts(installation, options.scripts, scratch)
        scripts.require_way(options.start, options.target)
        copy = copy_physical(
            connection,
            facts,
            installation,
            keep=options.keep,
            say=say,
            preload=(EXTENSION,),
            settings={"pg_trickle.enabled": "off", **scripts.settings},
        )
    try:
        with contextlib.closing(copy.server.connect(copy.dbname)) as conn:
            path = fetch_path(conn, options.start, options.target)
            sources = _fetch_sources(conn, facts.shown)
        return Place(
            copy.server, copy.dbname, sources, path, scripts, _library(installation), facts.shown, copy.warnings
        )
    except BaseException:
        copy.server.destroy()
        raise


def _fetch_sources(conn: Connection, shown: str) -> tuple[SourceTable, ...]:
    sources = fetch_extension_sources(conn)
    if not sources:
        finding = Finding("no_sources", shown, "no table is captured: an update could lose nothing")
        raise PreflightError(f"{shown} cannot be rehearsed", (finding,), hint="the source was only read")
    return sources


def _refuse_other_version(there: str | None, wanted: str, shown: str) -> None:
    if there == wanted:
        return
    what = f"has {EXTENSION} {there}" if there else f"has no extension {EXTENSION}"
    finding = Finding(
        "other_version", EXTENSION, f"{shown} {what}, not {wanted}", f"begin with {there}..." if there else ""
    )
    raise PreflightError(f"{shown} cannot be rehearsed from {wanted}", (finding,), hint="nothing was changed")
