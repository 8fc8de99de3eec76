"""What stands in the way of the chain, found before the first change. Only reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psycopg

import migrations
from harness.chain.connection import Connection
from harness.chain.revisions import revisions_after
from harness.errors import Finding
from harness.trickle.names import stable_name

SUPPORTED_MAJORS = (17, 18)


def fetch_revision(connection: Connection) -> str | None:
    """The revision that the version table holds, None without one.

    Raises:
        psycopg.Error: the version table can't be read.
    """
    row = connection.execute("SELECT to_regclass('pgtrickle.alembic_version') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return None
    found = connection.execute("SELECT version_num FROM pgtrickle.alembic_version").fetchone()
    return None if found is None else str(found[0])


def _check_version(connection: Connection) -> tuple[Finding, ...]:
    major = connection.info.server_version // 10000
    if major in SUPPORTED_MAJORS:
        return ()
    return (
        Finding(
            "server_version",
            f"PostgreSQL {major}",
            f"the server is PostgreSQL {major}; 17 and 18 are supported",
            "upgrade it first",
        ),
    )


def _check_catalog(connection: Connection, revision: str | None) -> tuple[Finding, ...]:
    row = connection.execute(
        "SELECT to_regclass('pgtrickle.pgt_stream_tables') IS NOT NULL,"
        " EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trickle')"
    ).fetchone()
    has_catalog, is_extension = row if row is not None else (False, False)
    if has_catalog and revision is None:
        owner = "the extension pg_trickle owns it" if is_extension else "this chain did not make it"
        return (
            Finding(
                "not_adopted",
                "pgtrickle",
                f"schema pgtrickle holds an installation, and {owner}",
                "take it over first: harness migrate adopt",
            ),
        )
    if revision is not None and not has_catalog:
        return (
            Finding(
                "half_catalog",
                "pgtrickle",
                f"the version table says revision {revision}, and pgtrickle.pgt_stream_tables is not there",
                "restore the catalog, or empty pgtrickle.alembic_version if there never was one",
            ),
        )
    return ()


def _check_rights(connection: Connection, plan: Sequence[str], direction: str) -> tuple[Finding, ...]:
    row = connection.execute(
        "SELECT current_user, rolsuper, has_database_privilege(current_database(), 'CREATE'), current_database(),"
        " pg_is_in_recovery()"
        " FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row is None:
        return ()
    role, is_superuser, may_create, database, is_standby = row
    findings = []
    if is_standby:
        findings.append(Finding("standby", database, "the server is a standby and can't be written", "use the primary"))
    if "0006" in plan and not is_superuser:
        findings.append(
            Finding(
                "needs_superuser",
                role,
                f"revision 0006 {'makes' if direction == 'up' else 'removes'} event triggers,"
                " which PostgreSQL allows to superusers only",
                "run the chain as a superuser" + (", or go up to 0005 only" if direction == "up" else ""),
            )
        )
    if plan and direction == "up" and plan[0] == "0001" and not may_create:
        findings.append(
            Finding(
                "needs_create",
                role,
                f"role {role} may not create a schema in database {database}",
                f"GRANT CREATE ON DATABASE {database}",
            )
        )
    return tuple(findings)


def _check_names(connection: Connection) -> tuple[Finding, ...]:
    """The query of revision 0002 itself, with the names computed here, since nothing may be written."""
    rows = connection.execute(
        "SELECT c.oid::bigint, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid IN (SELECT source_relid FROM pgtrickle.pgt_change_tracking"
        "                 UNION SELECT source_relid FROM pgtrickle.pgt_dependencies)"
    ).fetchall()
    query = (Path(migrations.__path__[0]) / "sql" / "0002_findings.sql").read_text(encoding="utf-8")
    head = "WITH names AS (SELECT * FROM unnest(%s::oid[], %s::text[]) AS n(relid, stable_name)), "
    found = connection.execute(
        # A file of ours, beside the revision that runs it; the per cent signs in it are its own.
        (head + query.replace("%", "%%")).encode(),
        ([row[0] for row in rows], [stable_name(row[1], row[2]) for row in rows]),
    ).fetchall()
    return tuple(Finding(*row) for row in found)


def _check_prepared(connection: Connection) -> tuple[Finding, ...]:
    rows = connection.execute(
        "SELECT x.gid, x.owner, x.prepared::text, string_agg(DISTINCT l.relation::regclass::text, ', ')"
        # What joins the two is the lock on its own transaction id; its virtual transaction says nothing (18.6).
        " FROM pg_prepared_xacts x"
        " JOIN pg_locks o ON o.locktype = 'transactionid' AND o.pid IS NULL AND o.transactionid = x.transaction"
        " JOIN pg_locks l ON l.virtualtransaction = o.virtualtransaction AND l.pid IS NULL"
        " WHERE x.database = current_database()"
        " AND l.relation IN (SELECT source_relid FROM pgtrickle.pgt_change_tracking)"
        " GROUP BY 1, 2, 3 ORDER BY 1"
    ).fetchall()
    return tuple(
        Finding(
            "prepared_transaction",
            relations,
            f"prepared transaction {gid!r} of {owner} has held {relations} since {since},"
            " and the chain would wait for it",
            "COMMIT PREPARED or ROLLBACK PREPARED it first",
        )
        for gid, owner, since, relations in rows
    )


def _check_placements(connection: Connection) -> tuple[Finding, ...]:
    """Going down would take away capture that 0.2 has not (a distributed source's), or strand a stream table.

    Revision 0007 refuses it too, although 0006 could still capture: nobody below 0007 reads what is not local, and
    whoever goes further down would find every stream table to be filled anew, and then be refused.
    """
    sources = connection.execute(
        "SELECT s.relid::regclass::text, s.placement FROM ("
        "   SELECT source_relid AS relid, source_placement AS placement FROM pgtrickle.pgt_dependencies"
        "   UNION SELECT source_relid, pgtrickle.placement_of(source_relid) FROM pgtrickle.pgt_change_tracking) s"
        " WHERE s.placement <> 'local' ORDER BY 1"
    ).fetchall()
    targets = connection.execute(
        "SELECT format('%I.%I', pgt_schema, pgt_name), st_placement FROM pgtrickle.pgt_stream_tables"
        " WHERE st_placement <> 'local' ORDER BY 1"
    ).fetchall()
    lost = [
        Finding(
            "capture_lost",
            name,
            f"{name} is {placement}: on the way down its changes could no longer be captured",
            "drop its stream tables first",
        )
        for name, placement in sources
    ]
    stranded = [
        Finding(
            "stream_table_stranded",
            name,
            f"stream table {name} is {placement}, which 0.2 does not know",
            "drop it first",
        )
        for name, placement in targets
    ]
    return (*lost, *stranded)


def _check_left(connection: Connection, plan: Sequence[str]) -> tuple[Finding, ...]:
    """What a revision far down the way would refuse, before the ones above it are undone."""
    findings: list[Finding] = []
    if "0001" in plan:
        rows = connection.execute(
            "SELECT format('%I.%I', pgt_schema, pgt_name) FROM pgtrickle.pgt_stream_tables ORDER BY 1"
        ).fetchall()
        findings.extend(
            Finding(
                "stream_table_left", name, f"below the baseline stream table {name} would be forgotten", "drop it first"
            )
            for (name,) in rows
        )
    if {"0005", "0008"} & set(plan):
        rows = connection.execute(
            "SELECT format('%I.%I', t.pgt_schema, t.pgt_name), l.holder, l.deadline::text FROM pgtrickle.st_locks l"
            " JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE l.deadline > clock_timestamp() ORDER BY 1"
        ).fetchall()
        findings.extend(
            Finding(
                "lease_live",
                name,
                f"{name} is being refreshed by {holder}, with a lease until {deadline}",
                "wait until it ends",
            )
            for name, holder, deadline in rows
        )
    return tuple(findings)


def check(connection: Connection, plan: Sequence[str], direction: str) -> tuple[Finding, ...]:
    """All that stands in the way of running these revisions. Reads only; on Citus it runs on the coordinator.

    Args:
        connection: to the database.
        plan: the revisions to run, in order.
        direction: ``up`` or ``down``.

    Returns:
        Findings, each with what to do; empty when the way is free.
    """
    revision = fetch_revision(connection)
    findings = [*_check_version(connection), *_check_catalog(connection, revision)]
    if findings or not plan:
        return tuple(findings)
    findings.extend(_check_rights(connection, plan, direction))
    try:
        if direction == "up" and revision == "0001" and "0002" in plan:
            findings.extend(_check_names(connection))
        if revision is not None and {"0002", "0004", "0006"} & set(plan):
            findings.extend(_check_prepared(connection))
        if direction == "down":
            findings.extend(_check_left(connection, plan))
            if {"0006", "0007"} & set(plan):
                findings.extend(_check_placements(connection))
    except psycopg.errors.InsufficientPrivilege as error:
        findings.append(
            Finding(
                "no_rights",
                "pgtrickle",
                f"the catalog can't be read: {error.diag.message_primary}",
                "use the catalog's owner or a superuser",
            )
        )
    return tuple(findings)


def check_upgrade(connection: Connection) -> tuple[Finding, ...]:
    """What stands in the way of going to head from where the database is. Reads only."""
    revision = fetch_revision(connection)
    return check(connection, revisions_after(revision), "up")
