"""Where the rehearsal takes place: the demonstration, or a copy of the database that was named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.chain import runner
from harness.chain.adopt import adopt
from harness.errors import Finding, UnsupportedVersionError
from harness.postgres import Installation, Server, choose_installation, find_installations
from harness.postgres.places import run_dir
from harness.rehearsal.copying import COPY_DBNAME, Say, copy_logical
from harness.rehearsal.demonstration import build_demonstration
from harness.rehearsal.look import check_room, choose_for, look, look_at_immediate
from harness.rehearsal.options import RehearsalOptions
from harness.rehearsal.physical import check_physical, copy_physical, fetch_cluster_size
from harness.rehearsal.source import (
    CatalogState,
    SourceFacts,
    connect_source,
    fetch_facts,
    show_dsn,
    told_as_source_failure,
)

# The demonstration's rows, their buffers, what the checks keep, and the WAL of it all: some 1.2 kB a row.
_DEMONSTRATION_ROW_BYTES = 1200


@dataclass(frozen=True)
class Looked:
    """What the first step found.

    Attributes:
        installation: where the rehearsal takes place.
        facts: of the source; None: the demonstration.
        warnings: what the person should know.
    """

    installation: Installation
    facts: SourceFacts | None
    warnings: tuple[Finding, ...]


@dataclass(frozen=True)
class Place:
    """A database that is ours to upgrade; its server is to be destroyed by whoever holds this."""

    server: Server
    dbname: str
    warnings: tuple[Finding, ...] = ()

    @property
    def dsn(self) -> str:
        """How to reach it, with password: never print it."""
        return self.server.dsn(self.dbname)


def look_around(options: RehearsalOptions) -> Looked:
    """Look before anything is made: at the source, at the binaries, at the disk.

    Raises:
        PreflightError: something stands in the way; each finding says what to do.
        RefusedError: the source is not reachable, not supported, not readable.
        EnvironmentMissingError: no binaries that will do, or no room.
    """
    if options.dsn is None:
        installation = choose_installation()
        check_room(run_dir(), options.rows * _DEMONSTRATION_ROW_BYTES, physical=True)
        return Looked(installation, None, ())
    is_physical = options.copy == "physical"
    with connect_source(options.dsn) as connection:
        with told_as_source_failure(show_dsn(options.dsn)):
            facts = fetch_facts(connection, options.dsn)
        with told_as_source_failure(facts.shown):
            chosen = choose_for(find_installations(), facts, same_major=is_physical)
            if chosen is None:
                wanted = f"PostgreSQL {facts.major}" + ("" if is_physical else " or newer")
                raise UnsupportedVersionError(
                    f"the source runs {facts.version}; a copy needs {wanted}, and this machine has none",
                    hint="install it, or name its directory in HARNESS_PG_BINDIR; `harness doctor` lists what is here",
                )
            report = look(connection, facts, chosen, runner.REVISIONS, physical=is_physical)
            report.raise_if_stopped(facts.shown)
            warnings = report.warnings + look_at_immediate(connection, facts, options.immediate)
            if is_physical:
                check_physical(connection, facts)
            size = fetch_cluster_size(connection) if is_physical else facts.size_bytes
    check_room(run_dir(), size, physical=is_physical)
    return Looked(chosen, facts, warnings)


def make_place(options: RehearsalOptions, seed: int, looked: Looked, say: Say) -> Place:
    """Make the database to upgrade.

    Args:
        options: what was asked for.
        seed: of the demonstration.
        looked: from `look_around`.
        say: told what happens and how far it is, 0 to 1.

    Returns:
        A database at a revision of the chain, its server running. On an exception nothing of it is left.
    """
    if looked.facts is None:
        return _make_demonstration(options, seed, looked.installation, say)
    facts = looked.facts
    with told_as_source_failure(facts.shown):
        if options.copy == "physical":
            with connect_source(facts.dsn) as connection:
                copy = copy_physical(connection, facts, looked.installation, keep=options.keep, say=say)
        else:
            copy = copy_logical(facts, looked.installation, jobs=options.jobs, keep=options.keep, say=say)
    place = Place(copy.server, copy.dbname, copy.warnings)
    return _or_destroy(copy.server, lambda: _adopted(place, facts, options))


def _adopted(place: Place, facts: SourceFacts, options: RehearsalOptions) -> Place:
    """A catalog that the chain does not own yet is taken over, as the real one will be."""
    is_taken = facts.catalog is CatalogState.CHAIN or (
        facts.catalog is CatalogState.EXTENSION and options.copy == "logical"
    )
    if not is_taken:
        adopt(place.dsn, mode=options.immediate)
    return place


def _make_demonstration(options: RehearsalOptions, seed: int, installation: Installation, say: Say) -> Place:
    # One lock for each object of a transaction; 1,000 sources are made a hundred at a time.
    server = Server.create(
        installation,
        name="demonstration",
        settings={"max_locks_per_transaction": "1024", "max_wal_size": "8GB", "shared_buffers": "256MB"},
        keep=options.keep,
    )

    def build() -> Place:
        server.start()
        server.create_database(COPY_DBNAME)
        runner.upgrade(server.dsn(COPY_DBNAME), "0001")
        with server.connect(COPY_DBNAME) as conn:
            build_demonstration(conn, sources=options.sources, rows=options.rows, seed=seed, on_progress=say)
        return Place(server, COPY_DBNAME)

    return _or_destroy(server, build)


def _or_destroy(server: Server, make: Callable[[], Place]) -> Place:
    try:
        return make()
    except BaseException:
        server.destroy()
        raise


def told(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Findings as lines for the report."""
    return tuple(f"{one.subject}: {one.message}" + (f" ({one.hint})" if one.hint else "") for one in findings)
