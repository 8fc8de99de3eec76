"""A physical copy: a base backup of the whole cluster, recovered here to a consistent end. OIDs and positions stay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import Finding, MissingPrivilegeError, PreflightError, ServerError
from harness.postgres import Installation, Server
from harness.postgres.configuration import FILE_NAME, hba_text
from harness.postgres.identity import SystemUser, child_environment, run_process, server_user
from harness.postgres.passwords import scram_verifier
from harness.postgres.template import fetch_template
from harness.rehearsal.copying import Copy, Say
from harness.rehearsal.source import Connection, SourceFacts
from harness.rehearsal.tools import password_file, run_program

# What recovery needs to be at least as large as in the source: prepared transactions come back with their number.
_CARRIED_SETTINGS = ("max_prepared_transactions", "max_locks_per_transaction", "max_connections")
_SINGLE_TIMEOUT_S = 600.0

_NEEDS = """
SELECT r.rolreplication OR r.rolsuper, current_setting('max_wal_senders')::int, current_setting('wal_level'),
       pg_catalog.pg_is_in_recovery()
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""
_TABLESPACES = """
SELECT pg_catalog.pg_tablespace_location(t.oid) FROM pg_catalog.pg_tablespace t
WHERE pg_catalog.pg_tablespace_location(t.oid) <> '' ORDER BY 1
"""
_CLUSTER_SIZE = "SELECT sum(pg_catalog.pg_database_size(d.oid))::bigint FROM pg_catalog.pg_database d"
_LIBRARIES = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries'"


def check_physical(connection: Connection, facts: SourceFacts) -> None:
    """Does the source give a base backup?

    Args:
        connection: to the source.
        facts: what it is.

    Raises:
        MissingPrivilegeError: the role may not replicate.
        PreflightError: the server is not set up for it; says what it needs.
    """
    row = connection.execute(_NEEDS).fetchone()
    may_replicate, senders, wal_level, is_standby = row if row else (False, 0, "minimal", False)
    if not may_replicate:
        raise MissingPrivilegeError(
            f"the role {facts.role} may not take a base backup of {facts.shown}",
            hint="ALTER ROLE ... REPLICATION, or use --copy logical, which needs to read tables only",
        )
    findings = []
    if senders < 1:
        findings.append(
            Finding(
                "no_wal_senders", "max_wal_senders", f"is {senders}: no base backup", "set it to 2 or more and restart"
            )
        )
    if wal_level == "minimal":
        findings.append(
            Finding("wal_level", "wal_level", "is minimal: no base backup", "set it to replica and restart")
        )
    if is_standby:
        findings.append(
            Finding(
                "standby", facts.shown, "is a standby, whose backup ends in an unfinished recovery", "name its primary"
            )
        )
    if findings:
        raise PreflightError(f"{facts.shown} gives no base backup", findings, hint="or use --copy logical")


def fetch_cluster_size(connection: Connection) -> int:
    """The size of all databases of the server, in bytes."""
    row = connection.execute(_CLUSTER_SIZE).fetchone()
    return int(row[0]) if row else 0


def copy_physical(
    connection: Connection,
    facts: SourceFacts,
    installation: Installation,
    *,
    keep: bool,
    say: Say,
    preload: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Copy:
    """Copy the source's whole cluster into a new temporary server.

    The source makes a checkpoint and a temporary replication slot for it, as for any base backup; no catalog changes.

    Args:
        connection: to the source.
        facts: what it is.
        installation: where the copy lives: of the source's major version.
        keep: the server keeps its directory when it is destroyed.
        say: told what happens and how far it is, 0 to 1.
        preload: libraries that the copy preloads, the extension's own among them, after those of the source.
        settings: of the copy's server, beside those that it shares with the source.

    Returns:
        The copy, its server running. On an exception nothing of it is left.

    Raises:
        ServerError: the backup failed or the copy did not start; DiskFullError where the disk is full.
    """
    size = fetch_cluster_size(connection)
    tablespaces = [str(place) for (place,) in connection.execute(_TABLESPACES)]
    shared, warnings = _settings(connection, installation, preload)
    server = Server.create(installation, name="rehearsal-copy", settings={**shared, **(settings or {})}, keep=keep)
    try:
        say("base backup", 0.0)
        _take_backup(server, facts, tablespaces, size, say)
        say("recovery", 0.9)
        _open_door(server)
        server.start()
    except BaseException:
        server.destroy()
        raise
    return Copy(server, facts.dbname, None, warnings)


def _settings(
    connection: Connection, installation: Installation, preload: Sequence[str]
) -> tuple[Mapping[str, str], tuple[Finding, ...]]:
    """Settings that the copy must share, and preloaded libraries that are not here. The extension's own stays out,
    unless it is asked for.
    """
    settings = {}
    for name in _CARRIED_SETTINGS:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
        settings[name] = str(row[0]) if row else "100"
    settings["max_locks_per_transaction"] = str(max(1024, int(settings["max_locks_per_transaction"])))
    row = connection.execute(_LIBRARIES).fetchone()
    wanted = [one.strip(' "') for one in str(row[0] if row else "").split(",") if one.strip(' "')]
    here = [one for one in wanted if one != "pg_trickle" and (installation.libdir / f"{one}.so").exists()]
    if here or preload:
        settings["shared_preload_libraries"] = ", ".join((*here, *preload))
    return settings, tuple(
        Finding("library_missing_here", one, "is preloaded in the source and not here; what calls it fails in the copy")
        for one in wanted
        if one not in here and one != "pg_trickle"
    )


def _take_backup(server: Server, facts: SourceFacts, tablespaces: list[str], size: int, say: Say) -> None:
    data = server.data_dir
    # Who may come in, and where it listens, is ours; the source's own files (archive_command!) are not taken over.
    kept = {name: (data / name).read_bytes() for name in ("postgresql.conf", FILE_NAME, "pg_ident.conf")}
    shutil.rmtree(data)
    places = server.data_dir.parent / "tablespaces"
    mappings = [f"--tablespace-mapping={old}={places / str(number)}" for number, old in enumerate(tablespaces)]

    def tick() -> None:
        say("base backup", min(0.9, 0.9 * _tree_bytes(data) / max(1, size)))

    log = server.data_dir.parent / "basebackup.log"
    try:
        with password_file(facts.dsn, server.data_dir.parent) as access:
            run_program(
                server.installation.program("pg_basebackup"),
                [
                    f"--pgdata={data}",
                    "--format=plain",
                    "--wal-method=stream",
                    "--checkpoint=fast",
                    "--no-sync",
                    "--no-password",
                    *mappings,
                    f"--dbname={access.conninfo}",
                ],
                env=access.env,
                log=log,
                disk=server.data_dir.parent,
                on_tick=tick,
            )
    except ServerError as error:
        error.hint = (
            "a base backup needs a role with REPLICATION, a `replication` line for it in the source's pg_hba.conf, "
            "max_wal_senders with room for two, and the same major version here; or use --copy logical"
        )
        raise
    for name in ("standby.signal", "recovery.signal", "postgresql.auto.conf"):
        (data / name).unlink(missing_ok=True)
    (data / "postgresql.auto.conf").touch(mode=0o600)
    (data / "pg_hba.conf").write_text(hba_text(), encoding="ascii")
    for name, content in kept.items():
        (data / name).write_bytes(content)
    data.chmod(0o700)
    _give(server.data_dir, server_user())
    if tablespaces:
        _give(places, server_user())


def _open_door(server: Server) -> None:
    """Give the copy's superuser a password of ours, in single-user mode, which recovers the backup on its way.

    Raises:
        ServerError: the backup does not recover with these binaries.
    """
    user = server_user()
    verifier = scram_verifier(fetch_template(server.installation, user).password)
    # One statement a line; the first fails where the role is there already, and the second makes it ours in any case.
    statements = (
        f"CREATE ROLE {server.superuser};\n"
        f"ALTER ROLE {server.superuser} SUPERUSER LOGIN CONNECTION LIMIT -1 "
        f"VALID UNTIL 'infinity' PASSWORD '{verifier}';\n"
    )
    done = run_process(
        [
            server.installation.program("postgres"),
            "--single",
            "-D",
            server.data_dir,
            "-c",
            "event_triggers=off",
            "template1",
        ],
        user,
        cwd=server.root,
        environment=child_environment(server.root),
        text_input=statements,
        timeout_s=_SINGLE_TIMEOUT_S,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ServerError(
            f"the backup does not start here: {lines[-1] if lines else 'no reason given'}",
            hint="it needs the same major version, and the operating system's locales that the source uses",
        )


def _tree_bytes(directory: Path) -> int:
    total = 0
    for folder, _folders, files in os.walk(directory):
        for name in files:
            try:
                total += (Path(folder) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _give(directory: Path, user: SystemUser) -> None:
    if not user.is_dropped_to:
        return
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            os.chown(Path(folder) / name, user.uid, user.gid, follow_symlinks=False)
    os.chown(directory, user.uid, user.gid)
