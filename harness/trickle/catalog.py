"""Typed rows of the pgtrickle catalog, and how they are read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from harness import __version__
from harness.errors import BadInputError, MissingPrivilegeError, StreamTableNotFoundError, UnsupportedVersionError
from harness.trickle.frontier import Cut, read_cut

# The revision that brought what this package reads and calls.
REVISION = "0013"
# How this project's storage is told from 0.2's (pgt_stream_tables.storage_format).
STORAGE_FORMAT = 1
# After so many failed refreshes in a row a stream table is in status ERROR, as in pg_trickle.
ERRORS_UNTIL_ERROR = 3

_COLUMNS = """t.pgt_id, t.pgt_relid::bigint, t.pgt_schema, t.pgt_name, t.defining_query,
    coalesce(t.original_query, t.defining_query), t.schedule, t.refresh_mode, t.status, t.st_placement,
    CASE WHEN t.st_placement = 'distributed' THEN pgtrickle._shard_key(t.pgt_relid) END,
    t.is_populated, t.needs_reinit, t.last_refresh_at, t.consecutive_errors, t.frontier, t.storage_format,
    t.last_full_ms, t.differential_us_per_change, t.xmin::text,
    coalesce((SELECT jsonb_agg(jsonb_build_array(d.source_relid::bigint, d.source_stable_name, d.source_placement,
                                                 d.is_captured, k.captured_columns) ORDER BY d.source_relid)
              FROM pgtrickle.pgt_dependencies d
              LEFT JOIN pgtrickle.pgt_change_tracking k ON k.source_relid = d.source_relid
              WHERE d.pgt_id = t.pgt_id), '[]'),
    t.suspended_reason, t.plan_epoch, t.reinit_reason,
    (SELECT to_jsonb(h) FROM pgtrickle.st_history h WHERE h.pgt_id = t.pgt_id)"""
_ALL_QUERY = sql.SQL("SELECT {} FROM pgtrickle.pgt_stream_tables t ORDER BY t.pgt_schema, t.pgt_name").format(
    sql.SQL(_COLUMNS)
)
_ONE_QUERY = sql.SQL("SELECT {} FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_relid = %s").format(sql.SQL(_COLUMNS))


@dataclass(frozen=True)
class Dependency:
    """A source of a stream table, as the catalog knows it.

    Attributes:
        relid: its OID on the coordinator.
        stable_name: equal on every node.
        placement: where it was when the stream table was made.
        is_captured: whether the stream table reads its changes.
        captured: the columns that its buffer has; None where there is no capture.
    """

    relid: int
    stable_name: str
    placement: str
    is_captured: bool
    captured: str | None


@dataclass(frozen=True)
class StreamTable:
    """A row of ``pgt_stream_tables``.

    Attributes:
        pgt_id, relid: its number and its storage's OID.
        schema, name: its name, never quoted.
        query: what it holds, in canonical form.
        original_query: as it was written.
        schedule: how old it may become; None: refreshed by hand.
        mode: AUTO, DIFFERENTIAL or FULL.
        status: INITIALIZING, ACTIVE, SUSPENDED or ERROR.
        placement: local, reference or distributed.
        distribution_column: of a distributed one.
        is_populated: whether it was ever filled.
        needs_reinit: whether the next refresh has to fill it anew.
        last_refresh_at: when it last followed its sources.
        consecutive_errors: failed refreshes since.
        frontier: where it stopped, as the catalog has it.
        storage_format: how its rows are kept; None: as pg_trickle 0.2 does.
        last_full_ms: what recomputing cost last, in milliseconds.
        us_per_change: what a change cost, in microseconds.
        version: of the catalog's row.
        dependencies: its sources.
        suspended_reason: why it is not refreshed: what somebody said, or the failure that put it in ERROR.
        plan_epoch: counts what changed in the things that its query names: a plan of another count is stale.
        reinit_reason: why it has to be filled anew; None: no reason, or it does not have to.
        history: what is known of its workers' history, as the catalog has it; None: nothing.
    """

    pgt_id: int
    relid: int
    schema: str
    name: str
    query: str
    original_query: str
    schedule: str | None
    mode: str
    status: str
    placement: str
    distribution_column: str | None
    is_populated: bool
    needs_reinit: bool
    last_refresh_at: datetime | None
    consecutive_errors: int
    frontier: Mapping[str, Any] | None
    storage_format: int | None
    last_full_ms: float | None
    us_per_change: float | None
    version: str
    dependencies: tuple[Dependency, ...]
    suspended_reason: str | None = None
    plan_epoch: int = 0
    reinit_reason: str | None = None
    history: Mapping[str, Any] | None = None

    @property
    def qualified(self) -> str:
        """Its name, quoted as SQL writes it."""
        return self.identifier.as_string(None)

    @property
    def identifier(self) -> sql.Identifier:
        """Its name as a part of a statement."""
        return sql.Identifier(self.schema, self.name)

    def cut(self, stable_name: str) -> Cut | None:
        """Where it stopped in a source; None where this project's refresh never did."""
        return read_cut(self.frontier, stable_name)


@dataclass(frozen=True)
class Refresh:
    """What a refresh did.

    Attributes:
        stream_table: its name as SQL writes it.
        action: NO_DATA, DIFFERENTIAL, FULL or REINITIALIZE.
        reason: why that.
        change_count: captured rows that it took.
        rows_inserted, rows_deleted: rows of the stream table; one that changed counts as both.
        elapsed_ms: how long it took, in milliseconds.
        strategy: how the delta got in.
    """

    stream_table: str
    action: str
    reason: str
    change_count: int
    rows_inserted: int
    rows_deleted: int
    elapsed_ms: float
    strategy: str


def _row(row: Sequence[Any]) -> StreamTable:
    names = [field.name for field in fields(StreamTable)]
    known: dict[str, Any] = dict(zip(names, row, strict=True))
    known["dependencies"] = tuple(
        Dependency(int(relid), stable, placement, is_captured, None if captured is None else json.dumps(captured))
        for relid, stable, placement, is_captured, captured in known["dependencies"]
    )
    return StreamTable(**known)


def fetch_all(connection: psycopg.Connection[Any]) -> list[StreamTable]:
    """Every stream table, by schema and name."""
    return [_row(row) for row in connection.execute(_ALL_QUERY, binary=True).fetchall()]


def fetch_by_relid(connection: psycopg.Connection[Any], relid: int) -> StreamTable | None:
    """The stream table with that storage, by its OID, as the coordinator's catalog has it now; None if it is none."""
    row = connection.execute(_ONE_QUERY, [relid], binary=True).fetchone()
    return None if row is None else _row(row)


def check_catalog(connection: psycopg.Connection[Any]) -> None:
    """Refuse a database whose catalog is not at this project's head.

    Raises:
        UnsupportedVersionError: there is none, an older one, or one that this code does not know yet.
    """
    found: str | None = None
    try:
        with connection.transaction():
            row = connection.execute("SELECT version_num FROM pgtrickle.alembic_version").fetchone()
            found = None if row is None else str(row[0])
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        found = None
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingPrivilegeError(
            f"the catalog of database {connection.info.dbname!r} cannot be read: {error.diag.message_primary}",
            hint="use the role that made it, or a superuser",
            sqlstate=error.sqlstate,
        ) from error
    if found is None or found < REVISION:
        raise UnsupportedVersionError(
            f"the catalog of database {connection.info.dbname!r} is at {found or 'no revision'},"
            f" and stream tables need {REVISION}",
            hint="run: harness migrate up",
        )
    if found > REVISION:
        raise UnsupportedVersionError(
            f"the catalog of database {connection.info.dbname!r} is at {found}, and harness {__version__} knows it up"
            f" to {REVISION}",
            hint="use the newer harness that brought it there: pip install -U pgtrickle-citus-harness; or go back with"
            f" that one: harness migrate down {REVISION}",
        )


def split_name(connection: psycopg.Connection[Any], name: str) -> tuple[str | None, str]:
    """A name as SQL writes it, ``schema.table`` or ``table``, in its parts.

    Args:
        connection: to the coordinator; PostgreSQL's own parse_ident takes the name apart there.
        name: the name, with quotes where SQL needs them.

    Returns:
        Schema (None where the name has none) and table, both without quotes. Nothing stays behind.

    Raises:
        BadInputError: it is no such name.
    """
    try:
        with connection.transaction():
            row = connection.execute("SELECT parse_ident(%s)", [name]).fetchone()
    except psycopg.Error as error:
        raise BadInputError(
            f"{name!r} is no name of a table: {error.diag.message_primary}",
            hint='write schema.table, with double quotes around a part that needs them: sales."Daily Totals"',
        ) from None
    parts: list[str] = list(row[0]) if row else []
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise BadInputError(f"{name!r} is no name of a table", hint="write schema.table or table")
    for part in parts:
        if len(part.encode()) > 63:
            raise BadInputError(
                f"{part!r} has {len(part.encode())} bytes, and PostgreSQL's names have at most 63", hint="shorten it"
            )
    return (None, parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def find_number(connection: psycopg.Connection[Any], name: str) -> tuple[int, int]:
    """The number and the storage's OID of the stream table of a name as SQL writes it.

    Args:
        connection: to the coordinator; its search path says where a name without a schema is looked for.
        name: ``schema.table`` or ``table``, as SQL writes it.

    Returns:
        ``pgt_id`` and the OID. Nothing stays behind.

    Raises:
        BadInputError: it is no name.
        StreamTableNotFoundError: there is no such stream table.
    """
    try:
        row = connection.execute(
            "SELECT t.pgt_id, t.pgt_relid::bigint FROM pgtrickle.pgt_stream_tables t"
            " WHERE t.pgt_relid = to_regclass(%s)",
            [name],
        ).fetchone()
    except psycopg.errors.InvalidName:
        split_name(connection, name)
        raise
    if row is None:
        split_name(connection, name)
        raise StreamTableNotFoundError(
            f"there is no stream table {name}", hint="`harness st list` shows those of this database"
        )
    return int(row[0]), int(row[1])


def find(connection: psycopg.Connection[Any], name: str) -> StreamTable:
    """The stream table of a name as SQL writes it (errors: see `find_number`)."""
    found = fetch_by_relid(connection, find_number(connection, name)[1])
    if found is None:
        raise StreamTableNotFoundError(f"stream table {name} was dropped a moment ago", hint="make it again")
    return found


def write_history(
    connection: psycopg.Connection[Any],
    stream_table: StreamTable,
    *,
    action: str,
    status: str,
    reason: str,
    started_at: datetime,
    inserted: int = 0,
    deleted: int = 0,
    changes: int = 0,
    strategy: str | None = None,
    is_fallback: bool = False,
    error: str | None = None,
    initiated_by: str = "MANUAL",
) -> None:
    """Add a row to the history of refreshes, on the coordinator; its end is the server's clock.

    Args:
        connection: in the transaction of what the row tells of.
        stream_table: whose.
        action: NO_DATA, DIFFERENTIAL, FULL, REINITIALIZE or SKIP.
        status: COMPLETED or FAILED.
        reason: why this action, for people.
        started_at: when it began.
        inserted: rows that came into the stream table; one that changed counts here and as deleted.
        deleted: rows that went.
        changes: captured rows of its sources that it took.
        strategy: how, in a word or two; None where nothing was applied.
        is_fallback: whether it was filled anew where a delta was wanted.
        error: what went wrong; None where nothing did.
        initiated_by: MANUAL, SCHEDULER or INITIAL.
    """
    connection.execute(
        "INSERT INTO pgtrickle.pgt_refresh_history (pgt_id, data_timestamp, start_time, end_time, action,"
        " rows_inserted, rows_deleted, delta_row_count, merge_strategy_used, was_full_fallback, error_message, status,"
        " initiated_by, reason)"
        " VALUES (%s, %s, %s, clock_timestamp(), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            stream_table.pgt_id,
            started_at,
            started_at,
            action,
            inserted,
            deleted,
            changes,
            strategy,
            is_fallback,
            error,
            status,
            initiated_by,
            reason,
        ],
    )


def write_refreshed(
    connection: psycopg.Connection[Any],
    stream_table: StreamTable,
    *,
    frontier: Mapping[str, Any] | None,
    refreshed_at: datetime,
    was_filled: bool,
    last_full_ms: float | None,
    us_per_change: float | None,
) -> None:
    """Write where a refresh stopped.

    A rebuild that was asked for after this refresh began is not taken back: the row's version tells.

    Args:
        connection: in the refresh's transaction, on the coordinator.
        stream_table: as the catalog had it when the refresh began.
        frontier: where it stopped in each source; None: where it was.
        refreshed_at: how fresh its rows are.
        was_filled: whether all its rows were computed anew.
        last_full_ms: what that took, in milliseconds; None: as before.
        us_per_change: what a change is now held to cost, in microseconds; None: as before.
    """
    connection.execute(
        "UPDATE pgtrickle.pgt_stream_tables SET frontier = coalesce(%s, frontier), data_timestamp = %s,"
        " last_refresh_at = clock_timestamp(), consecutive_errors = 0, is_populated = true, storage_format = %s,"
        " updated_at = now(), status = CASE WHEN status = 'SUSPENDED' OR (status = 'ERROR' AND needs_reinit AND NOT %s)"
        " THEN status ELSE 'ACTIVE' END,"
        " suspended_reason = CASE WHEN status = 'SUSPENDED' THEN suspended_reason END,"
        " needs_reinit = needs_reinit AND NOT (%s AND xmin::text = %s),"
        " last_full_ms = coalesce(%s, last_full_ms),"
        " differential_us_per_change = coalesce(%s, differential_us_per_change)"
        " WHERE pgt_id = %s",
        [
            None if frontier is None else Jsonb(frontier),
            refreshed_at,
            STORAGE_FORMAT,
            was_filled,
            was_filled,
            stream_table.version,
            last_full_ms,
            us_per_change,
            stream_table.pgt_id,
        ],
    )


def write_history_of_nodes(
    connection: psycopg.Connection[Any], stream_table: StreamTable, history: Mapping[str, Any]
) -> None:
    """Write which refresh the workers know as the last one, once this one is committed.

    Args:
        connection: in the refresh's transaction, on the coordinator.
        stream_table: whose.
        history: its row of ``st_history``, without the number.
    """
    connection.execute(
        "INSERT INTO pgtrickle.st_history AS h (pgt_id, history, refresh, nodes)"
        " VALUES (%(id)s, %(history)s, %(refresh)s, %(nodes)s) ON CONFLICT (pgt_id) DO UPDATE"
        " SET history = excluded.history, refresh = excluded.refresh, nodes = excluded.nodes",
        {**history, "nodes": Jsonb(history["nodes"]), "id": stream_table.pgt_id},
    )


def write_marked(connection: psycopg.Connection[Any], stream_table: StreamTable, reason: str) -> None:
    """Have a stream table filled anew by its next refresh, and forget where it stopped.

    Args:
        connection: to the coordinator.
        stream_table: whose row of the catalog is changed.
        reason: why, for people.
    """
    connection.execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true, reinit_reason = %s, updated_at = now(),"
        " frontier = NULL WHERE pgt_id = %s",
        [reason, stream_table.pgt_id],
    )


def write_failed(
    connection: psycopg.Connection[Any],
    stream_table: StreamTable,
    error: Exception,
    errors_until_error: int = ERRORS_UNTIL_ERROR,
) -> None:
    """Count a refresh that failed; after so many in a row a stream table is in status ERROR, and the reason is kept.

    Args:
        connection: in a transaction of its own: that of the refresh is gone.
        stream_table: whose; its row of the catalog, on the coordinator, is changed.
        error: what it failed with.
        errors_until_error: after how many.
    """
    connection.execute(
        "UPDATE pgtrickle.pgt_stream_tables SET consecutive_errors = consecutive_errors + 1, updated_at = now(),"
        " status = CASE WHEN status IN ('ACTIVE', 'INITIALIZING') AND consecutive_errors + 1 >= %(most)s THEN 'ERROR'"
        " ELSE status END,"
        " suspended_reason = CASE WHEN status <> 'SUSPENDED' AND consecutive_errors + 1 >= %(most)s"
        " THEN format('%%s failed refreshes in a row: %%s', consecutive_errors + 1, %(why)s::text)"
        " ELSE suspended_reason END WHERE pgt_id = %(id)s",
        {"most": errors_until_error, "why": str(error).strip()[:1000], "id": stream_table.pgt_id},
    )
