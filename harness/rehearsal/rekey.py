"""Gives a copied installation the OIDs of the copy: catalog rows, frontier keys, names and bodies with an OID in them.

A restored table has another OID than the one it was dumped from. Version 0.2 and revision 0001 name a source's objects
by its OID (`baseline.md`), and every revision keeps OIDs in the catalog beside the stable names (D3). What belongs to
what is decided by name, from the snapshot that the copy was made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from harness.logs import get_logger

Connection: TypeAlias = psycopg.Connection[TupleRow]
QualifiedName: TypeAlias = tuple[str, str]

# User objects have OIDs from here on (access/transam.h, FirstNormalObjectId); those below are the same everywhere.
FIRST_USER_OID = 16384
# Where an OID goes that belongs to nothing any more and whose number is taken in the copy: far from a new server's own.
_DANGLING_FROM = 4_200_000_000
# Where the OIDs of catalog rows wait while they change places, downwards: as far away, and apart from those.
_ASIDE = 4_294_000_000

# A source's objects, named by OID: prefix, OID, suffix. A stable name has 16 digits, an OID at most 10.
_NAME = re.compile(
    r"^(changes_|idx_changes_|pg_trickle_cdc_|pg_trickle_cdc_[a-z_]*fn_|pg_trickle_cdc_truncate_|pgt_ivm_[a-z_]+_fn_\d+_)"
    r"(\d{1,10})((?:_[a-z].*)?)$"
)
# The buffer in a capture function's body, as 0.2 writes it: schema and buffer, quoted or not. Digits before a letter
# are the beginning of a stable name.
_BUFFER = re.compile(r'("?pgtrickle_changes"?\."?changes_)(\d{1,10})(?![0-9A-Za-z_])')
_SLOT = re.compile(r"^(pg_trickle_(?:cdc|slot)_)(\d{1,10})$")

_RELATIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'
"""
_TYPES = """
SELECT t.oid::bigint, n.nspname::text, t.typname::text
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'
"""
_COLUMNS = """
SELECT a.attrelid::bigint, a.attname::text, a.attnum::int
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384
"""
_NAMED_RELATIONS = """
SELECT c.relkind::text, c.relname::text FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'pgtrickle_changes'::regnamespace AND c.relkind IN ('r', 'p', 'i', 'I', 'S')
ORDER BY c.oid
"""
_NAMED_FUNCTIONS = """
SELECT n.nspname::text, p.proname::text, p.oid::bigint
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('pgtrickle', 'pgtrickle_changes') AND p.pronargs = 0 ORDER BY p.oid
"""
_NAMED_TRIGGERS = """
SELECT n.nspname::text, c.relname::text, t.tgname::text
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname ~ '^pg_trickle_cdc_' ORDER BY t.oid
"""


@dataclass(frozen=True)
class OidNames:
    """What the OIDs of one database mean, at one moment.

    Attributes:
        relations: OID to schema and name, of tables, views and their like.
        types: OID to schema and name.
        columns: OID of a relation and column name to the column's number.
    """

    relations: Mapping[int, QualifiedName]
    types: Mapping[int, QualifiedName] = field(default_factory=dict)
    columns: Mapping[tuple[int, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class RekeyReport:
    """What was re-keyed.

    Attributes:
        rows: how many catalog rows were rewritten.
        renamed: how many renames it took, steps aside counted.
        bodies: how many function bodies were rewritten.
        dangling: OIDs in the catalog or in names that belonged to nothing in the source any more.
    """

    rows: int
    renamed: int
    bodies: int
    dangling: tuple[int, ...]


def fetch_names(conn: Connection) -> OidNames:
    """Read what the OIDs of this database mean, in the connection's snapshot. Changes nothing."""
    return OidNames(
        relations={oid: (schema, name) for oid, schema, name in conn.execute(_RELATIONS)},
        types={oid: (schema, name) for oid, schema, name in conn.execute(_TYPES)},
        columns={(oid, column): number for oid, column, number in conn.execute(_COLUMNS)},
    )


class OidMap:
    """OIDs of the source to those of the copy, by name. An OID that means nothing stays one that means nothing."""

    def __init__(self, source: OidNames, copy: OidNames) -> None:
        self._source = source
        self._by_name = {name: oid for oid, name in copy.relations.items()}
        self._types_by_name = {name: oid for oid, name in copy.types.items()}
        self._columns = copy.columns
        self._taken = set(copy.relations)
        self._known: dict[int, int] = {}
        self.dangling: list[int] = []

    def relation(self, oid: int) -> int:
        """The copy's OID of a relation of the source."""
        if oid not in self._known:
            name = self._source.relations.get(oid)
            found = oid if oid < FIRST_USER_OID else self._by_name.get(name) if name else None
            self._known[oid] = self._nothing(oid) if found is None else found
        return self._known[oid]

    def _nothing(self, oid: int) -> int:
        self.dangling.append(oid)
        number = oid if oid not in self._taken else _DANGLING_FROM + len(self.dangling)
        self._taken.add(number)
        return number

    def type(self, oid: int) -> int:
        """The copy's OID of a type of the source; 0.2 stores it as a signed number."""
        unsigned = oid % 2**32
        name = self._source.types.get(unsigned)
        found = self._types_by_name.get(name) if name else None
        if found is None:
            return oid
        return found if found < 2**31 else found - 2**32

    def ordinal(self, source_oid: int, column: str, number: int) -> int:
        """The copy's number of a column: a restored table has no dropped columns, so numbers close up."""
        if self._source.columns.get((source_oid, column)) != number:
            return number
        return self._columns.get((self.relation(source_oid), column), number)


def rekey(conn: Connection, source: OidNames) -> RekeyReport:
    """Rewrite every OID of the source in a restored installation, in one transaction.

    Args:
        conn: a connection of a superuser to the copy, not in a transaction.
        source: what the OIDs meant, read with `fetch_names` in the snapshot that the copy was made of.

    Returns:
        How much there was to do. The sources' own rows are not touched.
    """
    with conn.transaction():
        oids = OidMap(source, fetch_names(conn))
        rows = _rekey_rows(conn, oids)
        renamed = _rename_relations(conn, oids) + _rename_functions(conn, oids) + _rename_triggers(conn, oids)
        bodies = _rewrite_bodies(conn, oids)
    report = RekeyReport(rows, renamed, bodies, tuple(oids.dangling))
    get_logger("rehearsal").info("re-keyed", rows=rows, renamed=renamed, bodies=bodies, dangling=len(oids.dangling))
    return report


def _rekey_rows(conn: Connection, oids: OidMap) -> int:
    """Catalog rows. Their OIDs are unique keys, checked row by row: all step aside before any gets its new one."""
    return _rekey_stream_tables(conn, oids) + _rekey_dependencies(conn, oids) + _rekey_tracking(conn, oids)


def _rekey_stream_tables(conn: Connection, oids: OidMap) -> int:
    found = conn.execute("SELECT pgt_id, pgt_relid::bigint, frontier FROM pgtrickle.pgt_stream_tables").fetchall()
    aside = [(_ASIDE - place, pgt_id) for place, (pgt_id, _relid, _frontier) in enumerate(found)]
    _many(conn, b"UPDATE pgtrickle.pgt_stream_tables SET pgt_relid = %s::bigint::oid WHERE pgt_id = %s", aside)
    _many(
        conn,
        b"UPDATE pgtrickle.pgt_stream_tables SET pgt_relid = %s::bigint::oid, frontier = %s::jsonb WHERE pgt_id = %s",
        [
            (oids.relation(relid), _json(rekey_frontier(frontier, oids.relation)), pgt_id)
            for pgt_id, relid, frontier in found
        ],
    )
    return len(found)


def _rekey_dependencies(conn: Connection, oids: OidMap) -> int:
    found = conn.execute(
        "SELECT pgt_id, source_relid::bigint, column_snapshot, slot_name FROM pgtrickle.pgt_dependencies"
    ).fetchall()
    _many(
        conn,
        b"UPDATE pgtrickle.pgt_dependencies SET source_relid = %s::bigint::oid "
        b"WHERE pgt_id = %s AND source_relid::bigint = %s",
        [(_ASIDE - place, pgt_id, old) for place, (pgt_id, old, _snapshot, _slot) in enumerate(found)],
    )
    _many(
        conn,
        b"UPDATE pgtrickle.pgt_dependencies "
        b"SET source_relid = %s::bigint::oid, column_snapshot = %s::jsonb, slot_name = %s "
        b"WHERE pgt_id = %s AND source_relid::bigint = %s",
        [
            (
                oids.relation(old),
                _json(_rekey_snapshot(snapshot, old, oids)),
                rekey_slot(slot, oids.relation),
                pgt_id,
                _ASIDE - place,
            )
            for place, (pgt_id, old, snapshot, slot) in enumerate(found)
        ],
    )
    return len(found)


def _rekey_tracking(conn: Connection, oids: OidMap) -> int:
    found = conn.execute("SELECT source_relid::bigint, slot_name FROM pgtrickle.pgt_change_tracking").fetchall()
    _many(
        conn,
        b"UPDATE pgtrickle.pgt_change_tracking SET source_relid = %s::bigint::oid WHERE source_relid::bigint = %s",
        [(_ASIDE - place, old) for place, (old, _slot) in enumerate(found)],
    )
    _many(
        conn,
        b"UPDATE pgtrickle.pgt_change_tracking SET source_relid = %s::bigint::oid, slot_name = %s "
        b"WHERE source_relid::bigint = %s",
        [
            (oids.relation(old), rekey_slot(slot, oids.relation), _ASIDE - place)
            for place, (old, slot) in enumerate(found)
        ],
    )
    return len(found)


def rekey_frontier(frontier: object, relation: Callable[[int], int]) -> object:
    """A frontier with the copy's OIDs as keys; keys that are no OIDs (from 0002 on) stay."""
    if not isinstance(frontier, dict) or not isinstance(frontier.get("sources"), dict):
        return frontier
    sources = {
        str(relation(int(key))) if key.isdecimal() and len(key) <= 10 else key: value
        for key, value in frontier["sources"].items()
    }
    return {**frontier, "sources": sources}


def rekey_slot(slot: str | None, relation: Callable[[int], int]) -> str | None:
    """A slot's name (`pg_trickle_cdc_<oid>`) with the copy's OID; any other name stays."""
    match = _SLOT.match(slot or "")
    return f"{match[1]}{relation(int(match[2]))}" if match else slot


def _rekey_snapshot(snapshot: object, source_oid: int, oids: OidMap) -> object:
    """A column snapshot (0.2: a list of name, ordinal, type_oid) with the copy's numbers."""
    if not isinstance(snapshot, list):
        return snapshot
    return [
        {
            **entry,
            "type_oid": oids.type(int(entry["type_oid"])),
            "ordinal": oids.ordinal(source_oid, str(entry["name"]), int(entry["ordinal"])),
        }
        if isinstance(entry, dict) and {"name", "type_oid", "ordinal"} <= entry.keys()
        else entry
        for entry in snapshot
    ]


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)


def rekey_name(name: str, relation: Callable[[int], int]) -> str:
    """The name of one of a source's objects, with the copy's OID; a name without an OID stays."""
    match = _NAME.match(name)
    return f"{match[1]}{relation(int(match[2]))}{match[3]}" if match else name


def plan_renames(names: Iterable[str], relation: Callable[[int], int]) -> list[tuple[str, str]]:
    """Renames that never meet: where a new name is somebody's old one, that one steps aside first.

    Args:
        names: all names of one kind in one namespace.
        relation: the copy's OID for one of the source.

    Returns:
        Pairs (from, to), to be run in this order.
    """
    present = set(names)
    moves = [(old, new) for old, new in ((name, rekey_name(name, relation)) for name in sorted(present)) if old != new]
    direct = [(old, new) for old, new in moves if new not in present]
    blocked = [(old, f"rekey_{place}_in_between", new) for place, (old, new) in enumerate(moves) if new in present]
    return [
        *((old, between) for old, between, _new in blocked),
        *direct,
        *((between, new) for _old, between, new in blocked),
    ]


def _rename_relations(conn: Connection, oids: OidMap) -> int:
    words = {
        "r": sql.SQL("TABLE"),
        "p": sql.SQL("TABLE"),
        "i": sql.SQL("INDEX"),
        "I": sql.SQL("INDEX"),
        "S": sql.SQL("SEQUENCE"),
    }
    kinds = {name: kind for kind, name in conn.execute(_NAMED_RELATIONS)}
    moves = plan_renames(kinds, oids.relation)
    for old, new in moves:
        kinds[new] = kinds[old]
        conn.execute(
            sql.SQL("ALTER {} pgtrickle_changes.{} RENAME TO {}").format(
                words[kinds[old]], sql.Identifier(old), sql.Identifier(new)
            )
        )
    return len(moves)


def _rename_functions(conn: Connection, oids: OidMap) -> int:
    by_schema: dict[str, list[str]] = {}
    for schema, name, _oid in conn.execute(_NAMED_FUNCTIONS):
        by_schema.setdefault(schema, []).append(name)
    count = 0
    for schema, names in by_schema.items():
        for old, new in plan_renames(names, oids.relation):
            conn.execute(
                sql.SQL("ALTER FUNCTION {}.{}() RENAME TO {}").format(
                    sql.Identifier(schema), sql.Identifier(old), sql.Identifier(new)
                )
            )
            count += 1
    return count


def _rename_triggers(conn: Connection, oids: OidMap) -> int:
    by_table: dict[QualifiedName, list[str]] = {}
    for schema, table, name in conn.execute(_NAMED_TRIGGERS):
        by_table.setdefault((schema, table), []).append(name)
    count = 0
    for table, names in by_table.items():
        for old, new in plan_renames(names, oids.relation):
            conn.execute(
                sql.SQL("ALTER TRIGGER {} ON {} RENAME TO {}").format(
                    sql.Identifier(old), sql.Identifier(*table), sql.Identifier(new)
                )
            )
            count += 1
    return count


def rekey_body(body: str, relation: Callable[[int], int]) -> str:
    """A capture function's body, writing to the copy's buffers."""
    return _BUFFER.sub(lambda match: f"{match[1]}{relation(int(match[2]))}", body)


def _rewrite_bodies(conn: Connection, oids: OidMap) -> int:
    found = conn.execute(
        "SELECT p.prosrc, pg_catalog.pg_get_functiondef(p.oid) FROM pg_catalog.pg_proc p "
        "WHERE p.pronamespace IN ('pgtrickle_changes'::regnamespace, 'pgtrickle'::regnamespace) "
        "AND p.prokind = 'f' AND p.prosqlbody IS NULL ORDER BY p.oid"
    ).fetchall()
    count = 0
    for body, definition in found:
        rewritten = rekey_body(body, oids.relation)
        if rewritten != body:
            conn.execute(definition.replace(body, rewritten).encode())  # the server's own words, one name changed
            count += 1
    return count


def _many(conn: Connection, query: bytes, parameters: Sequence[Sequence[object]]) -> None:
    if parameters:
        with conn.cursor() as cursor:
            cursor.executemany(query, parameters)
