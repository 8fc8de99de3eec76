"""A stream table's storage: made, placed, guarded against everybody but a refresh, changed in shape, dropped."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from harness.errors import BadInputError, MissingPrivilegeError, RefusedError
from harness.trickle.sources import raw_expression
from harness.trickle.surroundings import is_of_the_surroundings
from harness.trickle.targets.shape import Shape, StorageColumn, listed

# Each shard that the coordinator writes costs 4 to 5 ms a refresh (F30), so a small table has few.
SMALL_SHARD_COUNT = 4
ROWS_PER_SHARD = 250_000
MAX_SHARD_COUNT = 32
# Below so many rows a stream table of distributed sources is a reference table (plan P5.1).
REFERENCE_BELOW_ROWS = 100_000


def shard_count_for(row_count: int) -> int:
    """How many shards a stream table of that many rows gets: a power of two."""
    count = SMALL_SHARD_COUNT
    while count < MAX_SHARD_COUNT and row_count > count * ROWS_PER_SHARD:
        count *= 2
    return count


def create_storage(
    connection: psycopg.Connection[Any],
    table: sql.Identifier,
    shape: Shape,
    *,
    placement: str,
    distribution_column: str | None,
    colocate_with: str | None,
    shard_count: int,
) -> int:
    """Make the table, place it and guard it, in the caller's transaction, on the coordinator.

    Args:
        connection: in a transaction.
        table: its name.
        shape: its columns.
        placement: local, reference or distributed.
        distribution_column: of a distributed one.
        colocate_with: a table with whose shards its own are kept, quoted as SQL writes it; None: a group of its own.
        shard_count: of a group of its own.

    Returns:
        Its OID.

    Raises:
        BadInputError: the name is taken, or there is no such schema.
        MissingPrivilegeError: the role may not make it.
    """
    text = table.as_string(connection)
    try:
        connection.execute(shape.create_query(table, distribution_column=distribution_column))
    except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject) as error:
        raise BadInputError(
            f"{text} is taken: {error.diag.message_primary}", hint="choose another name, or drop what has it"
        ) from error
    except psycopg.errors.InvalidSchemaName as error:
        raise BadInputError(
            f"{text} cannot be made: {error.diag.message_primary}", hint="create the schema first"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingPrivilegeError(
            f"{text} cannot be made: {error.diag.message_primary}",
            hint="grant CREATE on its schema",
            sqlstate=error.sqlstate,
        ) from error
    if placement == "reference":
        connection.execute("SELECT pg_catalog.create_reference_table(%s)", [text])
    elif placement == "distributed" and colocate_with is not None:
        connection.execute(
            "SELECT pg_catalog.create_distributed_table(%s, %s, colocate_with => %s)",
            [text, distribution_column, colocate_with],
        )
    elif placement == "distributed":
        connection.execute(
            "SELECT pg_catalog.create_distributed_table(%s, %s, colocate_with => 'none', shard_count => %s)",
            [text, distribution_column, shard_count],
        )
    guard(connection, table, placement)
    row = connection.execute("SELECT %s::regclass::oid::bigint", [text]).fetchone()
    return int(row[0]) if row else 0


def guard(connection: psycopg.Connection[Any], table: sql.Identifier, placement: str) -> None:
    """Let nobody but a refresh write a stream table; done again, it does nothing.

    Args:
        connection: to the coordinator, in a transaction.
        table: its name. Two triggers stay on it, on Citus on every shard too (F8).
        placement: local, reference or distributed.
    """
    found = connection.execute(
        "SELECT FROM pg_trigger t WHERE t.tgrelid = %s::regclass"
        " AND t.tgfoid = 'pgtrickle._guard_stream_table'::regproc",
        [table.as_string(connection)],
    ).fetchone()
    if found is not None:
        return
    if placement != "local":
        connection.execute("SET LOCAL citus.enable_unsafe_triggers = on")
    for event in ("INSERT OR UPDATE OR DELETE", "TRUNCATE"):
        name = "pgt_guard_truncate" if event == "TRUNCATE" else "pgt_guard"
        connection.execute(
            sql.SQL(
                "CREATE TRIGGER {} BEFORE {} ON {} FOR EACH STATEMENT EXECUTE FUNCTION pgtrickle._guard_stream_table()"
            ).format(
                sql.Identifier(name),
                sql.SQL("TRUNCATE") if event == "TRUNCATE" else sql.SQL("INSERT OR UPDATE OR DELETE"),
                table,
            )
        )


def refresh_settings(*, is_on_workers: bool) -> list[sql.SQL]:
    """What opens the guard for a transaction, on the workers too where Citus writes there."""
    on_workers = [sql.SQL("SET LOCAL citus.propagate_set_commands = 'local'")] if is_on_workers else []
    return [*on_workers, sql.SQL("SET LOCAL pgtrickle.refreshing = 'on'")]


def drop_query(table: sql.Identifier, *, cascade: bool) -> sql.Composed:
    """DROP TABLE."""
    return sql.SQL("DROP TABLE {}{}").format(table, sql.SQL(" CASCADE") if cascade else sql.SQL(""))


def fitting_columns(connection: psycopg.Connection[Any], relid: int, shape: Shape) -> dict[str, bool]:
    """Whether each column that a storage table has can hold what is wanted of it; one that is not wanted cannot.

    pg_trickle keeps a numeric(12,2) as numeric: what holds more than is wanted stays, with the views that read it.

    Args:
        connection: to the coordinator.
        relid: of the table.
        shape: the columns that are wanted.
    """
    rows = connection.execute(
        "SELECT a.attname, coalesce(format_type(a.atttypid, a.atttypmod) = w.type_text"
        " OR a.atttypmod = -1 AND a.atttypid = to_regtype(w.type_text), false)"
        " FROM pg_attribute a LEFT JOIN unnest(%s::text[], %s::text[]) w (name, type_text) ON w.name = a.attname"
        " WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped",
        [list(shape.names), [column.type_text for column in shape.columns], relid],
    ).fetchall()
    return {str(name): bool(is_fitting) for name, is_fitting in rows}


def cannot_follow(table: str, column: StorageColumn, error: psycopg.Error) -> RefusedError:
    """What is said where something stands in the way of a column's new type, such as a view that reads it."""
    return RefusedError(
        f"column {column.name} of {table} has to become {column.type_text}, as its query returns it"
        f" now, and cannot: {error.diag.message_primary}",
        hint="drop what depends on the column, refresh, and make it again; or make the stream table anew",
    )


def reshape(connection: psycopg.Connection[Any], relid: int, table: sql.Identifier, shape: Shape) -> None:
    """Give a storage table that is empty, or about to be filled anew, another shape; views on its own columns stay.

    Args:
        connection: in the refresh's transaction, its rows already deleted.
        relid: of the table, a local one.
        table: its name.
        shape: what it has to be.

    Raises:
        RefusedError: a view reads a column whose type has to change.
    """
    constraints = connection.execute(
        "SELECT c.conname FROM pg_constraint c"
        " JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)"
        " WHERE c.conrelid = %s AND c.contype IN ('p', 'u') AND a.attname = '__pgt_row_id'",
        [relid],
    ).fetchall()
    for (name,) in constraints:
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table, sql.Identifier(name)))
    # The unique index of 0.2 on the row id is no constraint.
    indexes = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
        " WHERE i.indrelid = %s AND a.attname = '__pgt_row_id'",
        [relid],
    ).fetchall()
    for index in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(*index)))
    wanted = {column.name: column for column in shape.columns}
    fits = fitting_columns(connection, relid, shape)
    for name, is_fitting in fits.items():
        if name not in wanted or (not is_fitting and wanted[name].is_hidden):
            connection.execute(sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(name)))
        elif not is_fitting:
            # Where it stands: a column that is added anew would be the last, and no longer the query's.
            type_ = raw_expression(wanted[name].type_text)
            change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING NULL")
            try:
                connection.execute(change.format(table, sql.Identifier(name), type_))
            except psycopg.Error as error:
                if is_of_the_surroundings(error, connection):
                    raise
                raise cannot_follow(table.as_string(connection), wanted[name], error) from error
    for name, column in wanted.items():
        if name not in fits or (not fits[name] and column.is_hidden):
            connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                    table, sql.Identifier(name), raw_expression(column.type_text)
                )
            )
        nullable = sql.SQL("SET NOT NULL") if column.is_not_null else sql.SQL("DROP NOT NULL")
        connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(table, sql.Identifier(name), nullable))
    connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(table, listed(shape.key)))
