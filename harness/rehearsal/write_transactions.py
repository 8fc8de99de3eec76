"""Which transactions live writers run: generic ones on any table, and pgbench's TPC-B where its tables are there."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from harness.rehearsal.tables import Connection
from harness.rehearsal.write_plans import WriteKind, WritePlan, write_query

# More rows come than go, so that a small table does not run empty during a long rehearsal.
_KIND_WEIGHTS = {WriteKind.INSERT: 35, WriteKind.UPDATE: 40, WriteKind.DELETE: 13, WriteKind.REINSERT: 12}

_PGBENCH_TABLES = ("pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history")


class Ending(StrEnum):
    """How a transaction ends."""

    AUTOCOMMIT = "autocommit"
    COMMIT = "commit"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Statement:
    """One write.

    Attributes:
        plan: the number of the source's plan.
        query: what is run.
        sign: +1 if its row count came, -1 if it went, 0 if the number of rows stays.
        most_rows: it changes at most so many rows.
        is_undone: a savepoint before it is rolled back after it.
    """

    plan: int
    query: sql.Composed
    sign: int
    most_rows: int
    is_undone: bool = False


@dataclass(frozen=True)
class Transaction:
    """Statements that one writer runs together."""

    statements: tuple[Statement, ...]
    ending: Ending


@dataclass(frozen=True)
class TpcB:
    """pgbench's tables: their plans' numbers by name, and how many rows its load draws from."""

    plans: Mapping[str, int]
    accounts: int
    tellers: int
    branches: int


def find_tpcb(conn: Connection, plans: Sequence[WritePlan]) -> TpcB | None:
    """pgbench's four tables among the sources, in one schema; None if one is missing or empty."""
    by_name = {(plan.source.table.schema, plan.source.table.name): number for number, plan in enumerate(plans)}
    for schema in {schema for schema, name in by_name if name == _PGBENCH_TABLES[0]}:
        numbers = {name: by_name[schema, name] for name in _PGBENCH_TABLES if (schema, name) in by_name}
        if len(numbers) < len(_PGBENCH_TABLES):
            continue
        row = conn.execute(
            sql.SQL("SELECT (SELECT max(aid) FROM {}), (SELECT max(tid) FROM {}), (SELECT max(bid) FROM {})").format(
                *(sql.Identifier(schema, name) for name in _PGBENCH_TABLES[:3])
            )
        ).fetchone()
        if row is not None and all(row):
            # rows that other writers added have keys far above pgbench's own
            return TpcB(numbers, *(min(int(value), 2_000_000_000) for value in row))
    return None


def tpcb_transaction(tpcb: TpcB, plans: Sequence[WritePlan], rng: random.Random) -> Transaction:
    """pgbench's own TPC-B-like transaction without its SELECT: accounts, tellers, branches, history in this order."""
    aid, tid = rng.randint(1, tpcb.accounts), rng.randint(1, tpcb.tellers)
    bid, delta = rng.randint(1, tpcb.branches), rng.randint(-5000, 5000)

    def update(table: str, column: str, key: str, value: int) -> Statement:
        number = tpcb.plans[table]
        query = sql.SQL("UPDATE {} SET {column} = {column} + {} WHERE {} = {}").format(
            plans[number].source.table.identifier,
            sql.Literal(delta),
            sql.Identifier(key),
            sql.Literal(value),
            column=sql.Identifier(column),
        )
        return Statement(number, query, 0, 1)

    history = tpcb.plans["pgbench_history"]
    insert = sql.SQL("INSERT INTO {} (tid, bid, aid, delta, mtime) VALUES ({}, {}, {}, {}, CURRENT_TIMESTAMP)").format(
        plans[history].source.table.identifier,
        sql.Literal(tid),
        sql.Literal(bid),
        sql.Literal(aid),
        sql.Literal(delta),
    )
    return Transaction(
        (
            update("pgbench_accounts", "abalance", "aid", aid),
            update("pgbench_tellers", "tbalance", "tid", tid),
            update("pgbench_branches", "bbalance", "bid", bid),
            Statement(history, insert, 1, 1),
        ),
        Ending.COMMIT,
    )


def _statement(
    plans: Sequence[WritePlan], number: int, kind: WriteKind, rng: random.Random, *, is_undone: bool = False
) -> Statement:
    count = rng.randint(2, 20) if rng.random() < 0.15 else 1
    query = write_query(plans[number], kind, rng, count=count)
    sign = {WriteKind.INSERT: 1, WriteKind.DELETE: -1}.get(kind, 0)
    return Statement(number, query, sign, count, is_undone)


def random_transaction(plans: Sequence[WritePlan], tpcb: TpcB | None, rng: random.Random) -> Transaction:
    """One transaction by chance: mostly a single statement; some of several tables, rolled back, or with savepoints.

    Args:
        plans: the tables to write to.
        tpcb: pgbench's tables, where they are there: one transaction in eight is its.
        rng: where chance comes from.
    """
    chance = rng.random()
    if tpcb is not None and chance > 0.875:
        return tpcb_transaction(tpcb, plans, rng)
    if chance < 0.7:
        number = rng.randrange(len(plans))
        kind = rng.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()))[0]
        if kind is WriteKind.UPDATE and not plans[number].has_free_columns:
            kind = WriteKind.INSERT
        return Transaction((_statement(plans, number, kind, rng),), Ending.AUTOCOMMIT)
    # In the order of the tables, and without deletes: two writers then never wait for each other in a circle, whose
    # resolution by the server takes a second and would look like a stall.
    numbers = sorted(rng.randrange(len(plans)) for _ in range(rng.randint(2, 3)))
    statements = []
    for number in numbers:
        kind = WriteKind.UPDATE if plans[number].has_free_columns and rng.random() < 0.6 else WriteKind.INSERT
        statements.append(_statement(plans, number, kind, rng, is_undone=rng.random() < 0.2))
    return Transaction(tuple(statements), Ending.ROLLBACK if rng.random() < 0.2 else Ending.COMMIT)
