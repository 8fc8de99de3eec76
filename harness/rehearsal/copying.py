"""A logical copy: one exported snapshot, pg_dump and pg_restore in jobs, and the catalog's rows beside them.

What pg_trickle 0.2 owns is not in a dump (`baseline.md`): the copy gets its catalog from the chain's first revision,
and the rows from the same snapshot. So the extension's library is not needed here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psycopg
from psycopg import sql

from harness.chain import immediate, runner
from harness.errors import Finding
from harness.logs import get_logger
from harness.postgres import Installation, Server
from harness.rehearsal import leftout, roles
from harness.rehearsal.look_catalog import BASELINE_COLUMNS
from harness.rehearsal.rekey import OidNames, RekeyReport, fetch_names, rekey
from harness.rehearsal.source import CATALOG_TABLES, CatalogState, Connection, SourceFacts, connect_source
from harness.rehearsal.tools import password_file, run_program
from harness.rehearsal.walposition import Position, fetch_position, move_past

#: The copy's database. One name for all, so that a source called postgres or template1 is no special case.
COPY_DBNAME = "rehearsal"

# The whole of a dump's objects are locked in one transaction by re-keying and by pg_restore.
_COPY_SETTINGS = {
    "max_locks_per_transaction": "1024",
    "max_wal_size": "8GB",
    "autovacuum_naptime": "15s",
}
Say: TypeAlias = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Copy:
    """A copy, ready to be upgraded.

    Attributes:
        server: where it is; the caller destroys it.
        dbname: its database.
        rekeyed: what was re-keyed; None where OIDs stayed (a physical copy).
        warnings: what the copy does not have.
        position: where the source's WAL and transactions were.
    """

    server: Server
    dbname: str
    rekeyed: RekeyReport | None = None
    warnings: tuple[Finding, ...] = ()
    position: Position | None = None


@dataclass(frozen=True)
class Snapshot:
    """One moment of the source, held by an open transaction until the copy is made.

    Attributes:
        connection: in a read-only, repeatable-read transaction.
        name: for ``pg_dump --snapshot``.
        names: what OIDs meant then.
        position: where WAL and transactions were.
    """

    connection: Connection
    name: str
    names: OidNames
    position: Position


@contextmanager
def exported_snapshot(dsn: str) -> Iterator[Snapshot]:
    """Hold one moment of the source; it is read-only, and let go at the end."""
    connection = connect_source(dsn)
    try:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
        name = str(row[0]) if row else ""
        yield Snapshot(connection, name, fetch_names(connection), fetch_position(connection))
    finally:
        connection.close()


def copy_logical(facts: SourceFacts, installation: Installation, *, jobs: int, keep: bool, say: Say) -> Copy:
    """Copy the source's database into a new temporary server.

    Args:
        facts: what the source is.
        installation: where the copy lives: of the source's major version or newer.
        jobs: parallel connections for dump and restore.
        keep: the server keeps its directory when it is destroyed.
        say: told what happens and how far it is, 0 to 1.

    Returns:
        The copy, its server running. On an exception nothing of it is left.

    Raises:
        ServerError: dump or restore failed; DiskFullError where the disk is full.
    """
    server = Server.create(installation, name="rehearsal-copy", settings=_settings(facts), keep=keep)
    work = _Work(server.data_dir.parent / "dump", jobs, say)
    try:
        work.directory.mkdir(mode=0o700)
        with exported_snapshot(facts.dsn) as snapshot:
            brought = _bring(server, facts, snapshot, work)
        copy = _restore(server, facts, brought, work)
        shutil.rmtree(work.directory)
    except BaseException:
        shutil.rmtree(work.directory, ignore_errors=True)
        server.destroy()
        raise
    return copy


def _settings(facts: SourceFacts) -> Mapping[str, str]:
    return {**_COPY_SETTINGS, "shared_preload_libraries": "citus"} if "citus" in facts.extensions else _COPY_SETTINGS


@dataclass(frozen=True)
class _Work:
    """Where the dump lies, how many hands there are, and who is told."""

    directory: Path
    jobs: int
    say: Say


@dataclass(frozen=True)
class _Brought:
    """What was read in the snapshot beside the dump."""

    names: OidNames
    position: Position
    objects: tuple[leftout.Named, ...]
    left_out: tuple[leftout.LeftOut, ...]
    owned: tuple[roles.OwnedObject, ...]
    warnings: tuple[Finding, ...]


def _bring(server: Server, facts: SourceFacts, snapshot: Snapshot, work: _Work) -> _Brought:
    """Everything that needs the source's snapshot; it is let go before the restore, which takes longer."""
    source = snapshot.connection
    is_extensions = facts.catalog is CatalogState.EXTENSION
    work.say("a server for the copy", 0.0)
    move_past(server, snapshot.position)
    server.start()
    with server.connect("postgres") as conn:
        roles.create_roles(conn, *roles.fetch_roles(source))
        warnings = _create_database(conn, facts)
    if is_extensions:
        runner.upgrade(server.dsn(COPY_DBNAME), "0001")
    with server.connect(COPY_DBNAME) as conn:
        if is_extensions:
            work.say("the catalog's rows", 0.02)
            copy_catalog_rows(source, conn)
        left_out = leftout.find_left_out(source, conn, server.installation)
    work.say("dumping", 0.05)
    _dump(server.installation, facts, snapshot.name, work)
    return _Brought(
        names=snapshot.names,
        position=snapshot.position,
        objects=leftout.fetch_objects(source),
        left_out=left_out,
        owned=roles.fetch_owned(source) if is_extensions else (),
        warnings=warnings,
    )


def _dump(installation: Installation, facts: SourceFacts, snapshot: str, work: _Work) -> None:
    target = work.directory / "archive"
    excluded = sorted(set(facts.extensions) - set(installation.extensions) - {"plpgsql"})
    if facts.catalog is CatalogState.EXTENSION:
        excluded.append("pg_trickle")

    def tick() -> None:
        written = sum(path.stat().st_size for path in target.glob("*")) if target.exists() else 0
        work.say("dumping", min(0.45, 0.05 + 0.4 * written / max(1, facts.size_bytes)))

    with password_file(facts.dsn, work.directory, read_only=True) as access:
        run_program(
            installation.program("pg_dump"),
            [
                "--format=directory",
                f"--file={target}",
                f"--jobs={work.jobs}",
                f"--snapshot={snapshot}",
                "--compress=0",  # the dump lives for minutes; few cores have better things to do
                "--no-sync",
                "--no-password",
                "--no-tablespaces",
                "--no-publications",
                "--no-subscriptions",
                "--no-security-labels",
                "--lock-wait-timeout=60s",  # ACCESS SHARE waits for somebody's exclusive lock only
                *(f'--exclude-extension="{name}"' for name in excluded),
                f"--dbname={access.conninfo}",
            ],
            env=access.env,
            log=work.directory / "dump.log",
            disk=work.directory,
            on_tick=tick,
        )


def _restore(server: Server, facts: SourceFacts, brought: _Brought, work: _Work) -> Copy:
    log, target = work.directory / "restore.log", work.directory / "archive"
    program = server.installation.program("pg_restore")

    def run(*arguments: str, accepted: tuple[int, ...] = (0,), on_tick: Callable[[], None] | None = None) -> None:
        run_program(
            program,
            [*arguments, str(target)],
            env=access.env,
            log=log,
            disk=work.directory,
            accepted=accepted,
            on_tick=on_tick,
        )

    def tick() -> None:
        size = server.value("SELECT pg_catalog.pg_database_size(%s)", [COPY_DBNAME], dbname="postgres")
        work.say("restoring", min(0.95, 0.45 + 0.5 * size / max(1, facts.size_bytes)))

    work.say("restoring", 0.45)
    with password_file(server.dsn(COPY_DBNAME), work.directory) as access, server.connect(COPY_DBNAME) as conn:
        listing, chosen = work.directory / "all.list", work.directory / "chosen.list"
        run("--list", "--verbose", f"--file={listing}")
        text = listing.read_text(encoding="utf-8", errors="surrogateescape")
        chosen.write_text(leftout.filter_list(text, brought.left_out), encoding="utf-8", errors="surrogateescape")
        common = (f"--dbname={access.conninfo}", "--no-password", "--no-tablespaces", f"--use-list={chosen}")
        # An object that cannot be made is no reason to stop: what came is compared by name below. Rows are.
        run(*common, "--section=pre-data", accepted=(0, 1))
        run(*common, "--section=data", "--exit-on-error", f"--jobs={work.jobs}", on_tick=tick)
        run(*common, "--section=post-data", f"--jobs={work.jobs}", accepted=(0, 1), on_tick=tick)
        there = leftout.fetch_objects(conn)
        missing = leftout.find_missing(brought.objects, there, brought.left_out, log)
        work.say("owners, rights, names by OID", 0.95)
        roles.give_back(conn, brought.owned)
        rekeyed = rekey(conn, brought.names)
        if facts.catalog is CatalogState.EXTENSION:
            with conn.transaction():
                immediate.convert(conn)  # as adopting does; whoever refuses them did so before the copy
    warnings = (*brought.warnings, *leftout.tell(brought.left_out), *missing)
    get_logger("rehearsal").info("copied", database=facts.shown, warnings=len(warnings))
    return Copy(server, COPY_DBNAME, rekeyed, warnings, brought.position)


def _create_database(conn: Connection, facts: SourceFacts) -> tuple[Finding, ...]:
    """The copy's database, sorted as the source's is; as bytes where this machine lacks its locale."""
    ours = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} ").format(
        sql.Identifier(COPY_DBNAME), sql.Literal(facts.encoding)
    )
    providers = {"c": "libc", "i": "icu", "b": "builtin"}
    wanted = sql.SQL("LOCALE_PROVIDER {} LC_COLLATE {} LC_CTYPE {} ").format(
        sql.Identifier(providers[facts.provider]), sql.Literal(facts.collate), sql.Literal(facts.ctype)
    )
    if facts.locale is not None:
        option = sql.SQL("ICU_LOCALE {}") if facts.provider == "i" else sql.SQL("BUILTIN_LOCALE {}")
        wanted += option.format(sql.Literal(facts.locale))
    try:
        conn.execute(ours + wanted)
    except psycopg.errors.DatabaseError as error:
        if error.sqlstate not in ("42809", "0A000", "22023"):  # no such locale, no such provider, not for this encoding
            raise
        conn.execute(ours + sql.SQL("LOCALE_PROVIDER libc LOCALE 'C'"))
        return (
            Finding(
                "locale_missing_here",
                facts.locale or facts.collate,
                "this machine lacks the source's locale",
                "the copy sorts text by its bytes; nothing that is checked depends on it",
            ),
        )
    return ()


def copy_catalog_rows(source: Connection, copy: Connection) -> int:
    """Bring the rows of the extension's four catalog tables, and where their sequences are.

    Args:
        source: in the snapshot of the dump.
        copy: at revision 0001, its catalog empty.

    Returns:
        How many rows.
    """
    total = 0
    with copy.transaction():
        for table in CATALOG_TABLES:
            columns = sql.SQL(", ").join(map(sql.Identifier, sorted(BASELINE_COLUMNS[table])))
            name = sql.Identifier("pgtrickle", table)
            take = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(columns, name)
            give = sql.SQL("COPY {} ({}) FROM STDIN").format(name, columns)
            with source.cursor() as reader, copy.cursor() as writer:
                with reader.copy(take) as rows, writer.copy(give) as target:
                    for block in rows:
                        target.write(block)
                total += max(0, writer.rowcount)
        for table, column in (("pgt_stream_tables", "pgt_id"), ("pgt_refresh_history", "refresh_id")):
            _copy_sequence(source, copy, table, column)
    return total


def _copy_sequence(source: Connection, copy: Connection, table: str, column: str) -> None:
    sequence = sql.Identifier("pgtrickle", f"{table}_{column}_seq")
    row = source.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sequence)).fetchone()
    if row is not None:
        copy.execute(
            "SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence(%s, %s), %s, %s)",
            [f"pgtrickle.{table}", column, *row],
        )
