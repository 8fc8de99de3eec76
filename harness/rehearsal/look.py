"""The first step: what stands in the way of a rehearsal, and of the upgrade itself, found by reading only."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from harness.errors import DiskFullError, Finding, MissingPrivilegeError, PreflightError
from harness.postgres import Installation
from harness.rehearsal.look_catalog import look_at_catalog
from harness.rehearsal.source import CatalogState, Connection, SourceFacts
from harness.rehearsal.tables import TableName

# The copy, and beside it an uncompressed dump, which is larger than the tables where they hold many narrow rows.
_LOGICAL_ROOM = 2.2
_PHYSICAL_ROOM = 1.3
_SPARE_BYTES = 256 * 2**20
# A transaction older than this makes the chain wait for its locks (goal of the issue: nobody else stalls meanwhile).
_LONG_S = 10
_MOST_NAMED = 5

_UNREADABLE = """
SELECT n.nspname::text, c.relname::text,
       CASE WHEN NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') THEN 'USAGE on its schema'
            WHEN NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN 'SELECT'
            ELSE 'a way around its row security' END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S', 'm') AND c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'
  AND (NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') OR NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
       OR (c.relrowsecurity AND pg_catalog.row_security_active(c.oid)))
ORDER BY 1, 2
"""
_LONG = """
SELECT a.pid, a.usename::text, extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.xact_start < clock_timestamp() - make_interval(secs => %s)
ORDER BY a.xact_start
"""
_PREPARED = """
SELECT p.gid, p.owner::text, extract(epoch FROM clock_timestamp() - p.prepared)::float8
FROM pg_catalog.pg_prepared_xacts p WHERE p.database = current_database() ORDER BY p.prepared
"""
_SLOTS = """
SELECT s.slot_name::text, s.active FROM pg_catalog.pg_replication_slots s
WHERE s.database = current_database() ORDER BY 1
"""
_SOURCES = """
SELECT d.source_relid::bigint, n.nspname::text, c.relname::text
FROM (SELECT DISTINCT source_relid FROM pgtrickle.pgt_dependencies WHERE source_type IN ('TABLE', 'FOREIGN_TABLE')
      UNION SELECT source_relid FROM pgtrickle.pgt_change_tracking) d
LEFT JOIN pg_catalog.pg_class c ON c.oid = d.source_relid
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY 2, 3
"""
# What of other extensions the database uses: an object of its own that depends on one of theirs.
_NEEDED_EXTENSIONS = """
SELECT DISTINCT e.extname::text
FROM pg_catalog.pg_depend member
JOIN pg_catalog.pg_extension e ON e.oid = member.refobjid
JOIN pg_catalog.pg_depend use
  ON use.refclassid = member.classid AND use.refobjid = member.objid AND use.deptype IN ('n', 'a')
WHERE member.refclassid = 'pg_catalog.pg_extension'::regclass AND member.deptype = 'e'
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend other
                  WHERE other.classid = use.classid AND other.objid = use.objid AND other.deptype = 'e')
"""


@dataclass(frozen=True)
class LookReport:
    """What a look at the source found.

    Attributes:
        stops: what makes a rehearsal impossible or senseless.
        warnings: what the person should know, and what the upgrade of the real one will meet.
    """

    stops: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    def raise_if_stopped(self, shown: str) -> None:
        """Raise what stands in the way, if anything does.

        Raises:
            PreflightError: with all findings that stop; nothing was changed.
        """
        if self.stops:
            raise PreflightError(
                f"{shown} cannot be rehearsed: {len(self.stops)} thing(s) stand in the way",
                self.stops,
                hint="nothing was changed; see each finding",
            )


def look_at_rights(connection: Connection) -> tuple[Finding, ...]:
    """Tables that this role cannot read in full: a copy would miss them, so each stops."""
    rows = connection.execute(_UNREADABLE).fetchall()
    findings = [
        Finding(
            "not_readable",
            TableName(schema, name).label,
            f"the role lacks {right}",
            "GRANT pg_read_all_data (and BYPASSRLS) to the role, or use the owner's",
        )
        for schema, name, right in rows[:_MOST_NAMED]
    ]
    if len(rows) > _MOST_NAMED:
        findings.append(Finding("not_readable", f"{len(rows) - _MOST_NAMED} more", "as above", ""))
    return tuple(findings)


def look_at_activity(connection: Connection) -> tuple[Finding, ...]:
    """Old transactions, prepared ones and slots: they are not copied, and the real upgrade will wait for them."""
    findings = [
        Finding(
            "long_transaction",
            f"pid {pid} ({user})",
            f"a transaction has been open for {seconds:.0f} s",
            "the upgrade waits for what it locked; end it before the real one",
        )
        for pid, user, seconds in connection.execute(_LONG, [_LONG_S]).fetchall()[:_MOST_NAMED]
    ]
    findings += [
        Finding(
            "prepared_transaction",
            gid,
            f"prepared by {owner} {seconds:.0f} s ago, neither committed nor rolled back",
            "it holds its locks until COMMIT PREPARED or ROLLBACK PREPARED; the copy does not have it",
        )
        for gid, owner, seconds in connection.execute(_PREPARED).fetchall()[:_MOST_NAMED]
    ]
    findings += [
        Finding(
            "replication_slot",
            slot,
            f"a logical slot of this database, {'in use' if active else 'idle'}",
            "the copy does not have it; sources with cdc_mode WAL are captured by triggers from the upgrade on",
        )
        for slot, active in connection.execute(_SLOTS).fetchall()[:_MOST_NAMED]
    ]
    return tuple(findings)


def look_at_sources(connection: Connection) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Sources that are gone, and sources that would get one name (D1).

    Returns:
        What stops, and what is only told.
    """
    stops, warnings = [], []
    by_stable_name: dict[str, TableName] = {}
    rows = connection.execute(_SOURCES).fetchall()
    if not any(schema is not None for _, schema, _ in rows):
        stops.append(
            Finding(
                "no_sources",
                "pgtrickle.pgt_change_tracking",
                "no table is captured: there is nothing that an upgrade could lose",
                "upgrade it with `harness migrate up`",
            )
        )
    for relid, schema, name in rows:
        if schema is None:
            warnings.append(
                Finding(
                    "source_gone",
                    f"OID {relid}",
                    "the catalog tracks a table that no longer exists",
                    "the upgrade lists it too; drop its stream tables, or its rows in the catalog",
                )
            )
            continue
        table = TableName(schema, name)
        other = by_stable_name.setdefault(table.stable_name, table)
        if other != table:
            stops.append(
                Finding(
                    "stable_name_collision",
                    table.label,
                    f"{table.label} and {other.label} share the stable name {table.stable_name}",
                    "rename one of the two, or its schema, before the upgrade",
                )
            )
    return tuple(stops), tuple(warnings)


def look_at_library(connection: Connection, facts: SourceFacts) -> tuple[Finding, ...]:
    """Is the extension's library preloaded there? Then its scheduler works on the same catalog."""
    try:
        row = connection.execute("SELECT current_setting('shared_preload_libraries')").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        row = None
    libraries = str(row[0]) if row else ""
    if facts.catalog is CatalogState.EXTENSION and "pg_trickle" in libraries:
        return (
            Finding(
                "library_preloaded",
                "shared_preload_libraries",
                "pg_trickle's library is preloaded in the source",
                "the rehearsal does not need it; `harness migrate adopt` refuses until it is gone from there",
            ),
        )
    return ()


def look_at_extensions(
    connection: Connection, facts: SourceFacts, installation: Installation
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Extensions that the source has and this machine does not: a stop where something depends on them.

    Returns:
        What stops, and what is only told.
    """
    absent = sorted(set(facts.extensions) - set(installation.extensions) - {"plpgsql"})
    needed = {name for (name,) in connection.execute(_NEEDED_EXTENSIONS)} if absent else set()
    stops = tuple(
        Finding(
            "extension_missing_here",
            name,
            f"the database uses the extension {name}, which PostgreSQL {installation.version} in "
            f"{installation.bindir} does not have",
            "install it there, or set HARNESS_PG_BINDIR to a PostgreSQL that has it",
        )
        for name in absent
        if name in needed
    )
    warnings = tuple(
        Finding(
            "extension_left_out",
            name,
            f"the extension {name} is not here; nothing depends on it, the copy goes without",
            "",
        )
        for name in absent
        if name not in needed
    )
    return stops, warnings


def look_at_immediate(connection: Connection, facts: SourceFacts, wanted: str) -> tuple[Finding, ...]:
    """IMMEDIATE stream tables: their triggers call the extension's library, and an upgrade leaves it.

    Args:
        connection: to the source.
        facts: what it is.
        wanted: ``refuse`` or ``differential``.

    Raises:
        PreflightError: there are some, and they are to be refused.
    """
    if facts.catalog is CatalogState.CHAIN:
        return ()
    rows = connection.execute(
        "SELECT pgt_schema, pgt_name FROM pgtrickle.pgt_stream_tables WHERE refresh_mode = 'IMMEDIATE' ORDER BY 1, 2"
    ).fetchall()
    findings = tuple(
        Finding(
            "immediate",
            TableName(schema, name).label,
            "is IMMEDIATE: its triggers call the extension's library; an upgrade makes it DIFFERENTIAL",
            "make it DIFFERENTIAL or FULL before the upgrade, if that is not what you want",
        )
        for schema, name in rows
    )
    if findings and wanted == "refuse":
        raise PreflightError(
            f"{len(findings)} stream table(s) of {facts.dbname} are IMMEDIATE",
            findings,
            hint="--immediate differential rehearses them as DIFFERENTIAL; nothing was changed",
        )
    return findings


def choose_for(installations: Iterable[Installation], facts: SourceFacts, *, same_major: bool) -> Installation | None:
    """The PostgreSQL for the copy: supported, as new as the source or newer, with most of its extensions.

    Args:
        installations: in the order of the search.
        facts: what the source is.
        same_major: a base backup runs on its own major version only.

    Returns:
        The best one, the first of equals; None if none will do.
    """
    fitting = [
        one
        for one in installations
        if one.is_supported and (one.major == facts.major if same_major else one.major >= facts.major)
    ]
    wanted = set(facts.extensions)
    return max(fitting, key=lambda one: (len(wanted & set(one.extensions)), one.major == facts.major), default=None)


def check_room(run_dir: Path, size_bytes: int, *, physical: bool) -> None:
    """Is there room for the copy?

    Args:
        run_dir: where temporary servers live; it, or the nearest directory above that exists, is looked at.
        size_bytes: of the database (of the whole cluster for a physical copy).
        physical: a base backup needs no dump beside it.

    Raises:
        DiskFullError: there is not; says how much is needed and how much there is.
    """
    place = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    needed = int(size_bytes * (_PHYSICAL_ROOM if physical else _LOGICAL_ROOM)) + _SPARE_BYTES
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskFullError(
            f"a copy needs about {needed / 2**30:.1f} GiB and the disk of {place} has {free / 2**30:.1f} GiB free",
            hint="free some, or set HARNESS_RUN_DIR to a directory on a larger disk",
        )


def look(
    connection: Connection,
    facts: SourceFacts,
    installation: Installation,
    revisions: Sequence[str],
    *,
    physical: bool = False,
) -> LookReport:
    """Look at the source, in one read-only transaction.

    Args:
        connection: to the source.
        facts: what it is.
        installation: where the copy will live.
        revisions: the chain's, in order.
        physical: the copy is a base backup.

    Returns:
        All findings. The rest is looked at only where there is a whole catalog.

    Raises:
        MissingPrivilegeError: not even the catalog can be read.
    """
    try:
        stops = list(look_at_catalog(connection, facts, revisions, physical=physical))
        if stops:
            return LookReport(tuple(stops), ())
        unreadable = look_at_rights(connection)
        if unreadable:
            return LookReport(unreadable, ())
        collisions, warnings = look_at_sources(connection)
        missing, left_out = look_at_extensions(connection, facts, installation)
        return LookReport(
            (*collisions, *missing),
            (*warnings, *left_out, *look_at_activity(connection), *look_at_library(connection, facts)),
        )
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingPrivilegeError(
            f"the role {facts.role} may not look at database {facts.dbname}: {error.diag.message_primary}",
            hint="GRANT pg_read_all_data to it, or use the owner of the pgtrickle schema",
            sqlstate=error.sqlstate,
        ) from None
