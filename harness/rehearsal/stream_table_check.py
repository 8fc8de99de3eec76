"""Is each stream table equal to its query as of its frontier?

The sources are taken back to the frontier: in one transaction, which is rolled back, the pending captured rows are
undone on the tables themselves with all triggers off; then the query is asked. So the check sees whether the frontier,
the buffer and the table still fit together, which is what a migration can break.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from harness.rehearsal.contents import hashes_of, image_of
from harness.rehearsal.model import CheckResult, Verdict
from harness.rehearsal.query_comparison import describe_difference
from harness.rehearsal.tables import Connection, SourceTable, TableName, fetch_buffers, fetch_tables

STREAM_TABLE_CHECK = "stream_table_equals_query"


@dataclass(frozen=True)
class _Dependency:
    relid: int
    kind: str
    has_changed_since: bool
    is_distributed: bool


@dataclass(frozen=True)
class _StreamTable:
    """A row of the catalog, as far as the check needs it."""

    pgt_id: int
    relid: int
    table: TableName
    query: str
    topk: tuple[str, int] | None
    refresh_mode: str
    is_populated: bool
    needs_reinit: bool
    frontier: Mapping[str, object] | None


class _CannotTellError(Exception):
    """The check cannot be made; its text says why."""


class _WrongError(Exception):
    """A difference was found; its text says which."""


def check_stream_tables(
    conn: Connection, *, phase: str, wrong_before: frozenset[str] | None = None
) -> tuple[CheckResult, ...]:
    """Compare every stream table with its query as of its frontier, as multisets.

    Pending is what the catalog of this revision calls so: ``lsn`` past the frontier's before 0004, from then on what
    ``pgtrickle.is_pending`` says. Runs while no writer runs; changes nothing, but leaves dead rows in the sources.

    Args:
        conn: the copy, in autocommit, as superuser: triggers are switched off for the transaction.
        phase: for the results.
        wrong_before: the stream tables that the first check found wrong; None: this is the first check, so what is
            wrong now was wrong before anything was done.

    Returns:
        One result a stream table. Skipped, with the reason, where its contents as of the frontier cannot be known.
    """
    row = conn.execute(
        "SELECT to_regprocedure('pgtrickle.is_pending(jsonb, pg_lsn, xid8, integer)') IS NOT NULL"
    ).fetchone()
    by_transaction = bool(row and row[0])
    results = []
    for stream_table in _fetch_stream_tables(conn):
        label = stream_table.table.label
        verdict, detail, was_wrong_before = Verdict.PASSED, "", False
        try:
            _examine(conn, stream_table, by_transaction=by_transaction)
        except _CannotTellError as reason:
            verdict, detail = Verdict.SKIPPED, str(reason)
        except (_WrongError, psycopg.DatabaseError) as error:
            if isinstance(error, psycopg.OperationalError):
                raise
            detail = str(error)
            if isinstance(error, psycopg.Error):
                detail = f"{error.sqlstate}: {error.diag.message_primary}"
            was_wrong_before = wrong_before is None or label in wrong_before
            verdict = Verdict.PASSED if was_wrong_before else Verdict.FAILED
        results.append(CheckResult(STREAM_TABLE_CHECK, phase, label, verdict, detail, was_wrong_before))
    return tuple(results)


def wrong_stream_tables(results: Iterable[CheckResult]) -> frozenset[str]:
    """The stream tables that a first check found wrong, for the checks after it."""
    return frozenset(r.subject for r in results if r.name == STREAM_TABLE_CHECK and r.was_wrong_before)


def _fetch_stream_tables(conn: Connection) -> list[_StreamTable]:
    rows = conn.execute(
        "SELECT pgt_id, pgt_relid::bigint, pgt_schema, pgt_name, defining_query, topk_order_by, topk_limit,"
        " refresh_mode, is_populated, needs_reinit, frontier FROM pgtrickle.pgt_stream_tables"
        " ORDER BY pgt_schema, pgt_name"
    )
    return [
        _StreamTable(row[0], row[1], TableName(row[2], row[3]), row[4], (row[5], row[6]) if row[6] else None, *row[7:])
        for row in rows
    ]


def _examine(conn: Connection, stream_table: _StreamTable, *, by_transaction: bool) -> None:
    """Raises _CannotTellError or _WrongError; otherwise the stream table is right."""
    if stream_table.needs_reinit:
        raise _CannotTellError("it is marked needs_reinit: its next refresh rebuilds it")
    if not stream_table.is_populated:
        raise _CannotTellError("it was never filled")
    is_immediate = stream_table.refresh_mode == "IMMEDIATE"
    if stream_table.frontier is None and not is_immediate:
        raise _CannotTellError("it has no frontier yet: its first refresh is a full one")
    tables = fetch_tables(conn, [stream_table.relid])
    if not tables:
        raise _WrongError("its storage table is gone")
    undone = [] if is_immediate else _sources_to_undo(conn, stream_table)
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("SET LOCAL row_security = off")
        for number, (source, buffer, key) in enumerate(undone):
            pending = _pending_condition(stream_table, key, by_transaction=by_transaction)
            _undo_pending(conn, source, buffer, pending, number)
        difference = describe_difference(conn, tables[0], stream_table.query, topk=stream_table.topk)
        if difference is not None:
            raise _WrongError(difference)


def _sources_to_undo(conn: Connection, stream_table: _StreamTable) -> list[tuple[SourceTable, TableName, str]]:
    """The captured sources with their buffers and their keys in the frontier."""
    captured: list[int] = []
    for dependency in _fetch_dependencies(conn, stream_table):
        if dependency.is_distributed:
            raise _CannotTellError("a source is distributed: its pending rows lie on the workers")
        if dependency.kind == "STREAM_TABLE":
            if dependency.has_changed_since:
                raise _CannotTellError("a stream table that it reads was refreshed after it")
        elif dependency.kind in ("MATVIEW", "FOREIGN_TABLE"):
            raise _CannotTellError("it reads a materialized view or a foreign table, whose changes nobody captures")
        elif dependency.kind == "TABLE":
            captured.append(dependency.relid)
    sources = {source.relid: source for source in fetch_tables(conn, captured)}
    if len(sources) < len(captured):
        raise _WrongError("a source of its is gone")
    buffers = fetch_buffers(conn, list(sources.values()))
    positions = (stream_table.frontier or {}).get("sources")
    known = positions if isinstance(positions, dict) else {}
    undo = []
    for source in sources.values():
        if len(buffers[source.relid]) != 1:
            raise _WrongError(f"{source.label} has {len(buffers[source.relid]) or 'no'} change buffers")
        keys = [key for key in (source.table.stable_name, str(source.relid)) if key in known]
        if len(keys) != 1:
            raise _WrongError(f"its frontier has {len(keys) or 'no'} entries for {source.label}")
        undo.append((source, buffers[source.relid][0], keys[0]))
    return undo


def _fetch_dependencies(conn: Connection, stream_table: _StreamTable) -> list[_Dependency]:
    distributed = sql.SQL("false")
    row = conn.execute("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL").fetchone()
    if row is not None and row[0]:
        distributed = sql.SQL(
            "EXISTS (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = d.source_relid)"
        )
    rows = conn.execute(
        sql.SQL("""
SELECT d.source_relid::bigint, d.source_type, coalesce(i.last_refresh_at > st.last_refresh_at, false), {}
  FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables st USING (pgt_id)
  LEFT JOIN pgtrickle.pgt_stream_tables i ON i.pgt_relid = d.source_relid
 WHERE d.pgt_id = {} ORDER BY 1
""").format(distributed, sql.Literal(stream_table.pgt_id))
    )
    return [_Dependency(*row) for row in rows]


def _pending_condition(stream_table: _StreamTable, key: str, *, by_transaction: bool) -> sql.Composed:
    """Holds for a row ``b`` of the buffer that the stream table has not taken yet, by the rule of this revision."""
    positions = (stream_table.frontier or {}).get("sources")
    position = positions[key] if isinstance(positions, dict) else {}
    if by_transaction:
        # Through the row, since a buffer of a half-moved installation has no such column yet.
        return sql.SQL("pgtrickle.is_pending({}::jsonb, b.lsn, (to_jsonb(b) ->> 'xid')::xid8)").format(
            sql.Literal(json.dumps(position))
        )
    return sql.SQL("b.lsn > {}::pg_lsn").format(sql.Literal(position["lsn"]))


def _undo_pending(conn: Connection, source: SourceTable, buffer: TableName, pending: sql.Composed, number: int) -> None:
    """Take a source back to the frontier: rows that came since go, rows that went come back, by their net count."""
    row = conn.execute(
        sql.SQL("SELECT count(*), count(*) FILTER (WHERE b.action = 'T') FROM {} b WHERE {}").format(
            buffer.identifier, pending
        )
    ).fetchone()
    count, truncated = row if row is not None else (0, 0)
    if truncated:
        raise _CannotTellError(f"{source.label} was truncated since its last refresh: what it held then is gone")
    if not count:
        return
    undo = sql.Identifier("pg_temp", f"harness_undo_{number}")
    columns = source.captured
    names = sql.SQL(", ").join([sql.Identifier(column.name) for column in columns])

    def typed(prefix: str) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("b.{} AS {}").format(
                sql.Identifier(column.new_name if prefix == "new" else column.old_name), sql.Identifier(f"c{place}")
            )
            for place, column in enumerate(columns)
        )

    positions = [sql.Identifier(f"c{place}") for place in range(len(columns))]
    conn.execute(
        sql.SQL("""
CREATE TEMPORARY TABLE {undo} AS
SELECT * FROM (
    SELECT DISTINCT ON (h1, h2) *, sum(weight) OVER (PARTITION BY h1, h2) AS net
      FROM (SELECT *, {hashes} FROM (
                SELECT 1 AS weight, {image} AS image, * FROM (SELECT {new} FROM {buffer} b
                    WHERE b.action IN ('I', 'U') AND {pending}) n
                UNION ALL
                SELECT -1, {image}, * FROM (SELECT {old} FROM {buffer} b
                    WHERE b.action IN ('D', 'U') AND {pending}) o) i) h) d
 WHERE net <> 0
""").format(
            undo=undo,
            hashes=hashes_of(sql.Identifier("image")),
            image=image_of(positions),
            new=typed("new"),
            old=typed("old"),
            buffer=buffer.identifier,
            pending=pending,
        )
    )
    if count > 1000:  # below, a bad plan costs less than the statistics
        conn.execute(sql.SQL("ANALYZE {}").format(undo))
    _delete_came(conn, source, undo)
    conn.execute(
        sql.SQL(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE"
            " SELECT {} FROM {} u, generate_series(1, -u.net) WHERE u.net < 0"
        ).format(source.table.identifier, names, sql.SQL(", ").join(positions), undo)
    )


def _delete_came(conn: Connection, source: SourceTable, undo: sql.Identifier) -> None:
    """Deletes the rows of positive net; of equal rows as many as came. By key where there is one, else by hash."""
    image = image_of([sql.Identifier("s", column.name) for column in source.captured])
    by_key = [
        sql.SQL("s.{} = u.{} AND ").format(sql.Identifier(column.name), sql.Identifier(f"c{number}"))
        for number, column in enumerate(source.captured)
        if column.name in source.key
    ]
    deleted = conn.execute(
        sql.SQL("""
WITH came AS (
    SELECT s.tableoid AS leaf, s.ctid AS place, u.net, row_number() OVER (PARTITION BY u.h1, u.h2) AS n
      FROM {rows} s JOIN {undo} u
        ON {by_key} pg_catalog.hashtextextended({image} COLLATE "C", 1) = u.h1 WHERE u.net > 0)
DELETE FROM {rows} t USING came WHERE t.tableoid = came.leaf AND t.ctid = came.place AND came.n <= came.net
""").format(rows=source.rows_from, undo=undo, by_key=sql.SQL("").join(by_key), image=image)
    ).rowcount
    expected = conn.execute(
        sql.SQL("SELECT coalesce(sum(net), 0)::bigint FROM {} WHERE net > 0").format(undo)
    ).fetchone()
    if expected is not None and deleted != expected[0]:
        raise _WrongError(
            f"the buffer of {source.label} has {expected[0]} pending new rows, the table holds {deleted} of them"
        )
