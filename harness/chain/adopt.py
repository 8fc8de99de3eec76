"""Takes over a 0.2 installation: out of the extension, C functions replaced, stamped, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from harness.chain import immediate
from harness.chain.catalog import CatalogSnapshot, Difference, compare_catalogs, snapshot_catalog
from harness.chain.connection import Connection, connect, describe_dsn, translated
from harness.chain.preflight import SUPPORTED_MAJORS, fetch_revision
from harness.chain.runner import migrations_path
from harness.errors import Finding, MissingPrivilegeError, PreflightError, RefusedError, UnsupportedVersionError

EXTENSION = "pg_trickle"
# What the baseline brings with it (migrations/sql/0001_hash.sql); every other function of the extension's leaves
# with it.
KEPT_FUNCTIONS = frozenset({"pg_trickle_hash", "pg_trickle_hash_multi", "parse_duration_seconds"})
# A difference in these makes the chain's own statements fail or lie; in others (owner, rights, comments, more
# indexes) it does not.
_MUST_MATCH = frozenset({"column", "constraint"})
# The catalog is locked while it changes hands; nobody waits for it longer than this, in milliseconds.
LOCK_TIMEOUT_MS = 2000


@dataclass(frozen=True)
class AdoptReport:
    """What taking over did.

    Attributes:
        extension_version: of the extension that owned the catalog, None where it was nobody's.
        members: how many members were set free.
        dropped: functions and event triggers that left with the extension.
        differences: what the installation does not share with the baseline and may keep.
        converted: IMMEDIATE stream tables that are DIFFERENTIAL now and will be rebuilt at their first refresh.
    """

    extension_version: str | None
    members: int
    dropped: tuple[str, ...]
    differences: tuple[str, ...]
    converted: tuple[str, ...]


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


def _find_preloaded(connection: Connection) -> tuple[Finding, ...]:
    rows = connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name IN"
        " ('shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries')"
        " AND setting ~ '(^|[,/\" ])pg_trickle([,.\" ]|$)'"
    ).fetchall()
    findings = [
        Finding(
            "library_preloaded",
            name,
            f"{name} = '{setting}': as long as the library is loaded, its scheduler works on the same catalog",
            f"take pg_trickle out of {name} and restart the server",
        )
        for name, setting in rows
    ]
    workers = connection.execute(
        "SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'pg_trickle%'"
    ).fetchall()
    findings.extend(
        Finding(
            "scheduler_running",
            f"pid {pid}",
            f"the extension's worker {kind!r} is running",
            "restart the server without the library",
        )
        for pid, kind in workers
    )
    return tuple(findings)


def _compare(connection: Connection) -> tuple[tuple[Finding, ...], tuple[Difference, ...]]:
    baseline = load_baseline()
    kinds = {kind for kind, _ in baseline.entries}
    present = snapshot_catalog(connection).only("pgtrickle.")
    found = CatalogSnapshot({key: value for key, value in present.entries.items() if key[0] in kinds})
    differences = compare_catalogs(baseline, found)
    fatal = [d for d in differences if d.kind in _MUST_MATCH and d.before is not None]
    findings = tuple(
        Finding(
            "not_the_baseline",
            d.subject,
            str(d),
            "the chain starts from pg_trickle 0.2; bring the installation to 0.2.0 first",
        )
        for d in fatal
    )
    return findings, tuple(d for d in differences if d not in fatal)


def _members(connection: Connection) -> tuple[tuple[str, str, str], ...]:
    # A table's or a view's own types are members too, and come free with it.
    rows = connection.execute(
        "SELECT i.type, i.identity, coalesce(i.name, '') FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid"
        " CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i"
        " WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = %s"
        " AND d.classid <> 'pg_type'::regclass ORDER BY i.type, i.identity",
        (EXTENSION,),
    ).fetchall()
    return tuple((kind, identity, name) for kind, identity, name in rows)


def _set_free(connection: Connection) -> tuple[int, tuple[str, ...]]:
    """Members out, C functions and event triggers gone, the extension itself gone."""
    members = _members(connection)
    for kind, identity, _name in members:
        # Kind and identity are the server's own words (pg_identify_object), quoted as SQL wants them.
        connection.execute(b"ALTER EXTENSION pg_trickle DROP " + f"{kind} {identity}".encode())
    doomed = [(kind, identity) for kind, identity, _ in members if kind == "event trigger"]
    functions = connection.execute(
        "SELECT p.oid::regprocedure::text, p.proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang"
        " WHERE p.pronamespace = 'pgtrickle'::regnamespace AND l.lanname = 'c'"
    ).fetchall()
    doomed.extend(("function", identity) for identity, name in functions if name not in KEPT_FUNCTIONS)
    doomed.extend(
        ("function", identity)
        for kind, identity, _ in members
        if kind == "function"
        and identity.split("(")[0].split(".")[-1].strip('"') not in KEPT_FUNCTIONS
        and ("function", identity) not in doomed
        and identity not in {known for known, _ in functions}
    )
    for kind, identity in doomed:
        connection.execute(b"DROP " + f"{kind} {identity}".encode())
    return len(members), tuple(f"{kind} {identity}" for kind, identity in doomed)


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
    fatal, differences = _compare(connection)
    findings = [*_find_preloaded(connection), *fatal]
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
    return tuple(findings), differences


def adopt(dsn: str, *, mode: Literal["refuse", "differential"] = "refuse") -> AdoptReport:
    """Take over an installation of pg_trickle 0.2, in one transaction; on Citus it runs on the coordinator.

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
        PreflightError: findings (library preloaded, not the baseline, IMMEDIATE); nothing was changed.
        RefusedError, MissingPrivilegeError: there is nothing to take over, or not by this role.
    """
    with connect(dsn, autocommit=False) as connection, translated("adopt"):
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
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = %s", (EXTENSION,)).fetchone()
        _replace_functions(connection)
        converted = immediate.convert(connection)
        members, dropped = _set_free(connection)
        connection.execute("DROP EXTENSION IF EXISTS pg_trickle")
        _stamp(connection)
        connection.commit()
    return AdoptReport(
        extension_version=None if row is None else str(row[0]),
        members=members,
        dropped=dropped,
        differences=tuple(str(difference) for difference in differences),
        converted=converted,
    )
