"""Where a database stands in the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.chain import preflight
from harness.chain.connection import connect, describe_dsn, translated
from harness.chain.revisions import REVISIONS, revisions_after
from harness.chain.runner import find_interrupted
from harness.errors import Finding, UnsupportedVersionError


@dataclass(frozen=True)
class ChainStatus:
    """Where a database stands.

    Attributes:
        database: host, port, name and role, without password.
        server_version: such as ``18.6``.
        citus_version: of the extension in that database, None without it.
        revision: None where the chain never ran.
        pending: the revisions that are still to run.
        interrupted: the revision that was stopped in the middle, and its direction; None where none was.
        sources: how many are tracked.
        by_oid: how many of them still have names by OID.
        stream_tables: how many there are.
        needs_reinit: stream tables that have to be rebuilt.
        findings: what stands in the way of going to head.
    """

    database: str
    server_version: str
    citus_version: str | None
    revision: str | None
    pending: tuple[str, ...]
    interrupted: tuple[str, str] | None
    sources: int
    by_oid: int
    stream_tables: int
    needs_reinit: tuple[str, ...]
    findings: tuple[Finding, ...]

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each line that a person gets."""
        return (
            ("database", self.database),
            (
                "server",
                f"PostgreSQL {self.server_version}" + (f", Citus {self.citus_version}" if self.citus_version else ""),
            ),
            ("revision", self.revision or "none"),
            ("to run", ", ".join(self.pending) or "nothing"),
            ("interrupted", " ".join(self.interrupted) if self.interrupted else "no"),
            ("sources", f"{self.sources} ({self.by_oid} named by OID)"),
            ("stream tables", str(self.stream_tables)),
            ("to be rebuilt", ", ".join(self.needs_reinit) or "none"),
        )

    def to_json(self) -> Mapping[str, object]:
        """What machines get."""
        return {
            "database": self.database,
            "server_version": self.server_version,
            "citus_version": self.citus_version,
            "revision": self.revision,
            "pending": self.pending,
            "interrupted": self.interrupted,
            "sources": self.sources,
            "sources_by_oid": self.by_oid,
            "stream_tables": self.stream_tables,
            "needs_reinit": self.needs_reinit,
            "findings": [vars(finding) for finding in self.findings],
        }


def fetch_status(dsn: str) -> ChainStatus:
    """Ask a database where it stands; only reads.

    Raises:
        ConnectionRefusedByInput: the DSN leads nowhere.
        UnsupportedVersionError: its catalog is newer than this harness.
        MissingPrivilegeError: its catalog can't be read.
    """
    with connect(dsn, read_only=True) as connection, translated("status"):
        revision = preflight.fetch_revision(connection)
        if revision is not None and revision not in REVISIONS:
            raise UnsupportedVersionError(
                f"{describe_dsn(dsn)} is at revision {revision!r},"
                f" and this harness knows {REVISIONS[0]} to {REVISIONS[-1]}",
                hint="use the harness that made it",
            )
        findings = preflight.check_upgrade(connection)
        row = connection.execute(
            "SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'citus'),"
            " to_regclass('pgtrickle.pgt_stream_tables') IS NOT NULL"
        ).fetchone()
        version, citus, has_catalog = row if row is not None else ("?", None, False)
        counts: tuple[int, int, int] = (0, 0, 0)
        reinit: tuple[str, ...] = ()
        if has_catalog:
            found = connection.execute(
                "SELECT (SELECT count(*) FROM pgtrickle.pgt_change_tracking),"
                " (SELECT count(*) FROM pgtrickle.pgt_change_tracking"
                " WHERE to_regclass('pgtrickle_changes.changes_' || source_relid) IS NOT NULL),"
                " (SELECT count(*) FROM pgtrickle.pgt_stream_tables)"
            ).fetchone()
            counts = counts if found is None else (found[0], found[1], found[2])
            reinit = tuple(
                name
                for (name,) in connection.execute(
                    "SELECT format('%I.%I', pgt_schema, pgt_name) FROM pgtrickle.pgt_stream_tables"
                    " WHERE needs_reinit ORDER BY 1"
                )
            )
    return ChainStatus(
        database=describe_dsn(dsn),
        server_version=version,
        citus_version=citus,
        revision=revision,
        pending=revisions_after(revision),
        interrupted=find_interrupted(dsn),
        sources=counts[0],
        by_oid=counts[1],
        stream_tables=counts[2],
        needs_reinit=reinit,
        findings=findings,
    )
