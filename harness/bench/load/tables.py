"""The tables that a load writes, one a strategy, equal but for what hangs on their triggers; and what was captured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from harness.bench.load.scripts import SEEDED_ROWS
from harness.bench.model import Check
from harness.bench.tables import Column, Table
from harness.bench.triggers.forms import Form, Level
from harness.bench.triggers.making import drop_captured, make_captured
from harness.errors import RefusedError

# Four on each of two workers: two cores have enough to do, and each client meets every shard.
SHARD_COUNT = 8
SCHEMA = "bench_load"

_CREATE = sql.SQL(
    "CREATE TABLE {} (id bigint PRIMARY KEY, place bigint NOT NULL, amount bigint NOT NULL,"
    " quantity integer NOT NULL DEFAULT 1, note text)"
)
_COLUMNS: tuple[tuple[str, LiteralString], ...] = (
    ("id", "bigint"),
    ("place", "bigint"),
    ("amount", "bigint"),
    ("quantity", "integer"),
    ("note", "text"),
)
_SEED = sql.SQL(
    "INSERT INTO {} (id, place, amount, note)"
    " SELECT i, i %% 1000 + 1, i %% 100, 'there from the beginning' FROM generate_series(1, %s) AS i"
)
_NOTHING = sql.SQL(
    "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp"
    " AS 'BEGIN RETURN NULL; END'"
)
# The same three that capture has, with the transition tables that it reads.
_EMPTY_TRIGGERS = (
    sql.SQL(
        "CREATE TRIGGER nothing_ins AFTER INSERT ON {} REFERENCING NEW TABLE AS came"
        " FOR EACH STATEMENT EXECUTE FUNCTION {}()"
    ),
    sql.SQL(
        "CREATE TRIGGER nothing_upd AFTER UPDATE ON {} REFERENCING OLD TABLE AS went NEW TABLE AS came"
        " FOR EACH STATEMENT EXECUTE FUNCTION {}()"
    ),
    sql.SQL(
        "CREATE TRIGGER nothing_del AFTER DELETE ON {} REFERENCING OLD TABLE AS went"
        " FOR EACH STATEMENT EXECUTE FUNCTION {}()"
    ),
)
_SUM = sql.SQL(
    "SELECT count(*), coalesce(sum(hashtextextended(ROW(id, place, amount, quantity, note)::text, 0)::numeric), 0)"
    " FROM {}"
)
_CAPTURED = sql.SQL(
    "SELECT count(*) FILTER (WHERE action = 'I') - count(*) FILTER (WHERE action = 'D'),"
    " coalesce(sum(hashtextextended(ROW(new_id, new_place, new_amount, new_quantity, new_note)::text, 0)::numeric)"
    " FILTER (WHERE action = 'I'), 0)"
    " - coalesce(sum(hashtextextended(ROW(old_id, old_place, old_amount, old_quantity, old_note)::text, 0)::numeric)"
    " FILTER (WHERE action = 'D'), 0) FROM {}"
)


class Strategy(StrEnum):
    """What hangs on the table that is written.

    Nothing; triggers that do nothing; row triggers by hand, the quickest that are known, which write each change to the
    colocated shard of a buffer and know neither a sequence nor who reads (F18); the engine's capture.
    """

    NONE = "none"
    EMPTY = "empty"
    BY_HAND = "by_hand"
    CAPTURE = "capture"


@dataclass(frozen=True)
class LoadTable:
    """A table that a load writes.

    Attributes:
        strategy: what hangs on it.
        name: for statements.
        before: how many rows it had when capture began, and the sum of their hashes.
        stable_name: of a captured one.
    """

    strategy: Strategy
    name: sql.Identifier
    before: tuple[int, int]
    stable_name: str = ""


@contextmanager
def load_tables(
    connection: psycopg.Connection[Any],
    strategies: Sequence[Strategy],
    *,
    is_distributed: bool,
    shard_count: int = SHARD_COUNT,
) -> Iterator[dict[Strategy, LoadTable]]:
    """One table a strategy, in a schema of their own; all of it is dropped after the block.

    Args:
        connection: to the coordinator or the one server, in autocommit; the catalog is at head if one is captured.
        strategies: which.
        is_distributed: by ``id`` over the workers; else ordinary tables.
        shard_count: of a distributed one.

    Raises:
        RefusedError: there is no catalog to capture with, or the schema is there already.
    """
    if {Strategy.CAPTURE, Strategy.BY_HAND} & set(strategies):
        _require_catalog(connection)
    try:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    except psycopg.errors.DuplicateSchema:
        raise RefusedError(
            f"there is a schema {SCHEMA} already: another load runs here, or one was killed",
            hint=f"once none runs: DROP SCHEMA {SCHEMA} CASCADE",
        ) from None
    try:
        yield {
            strategy: _make(connection, strategy, shard_count if is_distributed else None) for strategy in strategies
        }
    finally:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(SCHEMA)))
        drop_captured(connection, _written_by_hand(is_distributed=is_distributed))


def find_tables(connection: psycopg.Connection[Any]) -> set[Strategy]:
    """The strategies whose tables are there."""
    rows = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s)", [SCHEMA])
    names = {str(name) for (name,) in rows}
    return {strategy for strategy in Strategy if f"load_{strategy}" in names}


def table_name(strategy: Strategy) -> sql.Identifier:
    """The table of a strategy."""
    return sql.Identifier(SCHEMA, f"load_{strategy}")


def _require_catalog(connection: psycopg.Connection[Any]) -> None:
    if connection.execute("SELECT to_regprocedure('pgtrickle.install_capture(oid)')").fetchone() == (None,):
        raise RefusedError(
            "this database has no catalog to capture with", hint="harness migrate up, or leave out strategy capture"
        )


def _make(connection: psycopg.Connection[Any], strategy: Strategy, shard_count: int | None) -> LoadTable:
    name = table_name(strategy)
    text = name.as_string(connection)
    connection.execute(_CREATE.format(name))
    if shard_count is not None:
        connection.execute(
            "SELECT create_distributed_table(%s, 'id', colocate_with => 'none', shard_count => %s)", [text, shard_count]
        )
    connection.execute(_SEED.format(name), [SEEDED_ROWS])
    stable_name = ""
    if strategy is Strategy.EMPTY:
        _hang_nothing(connection, name, is_distributed=shard_count is not None)
    elif strategy is Strategy.BY_HAND:
        _capture_by_hand(connection, is_distributed=shard_count is not None)
    elif strategy is Strategy.CAPTURE:
        row = connection.execute("SELECT pgtrickle.install_capture(%s::regclass)", [text]).fetchone()
        stable_name = str(row[0]) if row else ""
    connection.execute(sql.SQL("ANALYZE {}").format(name))
    return LoadTable(strategy, name, _sum(connection, _SUM.format(name)), stable_name)


def _hang_nothing(connection: psycopg.Connection[Any], name: sql.Identifier, *, is_distributed: bool) -> None:
    function = sql.Identifier(SCHEMA, "nothing")
    connection.execute(_NOTHING.format(function))
    with connection.transaction():
        if is_distributed:  # F8
            connection.execute("SET LOCAL citus.enable_unsafe_triggers = on")
            connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
        for trigger in _EMPTY_TRIGGERS:
            connection.execute(trigger.format(name, function))


def _capture_by_hand(connection: psycopg.Connection[Any], *, is_distributed: bool) -> None:
    make_captured(connection, _written_by_hand(is_distributed=is_distributed), Form(level=Level.ROW))


def _written_by_hand(*, is_distributed: bool) -> Table:
    columns = tuple(Column(name, type_, "NULL", lambda _i: None) for name, type_ in _COLUMNS)
    return Table(f"load_{Strategy.BY_HAND}", columns, is_distributed, schema=SCHEMA)


def _sum(connection: psycopg.Connection[Any], query: sql.Composed) -> tuple[int, int]:
    row = connection.execute(query).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def row_count(connection: psycopg.Connection[Any], table: LoadTable) -> int:
    """How many rows it has."""
    return _sum(connection, _SUM.format(table.name))[0]


def check_captured(connection: psycopg.Connection[Any], table: LoadTable) -> Check:
    """Whether what was captured is what the table gained and lost, row by row by their hashes; nobody writes now."""
    rows, hashes = _sum(connection, _SUM.format(table.name))
    gained = (rows - table.before[0], hashes - table.before[1])
    buffer = sql.Identifier("pgtrickle_changes", f"changes_{table.stable_name}")
    captured = _sum(connection, _CAPTURED.format(buffer))
    return Check(
        f"{table.strategy}: captured rows",
        captured == gained,
        f"the table gained {gained[0]} rows, captured were {captured[0]}; sums of hashes are"
        f" {'equal' if captured[1] == gained[1] else 'different'}",
    )
