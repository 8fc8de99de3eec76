"""The extension's own objects as values that compare: an updated installation against a fresh one."""

from __future__ import annotations

import re

from harness.chain.catalog import CatalogSnapshot, Difference, compare_catalogs, snapshot_catalog
from harness.engines.installed import EXTENSION
from harness.rehearsal.tables import Connection

# What the extension makes at run time (capture functions of a stream table, say) is no member and is no difference.
_MEMBERS = """
SELECT CASE d.classid WHEN 'pg_catalog.pg_class'::pg_catalog.regclass THEN 'relation'
                      WHEN 'pg_catalog.pg_event_trigger'::pg_catalog.regclass THEN 'event trigger'
                      WHEN 'pg_catalog.pg_namespace'::pg_catalog.regclass THEN 'schema'
                      WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN 'function' END,
       CASE d.classid WHEN 'pg_catalog.pg_class'::pg_catalog.regclass THEN
                (SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = d.objid)
            WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.objid::pg_catalog.regprocedure::text
            ELSE (pg_catalog.pg_identify_object(d.classid, d.objid, 0)).identity END
  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = %s
 WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
   AND d.classid IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass,
                     'pg_catalog.pg_namespace'::pg_catalog.regclass, 'pg_catalog.pg_event_trigger'::pg_catalog.regclass)
"""
# A column that was added later stands last, in every installation that was ever updated: its place is no difference.
_PLACE = re.compile(r", place \d+$")
# Of these the subject names the relation that they are on.
_ON_RELATION = ("constraint", "trigger")


def snapshot_extension(conn: Connection) -> CatalogSnapshot:
    """Tables, columns, constraints, indexes, views, sequences, functions and event triggers of the extension.

    Args:
        conn: to a database that has it; only reads.

    Returns:
        Their definitions and rights, without OIDs, the order of columns, or who owns what.
    """
    with conn.transaction():
        conn.execute("SET LOCAL search_path = ''")
        members = {(kind, subject) for kind, subject in conn.execute(_MEMBERS, [EXTENSION])}
    relations = {subject for kind, subject in members if kind == "relation"}
    entries = {}
    for (kind, subject), definition in snapshot_catalog(conn).entries.items():
        if _is_part(kind, subject, definition, members, relations):
            entries[kind, subject] = _PLACE.sub("", definition)
    return CatalogSnapshot(entries)


def _is_part(kind: str, subject: str, definition: str, members: set[tuple[str, str]], relations: set[str]) -> bool:
    if kind in ("schema", "function", "event trigger"):
        return (kind, subject) in members
    if kind in ("relation", "view", "sequence"):
        return subject in relations
    if kind == "column":
        return subject.rpartition(".")[0] in relations
    if kind == "index":
        return any(f" ON {relation} " in definition for relation in relations)
    if kind in _ON_RELATION:
        return any(subject.startswith(f"{one} ") or subject.endswith(f" on {one}") for one in relations)
    return False


def differences_from_fresh(fresh: CatalogSnapshot, updated: CatalogSnapshot) -> tuple[str, ...]:
    """What an updated installation does not share with a fresh one of the same version, a line each.

    A function's text is long: only that it differs is said, and where from which character on.
    """
    return tuple(_tell(one) for one in compare_catalogs(fresh, updated))


def _tell(one: Difference) -> str:
    if one.before is None:
        return f"{one.kind} {one.subject} is there and not in a fresh one"
    if one.after is None:
        return f"{one.kind} {one.subject} is missing"
    pairs = zip(one.before, one.after, strict=False)
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.before), len(one.after)))
    begin = max(0, at - 20)
    return f"{one.kind} {one.subject}: fresh {_around(one.before, begin)!r}, here {_around(one.after, begin)!r}"


def _around(text: str, begin: int) -> str:
    return " ".join(text[begin : begin + 60].split())
