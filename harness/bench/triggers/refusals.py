"""Captures that Citus refuses: tried, so that the error is its own and of this version."""

from __future__ import annotations

from typing import LiteralString

import psycopg
from psycopg import sql

from harness.bench.model import Refusal
from harness.bench.tables import Connection, make_table
from harness.bench.triggers.bodies import SCHEMA, Target, function_body
from harness.bench.triggers.forms import Dispatch, Form, Level
from harness.bench.triggers.making import make_captured, make_triggers
from harness.bench.triggers.positions import CACHE_1

# Some multi-row inserts pass (F13): one row at a time is what every application does.
_TRIED_ROWS = 20


def try_buffer_by_position(connection: Connection, *, shards: int) -> Refusal:
    """Write to a table whose buffer is distributed by the position (the plan's P4.3), row by row.

    Args:
        connection: to the coordinator, autocommit; `harness.bench.triggers.helpers.make_helpers` has run.
        shards: of the table and of its buffer.

    Returns:
        The server's words; not expected (F13), and with what happened, if it did not refuse.
    """
    table = make_table(connection, "by_position", shards=shards)
    name = "by_hand_by_position"
    buffer = sql.Identifier(SCHEMA, name)
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(side + column.name), sql.SQL(column.type))
        for side in ("new_", "old_")
        for column in table.columns
    )
    connection.execute(
        sql.SQL("CREATE TABLE {} (position bigint NOT NULL, action character(1), shard_key bigint, {})").format(
            buffer, columns
        )
    )
    connection.execute(
        "SELECT create_distributed_table(%s, 'position', colocate_with => 'none')", [buffer.as_string(connection)]
    )
    form = Form(level=Level.ROW, dispatch=Dispatch.SHELL, position=CACHE_1, has_xid=False)
    make_triggers(connection, table, function_body(table, Target(name), form), form)
    error = _first_error(connection, [table.insert_query(1, first) for first in range(1, _TRIED_ROWS + 1)])
    return Refusal("buffer distributed by seq_id", error or "nothing: it was written", was_expected=bool(error))


def try_shell_by_statement(connection: Connection, *, shards: int) -> Refusal:
    """Write the buffer through its own name from transition tables (F15).

    Args:
        connection: as above.
        shards: as above.

    Returns:
        As above.
    """
    table = make_table(connection, "shell_by_statement", shards=shards)
    make_captured(connection, table, Form(dispatch=Dispatch.SHELL))
    error = _first_error(connection, [table.insert_query(10)])
    return Refusal("statement/shell", error or "nothing: it was written", was_expected=bool(error))


def try_transition_with_columns(connection: Connection, *, shards: int | None) -> Refusal:
    """Ask for a statement trigger with transition tables that fires for some columns only (UPDATE OF).

    Args:
        connection: as above, or to the one server.
        shards: as above; None: an ordinary table.

    Returns:
        As above.
    """
    table = make_table(connection, "update_of", shards=shards)
    form = Form()
    make_captured(connection, table, form)
    query: LiteralString = (
        "CREATE TRIGGER filtered AFTER UPDATE OF n ON {} REFERENCING NEW TABLE AS __pgt_new"
        " FOR EACH STATEMENT EXECUTE FUNCTION {}()"
    )
    function = sql.Identifier(SCHEMA, f"by_hand_fn_{table.name}")
    error = _first_error(connection, [sql.SQL(query).format(table.quoted, function)])
    return Refusal("statement/update_of", error or "nothing: it was made", was_expected=bool(error))


def _first_error(connection: Connection, queries: list[sql.Composed]) -> str:
    try:
        with connection.transaction():
            if any("CREATE TRIGGER" in query.as_string(connection) for query in queries):
                connection.execute("SELECT set_config('citus.enable_unsafe_triggers', 'on', true)")  # F8
            for query in queries:
                connection.execute(query)
    except psycopg.Error as error:
        return error.diag.message_primary or str(error)
    return ""
