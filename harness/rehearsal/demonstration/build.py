"""Builds the demonstration: loads a million rows, installs capture, refreshes, and leaves changes pending."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from harness.errors import BadInputError
from harness.rehearsal.baseline_objects import create_stream_table, install_sources, refresh_full
from harness.rehearsal.demonstration.stream_tables import DemoStreamTable, State, choose_stream_tables
from harness.rehearsal.demonstration.tables import LONG_COLUMN, LONG_NAME, SCHEMAS, TABLES, DemoTable
from harness.rehearsal.tables import Connection, SourceTable, TableName, fetch_table
from harness.rehearsal.write_plans import WriteKind, WritePlan, fetch_write_plans, write_query

OnProgress = Callable[[str, float], None]

# A plain extra source holds this many rows: what is measured with 1,000 of them is their number, not their size.
EXTRA_ROWS = 20


@dataclass(frozen=True)
class Demonstration:
    """What was built.

    Attributes:
        sources: the captured tables.
        stream_tables: those that read them.
        row_count: rows in all sources.
        pending_count: captured rows, those that were consumed and are still there included.
        seed: of everything random.
    """

    sources: tuple[TableName, ...]
    stream_tables: tuple[TableName, ...]
    row_count: int
    pending_count: int
    seed: int


def build_demonstration(
    conn: Connection,
    *,
    sources: int = 24,
    rows: int = 1_000_000,
    seed: int,
    on_progress: OnProgress | None = None,
) -> Demonstration:
    """Make the demonstration installation.

    Args:
        conn: an empty database at revision 0001, as superuser, in autocommit.
        sources: how many captured tables: the first of the 24, or all of them and plain ones besides.
        rows: about how many rows in the 24 together; at least 24.
        seed: the same seed gives the same rows and the same changes.
        on_progress: called with what is being done and how far all of it is, 0 to 1.

    Returns:
        What was built. Everything stays in the database.

    Raises:
        BadInputError: fewer than one source or fewer than 24 rows.
    """
    if sources < 1:
        raise BadInputError(f"{sources} sources cannot be made", hint="ask for one or more")
    if rows < len(TABLES):
        raise BadInputError(f"{rows} rows are too few for {len(TABLES)} tables", hint="ask for 24 or more")
    tell = on_progress or (lambda _label, _done: None)
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    chosen = TABLES[:sources]
    with conn.transaction():
        conn.execute(SCHEMAS)
    for number, table in enumerate(chosen):
        tell(f"loading {table.table.label}", 0.6 * number / len(chosen))
        _load(conn, table, rows, seed)
    extras = _make_extras(conn, sources - len(chosen))
    names = (*(table.table for table in chosen), *extras)
    tell("installing capture", 0.6)
    captured = install_sources(conn, [fetch_table(conn, name).relid for name in names])
    tell("creating stream tables", 0.75)
    conn.execute("VACUUM ANALYZE" if sources <= 100 else "ANALYZE")
    made = choose_stream_tables(names)
    _fill_stream_tables(conn, made, captured, rng)
    tell("leaving changes pending", 0.9)
    _change(conn, captured, rng)
    for table in chosen:
        if table.churn:
            conn.execute(table.churn)
    tell("done", 1.0)
    return Demonstration(
        names,
        tuple(stream_table.spec.table for stream_table in made),
        _count(conn, names),
        _count(conn, [TableName("pgtrickle_changes", f"changes_{source.relid}") for source in captured]),
        seed,
    )


def _load(conn: Connection, table: DemoTable, rows: int, seed: int) -> None:
    count = max(1, table.share * rows // 1_000_000)
    names = {"long_name": sql.Identifier(LONG_NAME), "long_column": sql.Identifier(LONG_COLUMN)}
    with conn.transaction():
        conn.execute(sql.SQL(table.create).format(**names))
        conn.execute(sql.SQL(table.load).format(**names), {"rows": count, "seed": seed % 1_000_003})


def _make_extras(conn: Connection, count: int) -> tuple[TableName, ...]:
    names = tuple(TableName("demo", f"extra_{number + 1:04}") for number in range(max(0, count)))
    for start in range(0, len(names), 100):
        with conn.transaction():
            for name in names[start : start + 100]:
                conn.execute(
                    sql.SQL(
                        "CREATE TABLE {table} (id int PRIMARY KEY, v int, t text);"
                        " INSERT INTO {table} SELECT i, i % 7, 't' || i FROM generate_series(1, {rows}) i"
                    ).format(table=name.identifier, rows=sql.Literal(EXTRA_ROWS))
                )
    return names


def _fill_stream_tables(
    conn: Connection, made: Sequence[DemoStreamTable], captured: Sequence[SourceTable], rng: random.Random
) -> None:
    """Creates them, changes every third source, and refreshes: those changes are consumed and stay in the buffers."""
    stream_tables = [create_stream_table(conn, stream_table.spec) for stream_table in made]
    _change(conn, captured[::3], rng)
    for stream_table, demo in zip(stream_tables, made, strict=True):
        if demo.state is not State.NEVER_REFRESHED:
            refresh_full(conn, stream_table)
        if demo.state is State.WRONG:
            conn.execute(sql.SQL("UPDATE {} SET secrets = secrets + 1").format(demo.spec.table.identifier))
        elif demo.state is State.SUSPENDED:
            conn.execute(
                "UPDATE pgtrickle.pgt_stream_tables SET status = 'SUSPENDED', consecutive_errors = 3 WHERE pgt_id = %s",
                [stream_table.pgt_id],
            )
        elif demo.state is State.NEEDS_REINIT:
            conn.execute(
                "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true WHERE pgt_id = %s", [stream_table.pgt_id]
            )


def _change(conn: Connection, captured: Sequence[SourceTable], rng: random.Random) -> None:
    """Some of every kind of change on each source; what a constraint refuses is left out."""
    plans = fetch_write_plans(conn, captured)
    many = len(plans) > 100
    for plan in plans:
        # one kind is enough where there are hundreds: a second of building for each thousand statements
        kinds = [(WriteKind.INSERT, 20), (WriteKind.UPDATE, 20), (WriteKind.DELETE, 5), (WriteKind.REINSERT, 3)]
        for kind, count in kinds[:2] if many else kinds:
            # a small table, such as pgbench's branches, keeps most of its rows
            is_small = kind is WriteKind.DELETE and all(leaf.blocks <= 1 for leaf in plan.leaves)
            _try(conn, plan, kind, 1 if is_small else count, rng)


def _try(conn: Connection, plan: WritePlan, kind: WriteKind, count: int, rng: random.Random) -> None:
    try:
        conn.execute(write_query(plan, kind, rng, count=count))
    except (psycopg.IntegrityError, psycopg.DataError):
        return


def _count(conn: Connection, tables: Sequence[TableName]) -> int:
    total = 0
    for start in range(0, len(tables), 100):
        counts = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT count(*) AS n FROM {}").format(table.identifier) for table in tables[start : start + 100]
        )
        row = conn.execute(sql.SQL("SELECT sum(n)::bigint FROM ({}) c").format(counts)).fetchone()
        total += int(row[0]) if row else 0
    return total
