"""A stream table comes into being: its name, its storage, its capture, its catalog rows, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from harness.errors import BadInputError, RefusedError
from harness.trickle import catalog
from harness.trickle.analysis import Analysis
from harness.trickle.catalog import StreamTable
from harness.trickle.definition import Home
from harness.trickle.session import giving_way
from harness.trickle.sources import Source
from harness.trickle.storage import create_storage, drop_query, shard_count_for

# A stream table that is being made in another one's place is called this and its number, until it is filled.
REMAKE_PREFIX = "__pgt_new_"


def named(connection: psycopg.Connection[Any], name: str) -> tuple[str, str]:
    """Schema and name that a new stream table gets.

    Args:
        connection: to the coordinator; its search path says where a name without a schema goes.
        name: ``schema.table`` or ``table``, as SQL writes it.

    Raises:
        BadInputError: it is no name, or not one for stream tables.
    """
    schema, table = catalog.split_name(connection, name)
    if schema is None:
        row = connection.execute("SELECT current_schema()").fetchone()
        if row is None or row[0] is None:
            raise BadInputError(f"{name!r} needs a schema", hint="write schema.table")
        schema = str(row[0])
    if schema in {"pgtrickle", "pgtrickle_changes", "pg_catalog", "information_schema"}:
        raise BadInputError(f"schema {schema} is not for stream tables", hint="use a schema of yours")
    if table.startswith(REMAKE_PREFIX):
        raise BadInputError(
            f"{table} is a name for what is being made", hint=f"one that begins without {REMAKE_PREFIX}"
        )
    return schema, table


def refuse_taken(connection: psycopg.Connection[Any], schema: str, table: str) -> None:
    """Refuse a name that a relation has.

    Args:
        connection: to the coordinator.
        schema: of the name, without quotes.
        table: the name in it, without quotes.

    Raises:
        BadInputError: one has.
    """
    row = connection.execute(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        [schema, table],
    ).fetchone()
    if row is not None:
        raise BadInputError(f"{schema}.{table} is taken", hint="choose another name, or drop what has it")


def make(
    connection: psycopg.Connection[Any],
    name: sql.Identifier,
    analysis: Analysis,
    home: Home,
    *,
    schedule: str | None,
    mode: str,
    original: sql.SQL,
    instead_of: StreamTable | None,
    has_citus: bool,
) -> int:
    """Make storage, capture and catalog rows in one transaction, on the coordinator; the table is empty after it.

    Args:
        connection: to the coordinator, in autocommit, idle.
        name: schema and name of the table.
        analysis: of the query.
        home: where the table is to be.
        schedule: as the catalog keeps it; None: refreshed by hand.
        mode: AUTO, DIFFERENTIAL or FULL.
        original: the query as it was written.
        instead_of: the stream table that it replaces under the same number, dropped in the same transaction; None: it
            is a new one.
        has_citus: whether there is a cluster.

    Returns:
        OID of the table.

    Raises:
        BadInputError, MissingPrivilegeError: the table cannot be; nothing was made.
        psycopg.Error: PostgreSQL refused something else, such as a lock; nothing was made, and it may be tried again.
    """
    with giving_way(connection):
        if has_citus:
            # A function cannot be made after a parallel command in one transaction (F24).
            connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
        if instead_of is not None:
            connection.execute(drop_query(instead_of.identifier, cascade=False))
        if home.placement != "local":
            # What each node notes of its refreshes.
            connection.execute("SELECT pgtrickle.share_with_workers()")
        beside = next((source for source in analysis.sources if source.relid == home.colocate_with), None)
        relid = create_storage(
            connection,
            name,
            analysis.target.shape,
            placement=home.placement,
            distribution_column=home.distribution_column,
            colocate_with=None if beside is None else sql.Identifier(beside.schema, beside.name).as_string(connection),
            shard_count=shard_count_for(home.row_count),
        )
        _write_rows(
            connection, relid, analysis, home, schedule=schedule, mode=mode, original=original, instead_of=instead_of
        )
        if analysis.is_incremental:
            install_captures(connection, (source.relid for source in analysis.tables))
    return relid


def _write_rows(
    connection: psycopg.Connection[Any],
    relid: int,
    analysis: Analysis,
    home: Home,
    *,
    schedule: str | None,
    mode: str,
    original: sql.SQL,
    instead_of: StreamTable | None,
) -> None:
    row = connection.execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_id, pgt_relid, pgt_name, pgt_schema, defining_query,"
        " original_query, schedule, refresh_mode, status, st_placement, storage_format, functions_used)"
        " SELECT coalesce(%s, nextval('pgtrickle.pgt_stream_tables_pgt_id_seq')), c.oid, c.relname, n.nspname,"
        " %s, %s, %s, %s, 'INITIALIZING', %s, %s, %s"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s RETURNING pgt_id",
        [
            None if instead_of is None else instead_of.pgt_id,
            analysis.canonical.text,
            original.as_string(connection),
            schedule,
            mode,
            home.placement,
            catalog.STORAGE_FORMAT,
            sorted({function.name for function in analysis.canonical.functions}),
            relid,
        ],
    ).fetchone()
    pgt_id = row[0] if row else None
    for source in analysis.sources:
        connection.execute(
            "INSERT INTO pgtrickle.pgt_dependencies (pgt_id, source_relid, source_type, source_stable_name,"
            " source_placement, is_captured)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [
                pgt_id,
                source.relid,
                source_type(source),
                source.stable_name,
                source.placement,
                analysis.is_incremental and source in analysis.tables,
            ],
        )


def source_type(source: Source) -> str:
    """The word of the catalog for what a source is."""
    if source.is_stream_table:
        return "STREAM_TABLE"
    return {"m": "MATVIEW", "f": "FOREIGN_TABLE", "v": "VIEW"}.get(source.kind, "TABLE")


def swap(
    connection: psycopg.Connection[Any],
    before: StreamTable,
    made: StreamTable,
    *,
    schedule: str | None,
    has_citus: bool,
) -> None:
    """Put a stream table that was made aside in the place of another one, in one transaction, on the coordinator.

    Args:
        connection: in autocommit, idle, with the lease of the one that goes: the transaction checks it.
        before: the one that goes, with its table; its number and history stay, and its being suspended.
        made: the one that comes, filled.
        schedule: what it gets.
        has_citus: whether there is a cluster.

    Raises:
        RefusedError: something depends on the table that goes; nothing was changed.
    """
    try:
        with giving_way(connection):
            if has_citus:
                connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
            connection.execute(drop_query(before.identifier, cascade=False))
            # A hook did it already, where there is one.
            connection.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s", [before.pgt_id])
            connection.execute(
                sql.SQL("ALTER TABLE {} RENAME TO {}").format(made.identifier, sql.Identifier(before.name))
            )
            connection.execute(
                "UPDATE pgtrickle.pgt_stream_tables SET pgt_name = %(name)s, schedule = %(schedule)s,"
                " updated_at = now(), suspended_reason = %(reason)s,"
                " status = CASE WHEN %(suspended)s THEN 'SUSPENDED' ELSE status END WHERE pgt_id = %(id)s",
                {
                    "name": before.name,
                    "schedule": schedule,
                    "suspended": before.status == "SUSPENDED",
                    "reason": before.suspended_reason if before.status == "SUSPENDED" else None,
                    "id": made.pgt_id,
                },
            )
            # Its number, in one statement: keys are checked at the end of it.
            connection.execute(
                "WITH d AS (UPDATE pgtrickle.pgt_dependencies SET pgt_id = %(to)s WHERE pgt_id = %(was)s),"
                " h AS (UPDATE pgtrickle.pgt_refresh_history SET pgt_id = %(to)s WHERE pgt_id = %(was)s)"
                " UPDATE pgtrickle.pgt_stream_tables SET pgt_id = %(to)s WHERE pgt_id = %(was)s",
                {"to": before.pgt_id, "was": made.pgt_id},
            )
            remove_captures(connection, [dependency.relid for dependency in before.dependencies])
    except psycopg.errors.DependentObjectsStillExist as error:
        raise RefusedError(
            f"{before.qualified} cannot be made anew: {error.diag.message_detail}",
            hint="drop what depends on it, and make it again afterwards",
        ) from error


def install_captures(connection: psycopg.Connection[Any], relids: Iterable[int]) -> None:
    """Make the capture of sources, or make what is there fit; runs on the coordinator.

    All of them are locked (``pgtrickle._lock_capture``, 0013) before the first is looked at: somebody who makes the
    same capture has made it by then. Whoever comes second without that fails: 23505 on the buffer, XX000 on the
    function (scenarios/capture/test_made_at_once.py).

    Args:
        connection: in the transaction that needs it. A buffer, functions and triggers for each are left by it, and the
            locks until it ends.
        relids: OIDs of tables, in any order.

    Raises:
        psycopg.Error: a table cannot be captured; says why.
    """
    listed = sorted(set(relids))
    for query in (
        "SELECT pgtrickle._lock_capture(pgtrickle.stable_name(%s::oid))",
        "SELECT pgtrickle.install_capture(%s::oid)",
    ):
        for relid in listed:
            connection.execute(query, [relid])


def remove_captures(connection: psycopg.Connection[Any], relids: Sequence[int]) -> None:
    """End the capture of those of these sources that nobody reads changes of any more.

    Args:
        connection: to the coordinator, in the transaction that takes their last reader away.
        relids: OIDs of the sources.
    """
    connection.execute(
        "SELECT pgtrickle.remove_capture(k.source_relid) FROM pgtrickle.pgt_change_tracking k"
        " WHERE k.source_relid = ANY (%s::oid[]) AND NOT EXISTS (SELECT FROM pgtrickle.pgt_dependencies d"
        " WHERE d.source_relid = k.source_relid AND d.is_captured)",
        [list(relids)],
    )
