"""A dump as the source of a rehearsal: restored into a temporary server, which is copied as any source is.

What a dump lacks is brought back: the names that its OIDs had (an archive's table of contents has them), the roles that
it refers to, a server that is past the transaction ids in it. What cannot be brought back is refused: pg_dump writes no
rows of the catalog while the extension owns it (`baseline.md`), and a script does not say which OID a table had.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from psycopg import sql

from harness.chain import runner
from harness.errors import BadInputError, Finding, PreflightError, ServerError, UnsupportedVersionError
from harness.logs import redact
from harness.postgres import Installation, Server, find_installations
from harness.postgres.installations import SUPPORTED_MAJORS
from harness.rehearsal.copying import Say
from harness.rehearsal.look_catalog import look_at_catalog
from harness.rehearsal.rekey import OidNames, fetch_names, rekey
from harness.rehearsal.source import Connection, fetch_facts
from harness.rehearsal.tools import password_file, run_program
from harness.rehearsal.walposition import Position, fetch_position, move_past

#: The database that it is restored into; errors about the source name it.
DUMP_DBNAME = "dump"

_MAGIC = b"PGDMP"
_SETTINGS = {"max_locks_per_transaction": "1024", "max_wal_size": "8GB", "autovacuum": "off"}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"BZh": "bzip2"}
_SCRIPT = b"-- PostgreSQL database dump"
_CLUSTER_SCRIPT = b"-- PostgreSQL database cluster dump"

# A line of `pg_restore --list`: dump id, catalog, OID, then kind, schema, name, owner, parted by blanks. Line ends in
# names are blanks there (pg_backup_archiver.c, PrintTOCSummary and sanitize_line).
_ENTRY = re.compile(r"^(\d+); (\d+) (\d+) (.*)$")
_FROM_VERSION = re.compile(r"^;\s+Dumped from database version: (\d+)(\S*)", re.MULTILINE)
_RELATION_KINDS = ("FOREIGN TABLE ", "MATERIALIZED VIEW ", "TABLE ", "VIEW ")
_TYPE_KINDS = ("DOMAIN ", "TYPE ")
_PG_CLASS, _PG_TYPE, _PG_EXTENSION = 1259, 1247, 3079

_ROLE = r'"(?:[^"]|"")+"|[^\s;,"]+'
# Whoever owns, or was given, something. A function's body may hold such a line too: one role more harms nobody.
_ROLES = re.compile(
    r"^(?:ALTER .* OWNER TO|GRANT .* TO|REVOKE .* FROM|ALTER DEFAULT PRIVILEGES FOR ROLE|CREATE POLICY .* TO)"
    rf" ((?:{_ROLE})(?:, (?:{_ROLE}))*)",
    re.MULTILINE,
)
_SNAPSHOTS = "SELECT source_relid::bigint, column_snapshot FROM pgtrickle.pgt_dependencies"
_XID_BUFFERS = """
SELECT c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'xid' AND NOT a.attisdropped
WHERE c.relnamespace = pg_catalog.to_regnamespace('pgtrickle_changes') AND c.relkind = 'r' AND c.relname ~ '^changes_'
"""
_XID_HORIZONS = """
SELECT coalesce(max(h.value::numeric), 0)::bigint FROM pgtrickle.pgt_stream_tables t
CROSS JOIN LATERAL jsonb_path_query(t.frontier, '$.sources.*.horizons.*') AS v (value)
CROSS JOIN LATERAL (SELECT v.value #>> '{}') AS h (value) WHERE h.value ~ '^[0-9]{1,18}$'
"""


@dataclass(frozen=True)
class RestoredDump:
    """A dump that became a database again; whoever made it destroys its server.

    Attributes:
        server: where it is, running.
        shown: for people, such as ``dump shop.dump of PostgreSQL 18.6``.
        elapsed_s: what restoring took, in seconds.
        warnings: what could not be brought back.
    """

    server: Server
    shown: str
    elapsed_s: float
    warnings: tuple[Finding, ...] = ()

    @property
    def dsn(self) -> str:
        """How to reach it, with password: never print it."""
        return self.server.dsn(DUMP_DBNAME)


@dataclass(frozen=True)
class _Archive:
    """A dump that pg_restore can read."""

    path: Path
    lines: tuple[str, ...]
    version: str
    major: int
    installation: Installation

    @property
    def entries(self) -> Iterator[tuple[int, int, str]]:
        """Catalog, OID, and the rest of each line of the table of contents."""
        for line in self.lines:
            match = _ENTRY.match(line)
            if match:
                yield int(match[2]), int(match[3]), match[4]

    @property
    def extensions(self) -> frozenset[str]:
        """The extensions that it makes."""
        rests = (rest for catalog, _, rest in self.entries if catalog == _PG_EXTENSION)
        return frozenset(rest.removeprefix("EXTENSION - ").strip() for rest in rests if rest.startswith("EXTENSION - "))


@contextmanager
def restored_dump(path: Path, *, jobs: int, say: Say) -> Iterator[RestoredDump]:
    """Restore a dump into a temporary server, which is removed at the end of the block.

    Args:
        path: an archive of ``pg_dump``: custom, directory or tar.
        jobs: parallel connections of pg_restore.
        say: told what happens and how far it is, 0 to 1.

    Raises:
        BadInputError: it is no archive that pg_restore can read, or ends too early; says what it is.
        UnsupportedVersionError: it comes from a PostgreSQL that is not supported, or that is newer than what is here.
        PreflightError: there is no catalog in it, or one without rows.
        DiskFullError: there is no room for it.
    """
    started = time.monotonic()
    path = path.absolute()
    check_is_archive(path)
    say("reading the dump's table of contents", None)
    server = None
    try:
        archive = _open(path)
        _refuse_without_catalog(archive)
        server = Server.create(archive.installation, name="restored-dump", settings=_SETTINGS)
        warnings = _restore(server, archive, jobs, say)
        shown = f"dump {path.name} of PostgreSQL {archive.version}"
        yield RestoredDump(server, shown, time.monotonic() - started, warnings)
    finally:
        if server is not None:
            server.destroy()


def check_is_archive(path: Path) -> None:
    """Look at the first bytes only.

    Raises:
        BadInputError: it is nothing that pg_restore reads; says what it is instead, and what to do.
    """
    try:
        head = _first_bytes(path)
    except (OSError, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInputError(f"--dump {path} cannot be read: {reason}", hint="name a dump of pg_dump") from None
    if head.startswith(_MAGIC):
        return
    hint = "make one with: pg_dump --format=custom --file=shop.dump (or directory, or tar)"
    packed = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
    if packed is not None:
        raise BadInputError(
            f"--dump {path} is compressed with {packed}", hint=f"unpack it first; {hint}, compressed by itself"
        )
    if _CLUSTER_SCRIPT in head:
        raise BadInputError(f"--dump {path} is a script of pg_dumpall, of a whole cluster", hint=hint)
    if _SCRIPT in head:
        raise BadInputError(
            f"--dump {path} is a script: it does not say which OID each table had, and the catalog names tables by OID",
            hint=hint,
        )
    what = "empty" if not head else "no dump of pg_dump"
    raise BadInputError(f"--dump {path} is {what}", hint=hint)


def _first_bytes(path: Path) -> bytes:
    """The first bytes of an archive, of its table of contents where it is a directory or a tar."""

    def head(file: IO[bytes]) -> bytes:
        return file.read(512)

    if path.is_dir():
        with (path / "toc.dat").open("rb") as file:
            return head(file)
    if path.stat().st_size and tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            member = tar.extractfile("toc.dat") if "toc.dat" in names else None
            return head(member) if member is not None else b"a tar"
    with path.open("rb") as file:
        return head(file)


def _open(path: Path) -> _Archive:
    """Read its table of contents, and choose the PostgreSQL that it goes into."""
    here = [one for one in find_installations() if one.is_supported and (one.bindir / "pg_restore").is_file()]
    if not here:
        raise UnsupportedVersionError(
            "there is no supported PostgreSQL with pg_restore here",
            hint="`harness doctor` lists what is here; HARNESS_PG_BINDIR names another",
        )
    newest = max(here, key=lambda one: one.major)
    text = _list(path, newest)
    match = _FROM_VERSION.search(text)
    if match is None:
        raise BadInputError(f"--dump {path} does not say which PostgreSQL it is from", hint="make it again")
    version, major = f"{match[1]}{match[2]}", int(match[1])
    archive = _Archive(path, tuple(text.splitlines()), version, major, newest)
    if major not in SUPPORTED_MAJORS:
        raise UnsupportedVersionError(
            f"--dump {path} is from PostgreSQL {version}; supported are {' and '.join(map(str, SUPPORTED_MAJORS))}",
            hint="rehearse on a database of a supported version: upgrade the server first",
        )
    fitting = [one for one in here if one.major >= major]
    if not fitting:
        raise UnsupportedVersionError(
            f"--dump {path} is from PostgreSQL {version}; the newest that is here is {newest.version}",
            hint="install that version, or name its directory in HARNESS_PG_BINDIR",
        )
    wanted = archive.extensions
    chosen = max(fitting, key=lambda one: (len(wanted & set(one.extensions)), one.major == major))
    return _Archive(path, archive.lines, version, major, chosen)


def _list(path: Path, installation: Installation) -> str:
    with tempfile.TemporaryDirectory(prefix="harness-dump-") as scratch:
        listing = Path(scratch) / "list"
        try:
            _pg_restore(installation, ["--list", f"--file={listing}", str(path)], Path(scratch))
        except ServerError as error:
            raise BadInputError(
                f"pg_restore {installation.version} cannot read --dump {path}: {_last_words(error)}",
                hint="a dump of a newer pg_dump needs a PostgreSQL as new (HARNESS_PG_BINDIR); else make it again",
            ) from None
        return listing.read_text(encoding="utf-8", errors="surrogateescape")


def _pg_restore(
    installation: Installation,
    arguments: Sequence[str],
    work: Path,
    *,
    env: Mapping[str, str] | None = None,
    accepted: tuple[int, ...] = (0,),
) -> int:
    """Run pg_restore, what it says into ``work/restore.log``; its exit code (1: it passed over some errors)."""
    program = installation.program("pg_restore")
    return run_program(program, arguments, env=env or {}, log=work / "restore.log", disk=work, accepted=accepted)


def _last_words(error: ServerError) -> str:
    return error.message.partition(": ")[2] or error.message


def _refuse_without_catalog(archive: _Archive) -> None:
    if "pg_trickle" in archive.extensions:
        finding = Finding(
            "dump_without_catalog_rows",
            "extension pg_trickle",
            "the extension owns its catalog, and pg_dump writes no rows of it: the dump does not say what is captured",
            "rehearse with --dsn on the database itself; or adopt it first, a dump made then holds all",
        )
    elif not any(rest.startswith("SCHEMA - pgtrickle ") for _, _, rest in archive.entries):
        finding = Finding(
            "no_catalog",
            archive.path.name,
            "there is no schema pgtrickle in the dump: there is nothing to upgrade",
            "dump the database that pg_trickle is installed in, all of its schemas",
        )
    else:
        return
    raise PreflightError(
        f"--dump {archive.path} cannot be rehearsed", (finding,), hint="nothing was restored; see each finding"
    )


# ------------------------------------------------------------------------------------------------------- restoring


def _restore(server: Server, archive: _Archive, jobs: int, say: Say) -> tuple[Finding, ...]:
    work = server.data_dir.parent / "dump"
    work.mkdir(mode=0o700)
    program, file, listed = server.installation, str(archive.path), work / "chosen.list"
    say("restoring the dump", 0.0)
    server.start()
    server.create_database(DUMP_DBNAME)
    _pg_restore(program, ["--schema-only", f"--file={work / 'schema.sql'}", file], work)
    _make_roles(server, (work / "schema.sql").read_text(encoding="utf-8", errors="surrogateescape"))
    absent = archive.extensions - set(program.extensions) - {"plpgsql"}
    listed.write_text("\n".join(_without(archive.lines, absent)), encoding="utf-8", errors="surrogateescape")
    # A tar is read by one only.
    hands = [] if archive.path.is_file() and tarfile.is_tarfile(archive.path) else [f"--jobs={jobs}"]
    with password_file(server.dsn(DUMP_DBNAME), work) as access:
        common = [f"--dbname={access.conninfo}", "--no-password", "--no-tablespaces", f"--use-list={listed}"]
        common += ["--no-publications", "--no-subscriptions", "--no-security-labels"]
        passed_over = _pg_restore(program, [*common, "--section=pre-data", file], work, env=access.env, accepted=(0, 1))
        say("restoring the dump: rows", 0.3)
        try:
            _pg_restore(program, [*common, "--section=data", "--exit-on-error", *hands, file], work, env=access.env)
        except ServerError as error:
            raise BadInputError(
                f"--dump {archive.path} could not be restored: {_last_words(error)}",
                hint="is it whole? `pg_restore --file=/dev/null` reads all of it; make it again if that fails",
            ) from None
        say("restoring the dump: indexes and triggers", 0.8)
        passed_over += _pg_restore(
            program, [*common, "--section=post-data", *hands, file], work, env=access.env, accepted=(0, 1)
        )
    warnings = [
        Finding("extension_left_out", name, "the extension is not here; the dump is restored without it")
        for name in sorted(absent)
    ]
    if passed_over:
        said = [
            line
            for line in (work / "restore.log").read_text(encoding="utf-8", errors="replace").splitlines()
            if "error:" in line
        ]
        told = redact(said[0].partition("error:")[2].strip()) if said else "it did not say which"
        warnings.append(Finding("not_restored", f"{len(said)} object(s)", f"the first: {told}"))
    say("names by OID, transaction ids", 0.9)
    _bring_back(server, archive)
    return tuple(warnings)


def _make_roles(server: Server, script: str) -> None:
    """Every role that the dump refers to, without login; a dump does not say more of them."""
    named = {_unquoted(role) for match in _ROLES.finditer(script) for role in re.findall(_ROLE, match[1])}
    with server.connect("postgres") as conn:
        there = {name for (name,) in conn.execute("SELECT rolname::text FROM pg_catalog.pg_roles")}
        for role in sorted(named - there):
            if role.lower() != "public" and not role.startswith("pg_") and role.isprintable():
                conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _without(lines: Sequence[str], extensions: Iterable[str]) -> Iterator[str]:
    """The table of contents without these extensions and their comments."""
    ends = tuple(f"EXTENSION - {name}" for name in extensions) + tuple(f"EXTENSION {name}" for name in extensions)
    return (line for line in lines if not (ends and line.rstrip().endswith(ends)))


def _bring_back(server: Server, archive: _Archive) -> None:
    """OIDs by name, and transaction ids past those in the buffers, as the server had them that was dumped."""
    with server.connect(DUMP_DBNAME) as conn:
        facts = fetch_facts(conn, server.dsn(DUMP_DBNAME))
        if look_at_catalog(conn, facts, runner.REVISIONS):
            return  # none, or half a one: the look that follows says so
        rekey(conn, _dumped_names(conn, archive))
        reached, needed = fetch_position(conn), _highest_xid(conn)
    if needed >= reached.xid:
        server.close()
        server.stop("fast")
        move_past(server, Position(reached.lsn, needed))
        server.start()


def _dumped_names(conn: Connection, archive: _Archive) -> OidNames:
    """What OIDs meant where the dump was made: of relations and types by its table of contents.

    A dropped column is not dumped, so the numbers of columns may differ too: what they were is in the snapshots.
    """
    restored = fetch_names(conn)
    columns = {
        (relid, str(entry["name"])): int(entry["ordinal"])
        for relid, snapshot in conn.execute(_SNAPSHOTS).fetchall()
        for entry in (snapshot if isinstance(snapshot, list) else ())
        if isinstance(entry, dict) and {"name", "ordinal"} <= entry.keys()
    }
    return OidNames(
        relations=_named(archive, _PG_CLASS, _RELATION_KINDS, restored.relations.values()),
        types=_named(archive, _PG_TYPE, _TYPE_KINDS, restored.types.values()),
        columns=columns,
    )


def _named(
    archive: _Archive, catalog: int, kinds: tuple[str, ...], restored: Iterable[tuple[str, str]]
) -> dict[int, tuple[str, str]]:
    """OID to name, for what the dump made. Blanks part schema, name and owner, and may be in each: what was restored
    says which it is; the longest name that fits, since an owner follows it.
    """
    by_text = {_one_line(f"{schema} {name} "): (schema, name) for schema, name in restored}
    longest = max(map(len, by_text), default=0)
    found = {}
    for listed, oid, rest in archive.entries:
        kind = next((kind for kind in kinds if rest.startswith(kind)), None)
        if listed != catalog or kind is None:
            continue
        text = rest.removeprefix(kind)
        ends = (place for place in range(min(len(text), longest), 0, -1) if text[place - 1] == " ")
        name = next((by_text[text[:end]] for end in ends if text[:end] in by_text), None)
        if name is not None:
            found[oid] = name
    return found


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\r", " ")


def _highest_xid(conn: Connection) -> int:
    """The highest transaction id that a captured row or a frontier names; 0 where none does (before 0004)."""
    row = conn.execute(_XID_HORIZONS).fetchone()
    highest = int(row[0]) if row else 0
    for (buffer,) in conn.execute(_XID_BUFFERS).fetchall():
        found = conn.execute(
            sql.SQL("SELECT max(b.xid::text::numeric)::bigint FROM {} b").format(
                sql.Identifier("pgtrickle_changes", buffer)
            )
        ).fetchone()
        highest = max(highest, int(found[0]) if found and found[0] is not None else 0)
    return highest
