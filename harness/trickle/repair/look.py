"""A look at what stream tables and their capture consist of, on every node; it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from harness.trickle.repair.findings import COORDINATOR, Finding
from harness.trickle.sources import has_citus

# What capture keeps on a node. Triggers and functions by their own catalogs, since Citus hides shards in pg_class.
_NODE_TEXT: LiteralString = """
    SELECT pg_catalog.json_build_object(
        'functions', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(p.proname, pg_catalog.md5(p.prosrc)))
                      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                      WHERE n.nspname = 'pgtrickle_changes'),
        'tables', (SELECT pg_catalog.json_agg(c.relname) FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'pgtrickle_changes' AND c.relkind = 'r'),
        'triggers', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                                t.tgname, t.tgrelid::pg_catalog.regclass::text, t.tgenabled))
                     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                     JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                     WHERE n.nspname = 'pgtrickle_changes' AND t.tgparentid = 0),
        'guards', (SELECT pg_catalog.json_agg(DISTINCT t.tgrelid::pg_catalog.regclass::text)
                   FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                   JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                   WHERE n.nspname = 'pgtrickle' AND p.proname = '_guard_stream_table' {not_shells}),
        'publications', (SELECT pg_catalog.json_agg(b.pubname) FROM pg_catalog.pg_publication b
                         WHERE b.pubname LIKE 'pg\\_trickle\\_%'))::text"""
HERE_QUERY = sql.SQL(_NODE_TEXT).format(not_shells=sql.SQL(""))
# On a worker a distributed table has a shell of its own name, which is no shard, however its name ends.
THERE_QUERY = sql.SQL(_NODE_TEXT).format(
    not_shells=sql.SQL("AND NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition d WHERE d.logicalrelid = t.tgrelid)")
)
_SOURCES_QUERY = """
    SELECT k.source_relid::bigint, k.source_stable_name, c.oid IS NOT NULL,
           coalesce(c.oid::regclass::text, 'source ' || k.source_stable_name),
           CASE WHEN c.oid IS NOT NULL THEN pgtrickle.placement_of(c.oid) END,
           EXISTS (SELECT FROM pgtrickle.pgt_dependencies d WHERE d.source_relid = k.source_relid AND d.is_captured),
           CASE WHEN c.oid IS NOT NULL THEN ARRAY(SELECT * FROM pgtrickle.capture_problems(k.source_relid)) END
    FROM pgtrickle.pgt_change_tracking k LEFT JOIN pg_class c ON c.oid = k.source_relid ORDER BY k.source_relid"""
_SHARDS_QUERY = """
    SELECT p.nodename || ':' || p.nodeport, s.shardid, s.logicalrelid::oid::bigint
    FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_dist_shard_placement p USING (shardid)"""
_ROWS_QUERY = """
    WITH tables AS (
        SELECT t.*, format('%I.%I', t.pgt_schema, t.pgt_name) AS name,
               EXISTS (SELECT FROM pg_class c WHERE c.oid = t.pgt_relid) AS is_there,
               (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = t.pgt_relid AND g.tgenabled <> 'D'
                AND g.tgfoid = 'pgtrickle._guard_stream_table'::regproc) AS guards
        FROM pgtrickle.pgt_stream_tables t
    )
    SELECT 'orphan_history', 'refresh history of ' || h.pgt_id, 'is of no stream table', h.pgt_id
    FROM pgtrickle.pgt_refresh_history h WHERE NOT EXISTS (SELECT FROM tables t WHERE t.pgt_id = h.pgt_id)
    GROUP BY h.pgt_id
    UNION ALL
    SELECT 'lost_storage', t.name, 'has no table any more', t.pgt_id FROM tables t WHERE NOT t.is_there
    UNION ALL
    SELECT 'unfinished_drop', t.name, 'was dropped while a worker was down', t.pgt_id
    FROM tables t WHERE t.drop_requested_at IS NOT NULL AND t.is_there
    UNION ALL
    SELECT 'unguarded', t.name, 'can be written by anybody', t.pgt_id
    FROM tables t WHERE t.storage_format IS NOT NULL AND t.is_there AND t.guards < 2
    UNION ALL
    SELECT 'uncaptured', t.name, format('reads the changes of %s, which is not captured', c.oid::regclass), t.pgt_id
    FROM pgtrickle.pgt_dependencies d JOIN tables t USING (pgt_id) JOIN pg_class c ON c.oid = d.source_relid
    WHERE d.is_captured
      AND NOT EXISTS (SELECT FROM pgtrickle.pgt_change_tracking k WHERE k.source_relid = d.source_relid)
    UNION ALL
    SELECT 'lost_source', t.name, 'reads a table that is gone: ' || coalesce(t.suspended_reason, 'it was dropped'),
           t.pgt_id
    FROM pgtrickle.pgt_dependencies d JOIN tables t USING (pgt_id)
    WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d.source_relid)"""


@dataclass(frozen=True)
class Tracked:
    """A source whose changes are captured, as the catalog has it.

    Attributes:
        relid: its OID on the coordinator.
        stable_name: equal on every node.
        exists: whether it is still there.
        name: as SQL writes it.
        placement: where it is; None where it is gone.
        is_read: whether a stream table reads its changes.
        problems: what is wrong with it on the coordinator.
    """

    relid: int
    stable_name: str
    exists: bool
    name: str
    placement: str | None
    is_read: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What of capture is on a node.

    Attributes:
        functions: their names, and a digest of their text.
        tables: buffers, their shards included.
        triggers: name, table and whether it fires.
        guards: tables and shards that nobody but a refresh writes.
        publications: names.
    """

    functions: Mapping[str, str]
    tables: tuple[str, ...]
    triggers: tuple[tuple[str, str, bool], ...]
    guards: tuple[str, ...]
    publications: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """All of it.

    Attributes:
        sources: by stable name.
        nodes: by name or address; None where one does not answer.
        answers: what such a node said instead.
        shards: number and table of every shard that is known, by address.
        rows: what is wrong in the catalog itself: code, subject, detail, number of the stream table.
        stream_tables: their names, without schemas.
    """

    sources: Mapping[str, Tracked]
    nodes: Mapping[str, Kept | None]
    answers: Mapping[str, str]
    shards: Mapping[str, Mapping[int, int]]
    rows: tuple[tuple[str, str, str, int], ...]
    stream_tables: frozenset[str]


def look(connection: psycopg.Connection[Any]) -> Look:
    """Read the catalog and every node.

    Args:
        connection: to the coordinator, in autocommit, idle. Workers are asked through it, with Citus' own credentials.

    Returns:
        What is there. A worker that does not answer is in it by its address.
    """
    # The nodes first: what is made meanwhile is then known, and not taken for a leftover.
    nodes: dict[str, Kept | None] = {}
    answers: dict[str, str] = {}
    if has_citus(connection):
        query = " ".join(THERE_QUERY.as_string(connection).split())
        for host, port, is_good, result in connection.execute(
            "SELECT nodename, nodeport, success, result FROM pg_catalog.run_command_on_workers(%s)", [query]
        ).fetchall():
            nodes[f"{host}:{port}"] = read_kept(result) if is_good else None
            answers[f"{host}:{port}"] = "" if is_good else str(result)
    nodes = {COORDINATOR: read_kept(connection.execute(HERE_QUERY).fetchall()[0][0]), **nodes}
    return compare(connection, nodes, answers)


def compare(connection: psycopg.Connection[Any], nodes: Mapping[str, Kept | None], answers: Mapping[str, str]) -> Look:
    """What nodes keep, beside what the catalog says.

    Args:
        connection: to the coordinator, of the catalog's owner.
        nodes: what `HERE_QUERY` said on the coordinator (`COORDINATOR`) and `THERE_QUERY` on each worker, by address.
        answers: what a worker said that did not answer.
    """
    shards: dict[str, dict[int, int]] = {}
    if has_citus(connection):
        for address, shard, relid in connection.execute(_SHARDS_QUERY).fetchall():
            shards.setdefault(str(address), {})[int(shard)] = int(relid)
    sources = {
        str(row[1]): Tracked(int(row[0]), str(row[1]), row[2], str(row[3]), row[4], row[5], tuple(row[6] or ()))
        for row in connection.execute(_SOURCES_QUERY).fetchall()
    }
    stream_tables = frozenset(
        str(name) for (name,) in connection.execute("SELECT pgt_name FROM pgtrickle.pgt_stream_tables").fetchall()
    )
    rows = tuple((str(a), str(b), str(c), int(d)) for a, b, c, d in connection.execute(_ROWS_QUERY).fetchall())
    return Look(sources, nodes, answers, shards, rows, stream_tables)


def read_kept(text: str) -> Kept:
    """What a node answered to `HERE_QUERY` or `THERE_QUERY`."""
    found: dict[str, list[Any] | None] = json.loads(text)
    return Kept(
        {str(name): str(digest) for name, digest in found["functions"] or []},
        tuple(str(name) for name in found["tables"] or []),
        tuple((str(name), str(table), enabled != "D") for name, table, enabled in found["triggers"] or []),
        tuple(str(name) for name in found["guards"] or []),
        tuple(str(name) for name in found["publications"] or []),
    )


def stable_name_in(name: str) -> str | None:
    """The stable name that an object of capture has in its own name; None where it has none.

    Args:
        name: such as ``changes_d6ad704b2cddddcd_102008``, ``pg_trickle_cdc_fn_d6ad704b2cddddcd``.
    """
    for part in name.split("_"):
        if len(part) == 16 and all(char in "0123456789abcdef" for char in part):
            return part
    return None


def findings_of(found: Look) -> Iterator[Finding]:
    """What is wrong, in the order in which it is mended.

    Args:
        found: what is there.
    """
    yield from _of_nodes_that_are_gone(found)
    for code, subject, detail, _number in found.rows:
        yield Finding(code, COORDINATOR, subject, detail)
    for source in found.sources.values():
        if not source.exists:
            yield Finding("lost_table", COORDINATOR, source.name, "is captured, and is gone")
        elif not source.is_read:
            yield Finding("unread_capture", COORDINATOR, source.name, "is captured, and nobody reads its changes")
        else:
            yield from (Finding("broken_capture", COORDINATOR, source.name, problem) for problem in source.problems)
            if not source.problems and source.placement == "distributed":
                yield from _of_shards(found, source)
    for node, kept in found.nodes.items():
        if kept is not None:
            yield from _of_orphans(found, node, kept)


def _of_nodes_that_are_gone(found: Look) -> Iterator[Finding]:
    for node, kept in found.nodes.items():
        if kept is None:
            words = (found.answers[node].strip().splitlines() or ["it does not answer"])[0]
            yield Finding("node_down", node, "worker", f"does not answer: {words}", error="look again when it is back")


def _of_shards(found: Look, source: Tracked) -> Iterator[Finding]:
    coordinator = found.nodes[COORDINATOR]
    function = f"pg_trickle_cdc_fn_{source.stable_name}"
    for node, kept in found.nodes.items():
        if kept is None or coordinator is None or node == COORDINATOR:
            continue
        if function not in kept.functions:
            yield Finding("broken_capture", node, source.name, "has no capture function there")
            continue
        if kept.functions[function] != coordinator.functions.get(function):
            yield Finding("broken_capture", node, source.name, "has a capture function of another version there")
        for shard, relid in sorted(found.shards.get(node, {}).items()):
            if relid != source.relid:
                continue
            fires = {name for name, table, is_on in kept.triggers if is_on and shard_of(table) == shard}
            for kind in ("ins", "upd", "del"):
                if not any(name.startswith(f"pg_trickle_cdc_{kind}_") for name in fires):
                    yield Finding(
                        "broken_capture", node, source.name, f"has a shard without its {kind} trigger: {shard}"
                    )


def shard_of(table: str) -> int | None:
    """The number at the end of a shard's name; None where it has none."""
    number = table.rstrip('"').rpartition("_")[2]
    return int(number) if number.isdigit() else None


def _of_orphans(found: Look, node: str, kept: Kept) -> Iterator[Finding]:
    def is_orphan(name: str) -> bool:
        stable = stable_name_in(name)
        return stable is not None and stable not in found.sources

    for name in sorted(filter(is_orphan, kept.functions)):
        yield Finding("orphan_function", node, f"pgtrickle_changes.{name}", "captures for a source that is not tracked")
    for name in sorted(filter(is_orphan, kept.tables)):
        yield Finding("orphan_buffer", node, f"pgtrickle_changes.{name}", "is a buffer without a source")
    for name in sorted(filter(is_orphan, kept.publications)):
        yield Finding("orphan_publication", node, name, "publishes for a source that is not tracked")
    if node == COORDINATOR:
        return
    known = {shard for shards in found.shards.values() for shard in shards}
    for table in sorted(kept.guards):
        shard = shard_of(table)
        if shard is None or shard in known:
            continue
        name = table.rpartition(".")[2].strip('"').removesuffix(f"_{shard}").replace('""', '"')
        # One that is being split has shards that nobody knows yet.
        if not any(known_name.startswith(name[:40]) for known_name in found.stream_tables):
            yield Finding("orphan_storage", node, table, "is a shard of a stream table that is gone")


def identifier_of(name: str) -> sql.Identifier:
    """An object of capture that a node named itself, in schema pgtrickle_changes."""
    return sql.Identifier("pgtrickle_changes", name.removeprefix("pgtrickle_changes."))
