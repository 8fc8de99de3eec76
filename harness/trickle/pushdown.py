"""What Citus makes of a statement: which relations it reads together, shard by shard, and what it fetches apart."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql

from harness.trickle.delta.reasons import NotIncrementalError
from harness.trickle.session import transaction
from harness.trickle.sources import Source


def fetch_plans(
    connection: psycopg.Connection[Any], statements: Sequence[tuple[str, sql.Composed]], *, only: Container[int]
) -> Iterator[tuple[int, Any]]:
    """The plans of some of a transaction's statements, as EXPLAIN (FORMAT JSON) has them.

    Each is asked for in a transaction of its own, after the statements before it that make temporary tables, and as
    its last statement: after EXPLAIN, Citus leaves its connections in a state in which a later statement may fail
    (docs/findings.md).

    Args:
        connection: to the coordinator, idle.
        statements: purpose and statement.
        only: places of those that are wanted.

    Yields:
        Place and plan. Everything is rolled back.

    Raises:
        psycopg.Error: one cannot be planned.
    """
    for place, (_purpose, query) in enumerate(statements):
        if place not in only:
            continue
        with transaction(connection, has_citus=True, is_repeatable=False, is_undone=True):
            for _earlier, made in statements[:place]:
                if made.as_string(connection).startswith("CREATE TEMPORARY TABLE"):
                    connection.execute(made)
            row = connection.execute(sql.SQL("EXPLAIN (FORMAT JSON, COSTS OFF) {}").format(query)).fetchone()
        yield place, row[0] if row else []


def relations_of_jobs(plan: Any) -> Iterator[frozenset[str]]:
    """The relations that each distributed part of a plan reads together, on a worker, in one statement."""
    if isinstance(plan, dict):
        query = plan.get("Distributed Query")
        if isinstance(query, dict):
            yield frozenset(_relations(query.get("Job")))
        for value in plan.values():
            yield from relations_of_jobs(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from relations_of_jobs(value)


def _relations(plan: Any) -> Iterator[str]:
    if isinstance(plan, dict):
        name = plan.get("Relation Name")
        if isinstance(name, str):
            yield name
        for value in plan.values():
            yield from _relations(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from _relations(value)


def refuse_reading_apart(
    connection: psycopg.Connection[Any], statements: Sequence[tuple[str, sql.Composed]], sources: Iterable[Source]
) -> None:
    """Refuse statements in which Citus reads a table at one time and what is taken back from it at another.

    Between the two something may commit, which would then be counted twice or not at all (docs/findings.md).

    Args:
        connection: to the coordinator, idle.
        statements: of one transaction; they are planned and rolled back.
        sources: the tables that they may read.

    Raises:
        NotIncrementalError: they do; names the table.
        psycopg.Error: one cannot be planned.
    """
    distributed = [source for source in sources if source.is_distributed]
    texts = [query.as_string(connection) for _purpose, query in statements]
    readers = {
        place: [source for source in distributed if source.table.as_string(connection) in text]
        for place, text in enumerate(texts)
    }
    wanted = {place for place, read in readers.items() if read}
    for place, plan in fetch_plans(connection, statements, only=wanted):
        jobs = list(relations_of_jobs(plan))
        for source in readers[place]:
            table, buffer = (_shards(connection, relation) for relation in (_table(source), source.buffer))
            for relations in jobs:
                if relations & table and not relations & buffer:
                    raise NotIncrementalError("a table that Citus reads apart from its changes", source.qualified)


def _table(source: Source) -> sql.Identifier:
    return sql.Identifier(source.schema, source.name)


def _shards(connection: psycopg.Connection[Any], relation: sql.Identifier) -> frozenset[str]:
    """The names of a table's shards and of its partitions' shards, without their schema."""
    rows = connection.execute(
        "SELECT parse_ident(pg_catalog.shard_name(s.logicalrelid, s.shardid)) FROM pg_catalog.pg_dist_shard s"
        " WHERE s.logicalrelid IN (SELECT %s::regclass UNION SELECT p.relid FROM pg_partition_tree(%s::regclass) p)",
        [relation.as_string(connection)] * 2,
    ).fetchall()
    return frozenset(row[0][-1] for row in rows)
