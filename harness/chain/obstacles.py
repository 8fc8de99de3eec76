"""What forbids taking over a 0.2 installation, beside its shape: a loaded library, objects that need what leaves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.chain.connection import Connection
from harness.errors import Finding

EXTENSION = "pg_trickle"
_PRELOADS = ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries")
_LIBRARY = re.compile(r"""(?:^|[,/"'\s])pg_trickle(?:\.so|\.dylib)?(?:[,"'\s]|$)""")

# What the baseline brings with it (migrations/sql/0001_hash.sql) stays; every other function of the extension's leaves.
_LEAVING = """
WITH members AS (
    SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'pg_trickle'
), functions AS (
    SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE (p.oid IN (SELECT objid FROM members WHERE classid = 'pg_proc'::regclass)
           OR p.pronamespace = to_regnamespace('pgtrickle') AND l.lanname = 'c')
      AND p.oid NOT IN (SELECT k::oid FROM unnest(ARRAY[
          to_regprocedure('pgtrickle.pg_trickle_hash(text)'),
          to_regprocedure('pgtrickle.pg_trickle_hash_multi(text[])'),
          to_regprocedure('pgtrickle.parse_duration_seconds(text)'),
          to_regprocedure('pgtrickle._xxh64(bytea,bigint)')]) k WHERE k IS NOT NULL)
), leaving AS (
    SELECT 1 AS place, 'pg_event_trigger'::regclass::oid AS classid, t.oid AS objid FROM pg_event_trigger t
    WHERE t.oid IN (SELECT objid FROM members WHERE classid = 'pg_event_trigger'::regclass)
       OR t.evtname LIKE 'pg\\_trickle%' AND t.evtfoid IN (SELECT oid FROM functions)
    UNION ALL SELECT 2, 'pg_proc'::regclass::oid, oid FROM functions
)
"""
_LEAVING_LIST = """{leaving}
SELECT i.type, i.identity FROM leaving l CROSS JOIN LATERAL pg_identify_object(l.classid, l.objid, 0) i
ORDER BY l.place, i.identity
""".replace("{leaving}", _LEAVING)
# A view depends through its rule: the view is what people know.
_DEPENDENTS = """{leaving}
SELECT DISTINCT i.type, i.identity, coalesce(r.identity, 'extension pg_trickle'), d.deptype = 'x'
FROM pg_depend d
LEFT JOIN leaving l ON l.classid = d.refclassid AND l.objid = d.refobjid
LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
LEFT JOIN LATERAL pg_identify_object(l.classid, l.objid, 0) r ON l.objid IS NOT NULL
CROSS JOIN LATERAL pg_identify_object(CASE WHEN w.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END,
                                      coalesce(w.ev_class, d.objid),
                                      CASE WHEN w.oid IS NULL THEN d.objsubid ELSE 0 END) i
WHERE (l.objid IS NOT NULL AND d.deptype <> 'i'
       OR d.refclassid = 'pg_extension'::regclass AND d.deptype <> 'e'
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_trickle'))
  AND NOT EXISTS (SELECT FROM leaving o WHERE o.classid = d.classid AND o.objid = d.objid)
ORDER BY 1, 2, 3
""".replace("{leaving}", _LEAVING)


@dataclass(frozen=True)
class Leaving:
    """A function or event trigger that goes with the extension, by kind and qualified identity, as SQL writes them."""

    kind: str
    identity: str


def fetch_leaving(connection: Connection) -> tuple[Leaving, ...]:
    """What goes with the extension, in an order in which it can be dropped: event triggers before functions."""
    return tuple(Leaving(kind, identity) for kind, identity in connection.execute(_LEAVING_LIST.encode(), None))


def names_library(setting: str) -> bool:
    """Whether a list of libraries to preload names pg_trickle's, with or without a directory, quotes or suffix."""
    return _LIBRARY.search(setting) is not None


def find_preloaded(connection: Connection) -> tuple[Finding, ...]:
    """The library where it is loaded, or would be at the next restart or connection, and workers of its own."""
    rows = connection.execute(
        # What runs; what the files say (the last line of a name counts); what a database or role is given.
        "SELECT name, setting FROM pg_settings WHERE name = ANY (%(names)s)"
        " UNION ALL SELECT name || ' (not in force yet)', setting FROM ("
        "   SELECT DISTINCT ON (name) name, setting FROM pg_file_settings WHERE name = ANY (%(names)s)"
        "   ORDER BY name, seqno DESC) f"
        "   WHERE setting IS DISTINCT FROM (SELECT reset_val FROM pg_settings s WHERE s.name = f.name)"
        " UNION ALL SELECT split_part(c, '=', 1) || format(' (of %%s)',"
        "   concat_ws(' and ', 'database ' || d.datname, 'role ' || r.rolname)), substr(c, strpos(c, '=') + 1)"
        "   FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c LEFT JOIN pg_database d ON d.oid = s.setdatabase"
        "   LEFT JOIN pg_roles r ON r.oid = s.setrole"
        "   WHERE split_part(c, '=', 1) = ANY (%(names)s)"
        "   AND (s.setdatabase = 0 OR d.datname = current_database())",
        {"names": list(_PRELOADS)},
    ).fetchall()
    findings = [
        Finding(
            "library_preloaded",
            name,
            f"{name} = '{setting}': as long as the library is loaded, its scheduler works on the same catalog",
            f"take pg_trickle out of {name.split(' ')[0]} and restart the server",
        )
        for name, setting in rows
        if setting and names_library(setting)
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


def find_dependents(connection: Connection) -> tuple[Finding, ...]:
    """Objects of others that need a function that leaves, or the extension itself; a function's text tells nothing."""
    return tuple(
        Finding(
            "object_depends",
            f"{kind} {identity}",
            f"{kind} {identity} depends on {needed}, which leaves with the extension",
            f"ALTER it ... NO DEPENDS ON EXTENSION {EXTENSION}, or drop it"
            if is_tied
            else f"drop {identity}, or change it so that it no longer needs {needed}",
        )
        for kind, identity, needed, is_tied in connection.execute(_DEPENDENTS.encode(), None)
    )
