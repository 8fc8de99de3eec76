"""A stream table that DDL has marked, brought in line with what its query means now: sources, capture, columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from harness.errors import RefusedError
from harness.trickle.analysis import Analysis, analyze
from harness.trickle.canonical import plain_query
from harness.trickle.catalog import StreamTable
from harness.trickle.definition import recomputed
from harness.trickle.making import install_captures, source_type
from harness.trickle.session import giving_way, patiently
from harness.trickle.sources import Source, raw_expression
from harness.trickle.storage import cannot_follow, fitting_columns
from harness.trickle.surroundings import is_of_the_surroundings
from harness.trickle.targets.shape import Shape, StorageColumn

_COLUMNS_QUERY = """
    SELECT a.attname, a.attnotnull, a.atthasdef FROM pg_attribute a
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""


def settle(connection: psycopg.Connection[Any], stream_table: StreamTable) -> None:
    """Bring sources, capture and storage of a stream table in line with its query.

    Args:
        connection: to the coordinator, in autocommit, idle, nobody else at the stream table. A source whose capture is
            made anew is locked against writes while that lasts; storage whose types change is rewritten, and keeps its
            rows until the fill that the mark asks for.
        stream_table: one that is marked ``needs_reinit`` or in status ERROR; whoever goes on reads it again.

    Raises:
        QueryRefusedError: PostgreSQL does not understand the query any more; says why.
        RefusedError: the storage cannot follow; says what is in the way.
        psycopg.Error: PostgreSQL refused something else, such as a lock within 10 s; what was begun is undone.
    """
    analysis = patiently(lambda: analyze(connection, plain_query(stream_table.query)))
    known = stream_table.dependencies
    if stream_table.mode == "FULL":
        analysis = recomputed(analysis)
    elif known and not any(dependency.is_captured for dependency in known):
        analysis = recomputed(analysis, "a delta that could not be planned when it was made")
    patiently(lambda: _settle_sources(connection, stream_table, analysis))
    patiently(lambda: settle_columns(connection, stream_table, analysis.target.shape))


@contextmanager
def fenced(connection: psycopg.Connection[Any], stream_table: StreamTable) -> Iterator[None]:
    """A transaction that cannot commit once the lease on its stream table was lost (D8).

    Args:
        connection: to the coordinator, in autocommit, idle; its session took the lease.
        stream_table: its row of the catalog is written, which is what the database checks at the commit.
    """
    with giving_way(connection):
        connection.execute(
            "UPDATE pgtrickle.pgt_stream_tables SET updated_at = updated_at WHERE pgt_id = %s", [stream_table.pgt_id]
        )
        yield


def lock_against_ddl(connection: psycopg.Connection[Any], relids: Iterable[int]) -> None:
    """Let nobody alter these tables, or make their capture, beside the transaction; writers go on.

    Args:
        connection: in the transaction.
        relids: OIDs of tables; the order of the locks is everywhere the same.
    """
    for schema, name in connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = ANY (%s::oid[]) AND c.relkind IN ('r', 'p') ORDER BY c.oid",
        [sorted(relids)],
    ).fetchall():
        connection.execute(
            sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(sql.Identifier(str(schema), str(name)))
        )


def _settle_sources(connection: psycopg.Connection[Any], stream_table: StreamTable, analysis: Analysis) -> None:
    captured = {source.relid for source in analysis.tables} if analysis.is_incremental else set()
    with fenced(connection, stream_table):
        lock_against_ddl(connection, captured)
        _write_sources(connection, stream_table, analysis, captured)


def _write_sources(
    connection: psycopg.Connection[Any], stream_table: StreamTable, analysis: Analysis, captured: set[int]
) -> None:
    now = {source.relid: source for source in analysis.sources}
    known = {dependency.relid: dependency for dependency in stream_table.dependencies}
    gone = known.keys() - now.keys()
    if gone:
        connection.execute(
            "DELETE FROM pgtrickle.pgt_dependencies WHERE pgt_id = %s AND source_relid = ANY (%s::oid[])",
            [stream_table.pgt_id, sorted(gone)],
        )
    for relid, source in sorted(now.items()):
        _write_dependency(connection, stream_table.pgt_id, source, is_captured=relid in captured)
    # What was made again has another OID.
    connection.execute("SELECT pgtrickle._note_references(%s)", [stream_table.pgt_id])
    install_captures(connection, captured)


def _write_dependency(connection: psycopg.Connection[Any], pgt_id: int, source: Source, *, is_captured: bool) -> None:
    connection.execute(
        "INSERT INTO pgtrickle.pgt_dependencies AS d (pgt_id, source_relid, source_type, source_stable_name,"
        " source_placement, is_captured) VALUES (%(id)s, %(relid)s, %(type)s, %(stable)s, %(place)s, %(captured)s)"
        " ON CONFLICT (pgt_id, source_relid) DO UPDATE SET source_type = excluded.source_type,"
        " source_stable_name = excluded.source_stable_name, source_placement = excluded.source_placement,"
        # One that stops reading a buffer does so in its plan, which ends the capture, too.
        " is_captured = d.is_captured OR excluded.is_captured",
        {
            "id": pgt_id,
            "relid": source.relid,
            "type": source_type(source),
            "stable": source.stable_name,
            "place": source.placement,
            "captured": is_captured,
        },
    )


def settle_columns(connection: psycopg.Connection[Any], stream_table: StreamTable, shape: Shape) -> None:
    """Bring the columns of a stream table's storage in line with how it is kept from here on.

    Args:
        connection: to the coordinator, in autocommit, idle; its session took the lease.
        stream_table: whose.
        shape: the columns that whoever fills it writes; hidden ones that it does not know get a default.
    """
    if stream_table.storage_format is not None:  # else the first fill gives it its shape
        with fenced(connection, stream_table):
            _write_columns(connection, stream_table, shape)


def _write_columns(connection: psycopg.Connection[Any], stream_table: StreamTable, shape: Shape) -> None:
    rows = connection.execute(_COLUMNS_QUERY, [stream_table.relid]).fetchall()
    has = {str(name): (bool(is_not_null), bool(default)) for name, is_not_null, default in rows}
    fits = fitting_columns(connection, stream_table.relid, shape)
    wanted = {column.name: column for column in shape.columns}
    missing = [column for column in shape.columns if column.name not in has]
    if any(not column.is_hidden for column in missing):
        names = ", ".join(column.name for column in missing if not column.is_hidden)
        raise RefusedError(
            f"{stream_table.qualified} has no column {names} any more, which its query returns",
            hint="make it anew with another query, or with the same one: harness st alter --query",
        )
    table = stream_table.identifier
    for column in shape.columns:
        if column.name in has and not fits[column.name]:
            _change_type(connection, stream_table, table, column)
    for column in missing:
        default = sql.SQL(" NOT NULL DEFAULT 0") if column.is_not_null else sql.SQL("")
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                table, sql.Identifier(column.name), raw_expression(column.type_text) + default
            )
        )
    for name, (is_not_null, has_default) in has.items():
        # Of a table that was kept by deltas and is recomputed from here on: whoever fills it does not know them.
        if name not in wanted and name.startswith("__pgt_") and is_not_null and not has_default:
            connection.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT 0").format(table, sql.Identifier(name))
            )


def _change_type(
    connection: psycopg.Connection[Any], stream_table: StreamTable, table: sql.Identifier, column: StorageColumn
) -> None:
    name, type_ = sql.Identifier(column.name), raw_expression(column.type_text)
    change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING ").format(table, name, type_)
    try:
        try:
            with connection.transaction():
                connection.execute(change + sql.SQL("{}::{}").format(name, type_))
        except (psycopg.errors.DataError, psycopg.errors.CannotCoerce):
            # Its values are of no use as the new type, and the fill brings others.
            with connection.transaction():
                connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(table, name))
                connection.execute(change + sql.SQL("NULL::{}").format(type_))
    except psycopg.Error as error:
        if is_of_the_surroundings(error, connection):
            raise
        raise cannot_follow(stream_table.qualified, column, error) from error
