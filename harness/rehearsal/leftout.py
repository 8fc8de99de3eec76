"""What a logical copy cannot have, because it needs a library that is not here, and whether all else arrived."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Finding, ServerError
from harness.logs import redact
from harness.postgres import Installation
from harness.rehearsal.source import Connection

_C_FUNCTIONS = """
SELECT p.tableoid::bigint, p.oid::bigint, p.probin
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname = 'c'
WHERE p.oid >= 16384 AND p.probin IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                  WHERE d.classid = p.tableoid AND d.objid = p.oid AND d.deptype = 'e')
"""
_MEMBERS = """
SELECT d.classid::bigint, d.objid::bigint, i.type, i.identity
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_trickle'
CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
"""
_EXISTS = """
SELECT w.type, w.identity FROM unnest(%s::text[], %s::text[]) w (type, identity)
WHERE CASE w.type WHEN 'schema' THEN pg_catalog.to_regnamespace(w.identity) IS NOT NULL
                  WHEN 'function' THEN pg_catalog.to_regprocedure(w.identity) IS NOT NULL
                  WHEN 'event trigger' THEN false
                  WHEN 'table' THEN pg_catalog.to_regclass(w.identity) IS NOT NULL
                  WHEN 'view' THEN pg_catalog.to_regclass(w.identity) IS NOT NULL
                  WHEN 'sequence' THEN pg_catalog.to_regclass(w.identity) IS NOT NULL
                  ELSE true END
"""
# Everything that depends on the objects given, through views as well; members of extensions are not in the dump anyway.
_DEPENDENTS = """
WITH RECURSIVE edge AS (
    SELECT d.refclassid, d.refobjid, d.classid, d.objid FROM pg_catalog.pg_depend d WHERE d.deptype IN ('n', 'a', 'i')
    UNION ALL
    SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid, 'pg_catalog.pg_class'::regclass, r.ev_class
    FROM pg_catalog.pg_rewrite r WHERE r.rulename = '_RETURN'
), gone (classid, objid) AS (
    SELECT * FROM unnest(%s::oid[], %s::oid[])
    UNION
    SELECT e.classid, e.objid FROM gone g JOIN edge e ON e.refclassid = g.classid AND e.refobjid = g.objid
)
SELECT g.classid::bigint, g.objid::bigint, i.type, i.identity, coalesce(c.relkind IN ('r', 'p'), false)
FROM gone g
CROSS JOIN LATERAL pg_catalog.pg_identify_object(g.classid, g.objid, 0) i
LEFT JOIN pg_catalog.pg_class c ON g.classid = 'pg_catalog.pg_class'::regclass AND c.oid = g.objid
WHERE g.classid <> 'pg_catalog.pg_type'::regclass
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend m
                  WHERE m.classid = g.classid AND m.objid = g.objid AND m.deptype = 'e')
"""
_OBJECTS = """
WITH object (classid, objid, kind, name) AS (
    SELECT c.tableoid, c.oid,
           CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index'
                          WHEN 'I' THEN 'index' WHEN 'f' THEN 'foreign table' ELSE 'view' END,
           pg_catalog.format('%I.%I', n.nspname, c.relname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'S', 'i', 'I', 'v', 'm', 'f') AND n.nspname !~ '^pg_(toast|temp)'
    UNION ALL
    SELECT p.tableoid, p.oid, 'function', n.nspname || '.' || p.proname
           || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')'
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.oid >= 16384
    UNION ALL
    SELECT t.tableoid, t.oid, 'trigger', pg_catalog.format('%I on %I.%I', t.tgname, n.nspname, c.relname)
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal
)
SELECT o.classid::bigint, o.objid::bigint, o.kind, o.name FROM object o
WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                  WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype = 'e')
  -- an index or sequence of a member is no member itself
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                  JOIN pg_catalog.pg_depend m ON m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e'
                  WHERE d.classid = o.classid AND d.objid = o.objid AND o.kind IN ('index', 'sequence'))
"""
# Without these the checks would mean nothing; anything else that is missing is told.
_NEEDED_KINDS = ("table", "trigger", "sequence")
# A line of `pg_restore --list`: dump id, catalog, OID, description; and what it depends on, with --verbose.
_ENTRY = re.compile(r"^(\d+); (\d+) (\d+) ")
_DEPENDS = re.compile(r"^;\s+depends on: ([\d ]+)")


@dataclass(frozen=True)
class LeftOut:
    """Something that cannot live without its library: catalog and OID in the source, and what it is."""

    classid: int
    objid: int
    kind: str
    identity: str


@dataclass(frozen=True)
class Named:
    """An object by catalog, OID, kind and name."""

    classid: int
    objid: int
    kind: str
    name: str


def find_left_out(source: Connection, copy: Connection, installation: Installation) -> tuple[LeftOut, ...]:
    """What of the source needs a library that is not here, and all that depends on it.

    Args:
        source: in the snapshot of the dump.
        copy: with what the chain's first revision provides, before the restore.
        installation: of the copy.

    Raises:
        ServerError: a table does; a copy without it would say nothing.
    """
    seeds = [
        (classid, objid)
        for classid, objid, library in source.execute(_C_FUNCTIONS)
        if not (installation.libdir / (library.removeprefix("$libdir/").removesuffix(".so") + ".so")).exists()
    ]
    members = source.execute(_MEMBERS).fetchall()
    there = set(copy.execute(_EXISTS, [[row[2] for row in members], [row[3] for row in members]]).fetchall())
    seeds += [(classid, objid) for classid, objid, kind, identity in members if (kind, identity) not in there]
    rows = source.execute(_DEPENDENTS, [[one for one, _ in seeds], [one for _, one in seeds]]).fetchall()
    tables = [identity for _, _, _, identity, is_table in rows if is_table]
    if tables:
        raise ServerError(
            f"{', '.join(tables[:3])} cannot be copied: it depends on a library that is not here",
            hint="use --copy physical on a machine that has the library",
        )
    return tuple(LeftOut(*row[:4]) for row in rows)


def tell(left_out: Iterable[LeftOut]) -> tuple[Finding, ...]:
    """What is left out, for people."""
    return tuple(
        Finding(
            "left_out",
            f"{one.kind} {one.identity}",
            "needs a library that is not here; the copy goes without it",
            "adopting takes pg_trickle's own away: drop or change what needs it before the real upgrade",
        )
        for one in left_out
        if one.kind not in ("rule", "default value")
    )


def filter_list(listing: str, left_out: Iterable[LeftOut]) -> str:
    """The entries of a dump that are to be restored.

    Args:
        listing: from ``pg_restore --list --verbose``.
        left_out: by catalog and OID; what depends on one (rights, comments) goes with it.

    Returns:
        A list for ``pg_restore --use-list``.
    """
    unwanted = {(one.classid, one.objid) for one in left_out}
    gone: set[str] = set()
    kept: dict[str, str] = {}
    current = ""
    for line in listing.splitlines():
        entry, depends = _ENTRY.match(line), _DEPENDS.match(line)
        if entry:
            current = entry[1]
            kept[current] = line
            if (int(entry[2]), int(entry[3])) in unwanted:
                gone.add(current)
        elif depends and gone.intersection(depends[1].split()):
            gone.add(current)
    return "".join(f"{line}\n" for number, line in kept.items() if number not in gone)


def fetch_objects(conn: Connection) -> tuple[Named, ...]:
    """Every table, index, sequence, view, function and trigger that no extension owns."""
    return tuple(Named(*row) for row in conn.execute(_OBJECTS))


def find_missing(
    expected: Sequence[Named], there: Iterable[Named], left_out: Iterable[LeftOut], log: Path
) -> tuple[Finding, ...]:
    """Compare names: is all there that a restore should have brought?

    Args:
        expected: objects of the source.
        there: objects of the copy, before re-keying.
        left_out: what was not to come.
        log: what pg_restore said.

    Returns:
        Objects that are missing and not needed for a rehearsal.

    Raises:
        ServerError: a table, trigger or sequence is missing.
    """
    names = {(one.kind, one.name) for one in there}
    unwanted = {(one.classid, one.objid) for one in left_out}
    missing = [
        one for one in expected if (one.classid, one.objid) not in unwanted and (one.kind, one.name) not in names
    ]
    needed = [f"{one.kind} {one.name}" for one in missing if one.kind in _NEEDED_KINDS]
    if needed:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        raise ServerError(
            f"the copy lacks {len(needed)} object(s), the first is {needed[0]}; "
            f"pg_restore said: {redact(' | '.join(lines[-3:]))}",
            hint="the source was only read; what pg_restore misses has to be here",
        )
    return tuple(
        Finding("not_restored", f"{one.kind} {one.name}", "pg_restore could not make it; the copy goes without it")
        for one in missing
    )
