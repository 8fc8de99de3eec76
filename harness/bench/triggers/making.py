"""Makes a capture, by hand or by the engine, and tells what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.bench.tables import KEY, Connection, RowSum, Table, row_hash
from harness.bench.triggers.bodies import SCHEMA, Target, changed, function_body
from harness.bench.triggers.forms import Form, Level

_SHARDS_QUERY = """
SELECT t.relname || '_' || s.shardid, b.relname || '_' || o.shardid
FROM pg_catalog.pg_dist_shard s
JOIN pg_catalog.pg_dist_shard o ON o.shardminvalue = s.shardminvalue
JOIN pg_catalog.pg_class t ON t.oid = s.logicalrelid JOIN pg_catalog.pg_class b ON b.oid = o.logicalrelid
WHERE s.logicalrelid = %s::regclass AND o.logicalrelid = %s::regclass ORDER BY s.shardid"""

_EVENTS: tuple[tuple[LiteralString, LiteralString], ...] = (
    ("INSERT", "REFERENCING NEW TABLE AS __pgt_new"),
    ("UPDATE", "REFERENCING OLD TABLE AS __pgt_old NEW TABLE AS __pgt_new"),
    ("DELETE", "REFERENCING OLD TABLE AS __pgt_old"),
)


@dataclass(frozen=True)
class Captured:
    """A table whose changes are captured.

    Attributes:
        table: the table.
        buffer: where its changes go; None: its trigger writes nothing.
        has_position: whether each captured row has a position in a column ``position``.
    """

    table: Table
    buffer: sql.Identifier | None
    has_position: bool = False

    def fetch_sums(self, connection: Connection) -> tuple[RowSum, RowSum]:
        """What came and what went, as the buffer has it."""
        assert self.buffer is not None  # noqa: S101 - only what writes is asked
        new, old = row_hash(self.table.names, "new_"), row_hash(self.table.names, "old_")
        query = sql.SQL(
            "SELECT count(*) FILTER (WHERE action = 'I'), coalesce(sum({}) FILTER (WHERE action = 'I'), 0),"
            " count(*) FILTER (WHERE action = 'D'), coalesce(sum({}) FILTER (WHERE action = 'D'), 0) FROM {}"
        ).format(new, old, self.buffer)
        row = connection.execute(query).fetchone()
        assert row is not None  # noqa: S101 - an aggregate has one row
        came_count, came, went_count, went = row
        return RowSum(int(came_count), int(came)), RowSum(int(went_count), int(went))

    def count_without_position(self, connection: Connection) -> int:
        """How many captured rows have none."""
        if not self.has_position or self.buffer is None:
            return 0
        query = sql.SQL("SELECT count(*) FROM {} WHERE position IS NULL").format(self.buffer)
        row = connection.execute(query).fetchone()
        return int(row[0]) if row is not None else 0

    def clear(self, connection: Connection, *, with_table: bool = True) -> None:
        """Empty the buffer, and the table before it: its own trigger may write that it was emptied."""
        if with_table:
            connection.execute(sql.SQL("TRUNCATE {}").format(self.table.quoted))
        if self.buffer is not None:
            connection.execute(sql.SQL("TRUNCATE {}").format(self.buffer))


def make_captured(connection: Connection, table: Table, form: Form) -> Captured:
    """Give a table a capture by hand.

    Args:
        connection: to the coordinator or the one server, autocommit.
        table: it has no capture.
        form: which.

    Returns:
        The table with its buffer.
    """
    buffer = _buffer(table)
    _make_buffer(connection, table, buffer, form)
    shards: tuple[tuple[str, str], ...] = ()
    if table.is_distributed:
        found = connection.execute(
            _SHARDS_QUERY, [table.quoted.as_string(connection), buffer.as_string(connection)]
        ).fetchall()
        shards = tuple((str(shard), str(own)) for shard, own in found)
    body = function_body(table, Target(_buffer_name(table), shards), form)
    make_triggers(connection, table, body, form)
    return Captured(table, buffer, has_position=form.position is not None)


def drop_captured(connection: Connection, table: Table) -> None:
    """Take a capture by hand away: triggers, function and buffer; done where there is none, it does nothing."""
    connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}() CASCADE").format(_function(table)))
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_buffer(table)))


def make_empty_trigger(connection: Connection, table: Table) -> Captured:
    """Give a table a statement trigger for INSERT that does nothing and asks for no transition table."""
    function = _make_function(connection, table, sql.SQL("BEGIN\nRETURN NULL;\nEND;\n").format())
    with connection.transaction():
        _allow_triggers(connection, table)
        connection.execute(
            sql.SQL("CREATE TRIGGER empty AFTER INSERT ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}()").format(
                table.quoted, function
            )
        )
    return Captured(table, None)


def captured_by_engine(connection: Connection, table: Table) -> Captured:
    """Have the engine capture a table, as it does for a stream table."""
    row = connection.execute(
        "SELECT pgtrickle.install_capture(%s::regclass)", [table.quoted.as_string(connection)]
    ).fetchone()
    assert row is not None  # noqa: S101 - it answers the stable name
    return Captured(table, sql.Identifier(SCHEMA, f"changes_{row[0]}"))


def make_triggers(connection: Connection, table: Table, body: sql.Composed, form: Form) -> None:
    """Give a table the three triggers of a form, with a function of this body."""
    function = _make_function(connection, table, body)
    with connection.transaction():
        _allow_triggers(connection, table)
        for event, transition in _EVENTS:
            connection.execute(_trigger_query(table, function, event, transition, form))


def _trigger_query(
    table: Table, function: sql.Identifier, event: LiteralString, transition: LiteralString, form: Form
) -> sql.Composed:
    how = sql.SQL(transition + " FOR EACH STATEMENT").format()
    if form.level is Level.ROW:
        how = sql.SQL("FOR EACH ROW").format()
        if form.only_changed and event == "UPDATE":
            how += sql.SQL(" WHEN ({})").format(changed(form.only_changed, "NEW", "OLD"))
    return sql.SQL("CREATE TRIGGER {} AFTER {} ON {} {} EXECUTE FUNCTION {}()").format(
        sql.Identifier(f"by_hand_{event.lower()}"), sql.SQL(event), table.quoted, how, function
    )


def _buffer_name(table: Table) -> str:
    return f"by_hand_{table.name}"


def _buffer(table: Table) -> sql.Identifier:
    return sql.Identifier(SCHEMA, _buffer_name(table))


def _function(table: Table) -> sql.Identifier:
    return sql.Identifier(SCHEMA, f"by_hand_fn_{table.name}")


def _make_function(connection: Connection, table: Table, body: sql.Composed) -> sql.Identifier:
    function = _function(table)
    connection.execute(
        sql.SQL(
            "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp AS {}"
        ).format(function, sql.Literal(body.as_string(connection)))
    )
    return function


def _allow_triggers(connection: Connection, table: Table) -> None:
    if table.is_distributed:
        connection.execute("SET LOCAL citus.enable_unsafe_triggers = on")  # F8


def _make_buffer(connection: Connection, table: Table, buffer: sql.Identifier, form: Form) -> None:
    columns: list[sql.Composable] = [sql.SQL("action character(1) NOT NULL")]
    if form.position is not None:
        default = sql.SQL(" DEFAULT " + form.position.default if form.position.default else "")
        columns.append(sql.SQL("position {}{}").format(sql.SQL(form.position.type), default))
    for side in ("new_", "old_"):
        columns += [sql.SQL("{} {}").format(sql.Identifier(side + c.name), sql.SQL(c.type)) for c in table.columns]
    if table.is_distributed:
        columns.append(sql.SQL("shard_key {}").format(sql.SQL(table.columns[0].type)))
    if form.has_xid:
        columns.append(sql.SQL("xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()"))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(buffer, sql.SQL(", ").join(columns)))
    for column in index_columns(form):
        connection.execute(sql.SQL("CREATE INDEX ON {} ({})").format(buffer, sql.Identifier(column)))
    connection.execute(
        sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
            buffer, sql.SQL("FULL" if form.is_identity_full else "NOTHING")
        )
    )
    if table.is_distributed:
        connection.execute(
            "SELECT create_distributed_table(%s, 'shard_key', colocate_with => %s)",
            [buffer.as_string(connection), table.quoted.as_string(connection)],
        )


def index_columns(form: Form) -> Sequence[str]:
    """The columns that a form's buffer has indexes on: when (the transaction), then which (the new key)."""
    return (*(("xid",) if form.has_xid else ()), f"new_{KEY}")[: form.indexes]
