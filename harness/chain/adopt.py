"""Takes over a 0.2 installation: out of the extension, C functions replaced, stamped, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import sql

from harness.chain import immediate, newer, obstacles
from harness.chain.catalog import CatalogSnapshot, Difference, compare_catalogs, snapshot_catalog
from harness.chain.connection import Connection, connect, describe_dsn, translated
from harness.chain.preflight import SUPPORTED_MAJORS, fetch_revision
from harness.chain.runner import migrations_path
from harness.errors import Finding, MissingPrivilegeError, PreflightError, RefusedError, UnsupportedVersionError

# A difference in these makes the chain's own statements fail or lie; in others (owner, rights, comments, more
# indexes) it does not.
_MUST_MATCH = frozenset({"column", "constraint"})
# The catalog is locked while it changes hands; nobody waits for it longer than this, in milliseconds.
LOCK_TIMEOUT_MS = 2000
# Columns that the chain adds itself: a catalog that has one was moved on by something else already.
_LATER_COLUMNS = ("source_stable_name", "source_placement", "st_placement", "captured_columns")
_ONLY_0_2 = f"only the catalogs of 0.2 and of {' and '.join(newer.TAKEN_VERSIONS)} are known here"


@dataclass(frozen=True)
class AdoptReport:
    """What taking over did.

    Attributes:
        extension_version: of the extension that owned the catalog, None where it was nobody's.
        members: how many members were set free.
        dropped: functions and event triggers that left with the extension.
        differences: what the installation does not share with the baseline and may keep.
        converted: IMMEDIATE stream tables that are DIFFERENTIAL now and will be rebuilt at their first refresh.
        rebuilt: stream tables of a newer catalog: each is rebuilt at its first refresh, whatever its mode.
    """

    extension_version: str | None
    members: int
    dropped: tuple[str, ...]
    differences: tuple[str, ...]
    converted: tuple[str, ...]
    rebuilt: tuple[str, ...] = ()


def load_baseline() -> CatalogSnapshot:
    """The written-out catalog of 0.2: what ``0001`` makes, and what an installation is compared with."""
    text = (migrations_path() / "sql" / "0001_catalog.json").read_text(encoding="utf-8")
    entries: Mapping[str, Mapping[str, str]] = json.loads(text)
    return CatalogSnapshot(
        {(kind, subject): value for kind, found in entries.items() for subject, value in found.items()}
    )


def _refuse_early(connection: Connection, dsn: str) -> None:
    major = connection.info.server_version // 10000
    if major not in SUPPORTED_MAJORS:
        raise UnsupportedVersionError(
            f"the server is PostgreSQL {major}; 17 and 18 are supported", hint="upgrade it first"
        )
    revision = fetch_revision(connection)
    if revision is not None:
        raise RefusedError(
            f"{describe_dsn(dsn)} is at revision {revision} already", hint="see `harness migrate status`"
        )
    row = connection.execute(
        "SELECT to_regclass('pgtrickle.pgt_stream_tables') IS NOT NULL, current_setting('is_superuser') = 'on',"
        " current_user"
    ).fetchone()
    has_catalog, is_superuser, role = row if row is not None else (False, False, "?")
    if not has_catalog:
        raise RefusedError(
            f"{describe_dsn(dsn)} holds no pg_trickle catalog (pgtrickle.pgt_stream_tables)",
            hint="check the database's name; for an empty catalog use `harness migrate up`",
        )
    if not is_superuser:
        raise MissingPrivilegeError(
            f"role {role} is no superuser, and only a superuser takes members out of an extension",
            hint="connect as a superuser",
        )


def _fetch_owners(connection: Connection) -> tuple[Difference, ...]:
    """Relations of the catalog that are not its schema's owner's; the baseline names no role."""
    rows = connection.execute(
        "SELECT format('%I.%I', n.nspname, c.relname), pg_get_userbyid(n.nspowner), pg_get_userbyid(c.relowner)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'pgtrickle' AND c.relkind IN ('r', 'v', 'S') AND c.relowner <> n.nspowner ORDER BY 1"
    ).fetchall()
    return tuple(Difference("owner", subject, before, after) for subject, before, after in rows)


def _fetch_version(connection: Connection) -> str | None:
    row = connection.execute(
        "SELECT extversion FROM pg_extension WHERE extname = %s", (obstacles.EXTENSION,)
    ).fetchone()
    return None if row is None else str(row[0])


def _find_version(connection: Connection) -> tuple[Finding, ...]:
    version = _fetch_version(connection)
    if version is None or version.startswith("0.2."):
        return ()
    return (Finding("not_the_baseline", "extension pg_trickle", f"the extension is at version {version}", _ONLY_0_2),)


def _compare(connection: Connection) -> tuple[tuple[Finding, ...], tuple[Difference, ...]]:
    baseline = load_baseline()
    kinds = {kind for kind, _ in baseline.entries}
    present = snapshot_catalog(connection)
    found = {key: value for key, value in present.only("pgtrickle.").entries.items() if key[0] in kinds}
    comments = {key: value for key, value in present.entries.items() if key[0] == "comment" and " pgtrickle." in key[1]}
    differences = compare_catalogs(baseline, CatalogSnapshot(found | comments))
    fatal = [
        d
        for d in differences
        if d.kind in _MUST_MATCH and (d.before is not None or d.subject.rpartition(".")[2] in _LATER_COLUMNS)
    ]
    findings = tuple(Finding("not_the_baseline", d.subject, str(d), _ONLY_0_2) for d in fatal)
    tolerated = (*(d for d in differences if d not in fatal), *_fetch_owners(connection))
    return (*_find_version(connection), *findings), tolerated


def _members(connection: Connection) -> tuple[tuple[str, str], ...]:
    # A table's or a view's own types are members too, and come free with it.
    rows = connection.execute(
        "SELECT i.type, i.identity FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid"
        " CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i"
        " WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = %s"
        " AND d.classid <> 'pg_type'::regclass ORDER BY i.type, i.identity",
        (obstacles.EXTENSION,),
    ).fetchall()
    return tuple((kind, identity) for kind, identity in rows)


def _set_free(connection: Connection) -> tuple[int, tuple[str, ...]]:
    """Members out, C functions and event triggers gone, the extension itself gone."""
    members = _members(connection)
    leaving = obstacles.fetch_leaving(connection)
    # Kinds and identities are the server's own words (pg_identify_object), quoted as SQL wants them.
    for kind, identity in members:
        connection.execute(b"ALTER EXTENSION pg_trickle DROP " + f"{kind} {identity}".encode())
    for one in leaving:
        connection.execute(b"DROP " + f"{one.kind} {one.identity}".encode())
    connection.execute("DROP EXTENSION IF EXISTS pg_trickle")
    return len(members), tuple(f"{one.kind} {one.identity}" for one in leaving)


def _replace_functions(connection: Connection) -> None:
    """Ours in the place of the C ones: same name, arguments and values, so views and triggers go on."""
    connection.execute((migrations_path() / "sql" / "0001_hash.sql").read_text(encoding="utf-8").encode())


def _stamp(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE pgtrickle.alembic_version (version_num varchar(32) NOT NULL,"
        " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.execute("INSERT INTO pgtrickle.alembic_version (version_num) VALUES ('0001')")


def find_obstacles(
    connection: Connection, mode: Literal["refuse", "differential"]
) -> tuple[tuple[Finding, ...], tuple[Difference, ...]]:
    """What forbids taking over, and what differs without forbidding it. Only reads.

    Args:
        connection: to a database with a 0.2 catalog.
        mode: what is to become of IMMEDIATE stream tables.
    """
    differences: tuple[Difference, ...] = ()
    if _is_newer(connection):
        findings = [*obstacles.find_preloaded(connection), *newer.find_refused(connection)]
    else:
        fatal, differences = _compare(connection)
        findings = [*obstacles.find_preloaded(connection), *fatal, *obstacles.find_dependents(connection)]
    if mode == "refuse":
        findings.extend(
            Finding(
                "immediate_stream_table",
                name,
                f"stream table {name} is IMMEDIATE, and its triggers call the extension's library",
                "adopt with --immediate differential: it becomes DIFFERENTIAL and is rebuilt at its first refresh",
            )
            for _, name in immediate.fetch_immediate(connection)
        )
    elif not _is_newer(connection):
        findings.extend(immediate.find_half_captured(connection))
    return tuple(findings), differences


def _is_newer(connection: Connection) -> bool:
    """Whether the catalog is one of those whose stream tables can be taken over, and no more."""
    return _fetch_version(connection) in newer.TAKEN_VERSIONS


def _take_over(connection: Connection, dsn: str, mode: Literal["refuse", "differential"]) -> AdoptReport:
    _refuse_early(connection, dsn)
    # Event triggers of the extension's call its library, and this must work without it (GUC of PostgreSQL 17).
    connection.execute("SET LOCAL event_triggers = off")
    connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
    connection.execute(
        "LOCK TABLE pgtrickle.pgt_stream_tables, pgtrickle.pgt_dependencies, pgtrickle.pgt_change_tracking"
        " IN ACCESS EXCLUSIVE MODE"
    )
    findings, differences = find_obstacles(connection, mode)
    if findings:
        raise PreflightError(f"{describe_dsn(dsn)} can't be taken over, and nothing was changed", findings)
    version = _fetch_version(connection)
    if _is_newer(connection):
        taken = newer.take(connection)
        _stamp(connection)
        connection.commit()
        return AdoptReport(version, taken.members, taken.dropped, taken.told, taken.converted, taken.rebuilt)
    _replace_functions(connection)
    converted = immediate.convert(connection)
    members, dropped = _set_free(connection)
    _stamp(connection)
    connection.commit()
    return AdoptReport(version, members, dropped, tuple(str(difference) for difference in differences), converted)


def adopt(dsn: str, *, mode: Literal["refuse", "differential"] = "refuse") -> AdoptReport:
    """Take over an installation of pg_trickle 0.2, in one transaction; on Citus it runs on the coordinator.

    Of 0.66 and 0.67 the stream tables are taken over, not what was captured: each is rebuilt at its first refresh
    (`harness.chain.newer`). Of 0.2 everything stays:

    Its catalog rows, buffers, triggers, storage tables and pending changes stay as they are (baseline.md: members and
    what is none).
    The extension is gone afterwards, its library is not needed, and the database stands at revision ``0001``.

    Args:
        dsn: the database, as a superuser.
        mode: what happens to IMMEDIATE stream tables, whose triggers call the library: refuse, or make them
            DIFFERENTIAL.

    Returns:
        What was done.

    Raises:
        PreflightError: findings (library preloaded, not the baseline, IMMEDIATE, an object of yours depends on what
            leaves); nothing was changed.
        RefusedError, MissingPrivilegeError: there is nothing to take over, or not by this role, or a lock is held.
    """
    with connect(dsn, autocommit=False) as connection, translated("adopt"):
        try:
            return _take_over(connection, dsn, mode)
        except psycopg.errors.LockNotAvailable as error:
            raise RefusedError(
                f"adopt: {error.diag.message_primary or error}; waited {LOCK_TIMEOUT_MS} ms for it",
                hint="nothing was changed; see pg_locks for who holds the catalog or a source, and run it again then",
                sqlstate=error.sqlstate,
            ) from error
