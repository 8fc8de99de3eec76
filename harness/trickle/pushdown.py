"""What Citus makes of a statement: which relations it reads together, shard by shard, and what it fetches apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from psycopg import sql

from harness.trickle.delta.reasons import NotIncrementalError
from harness.trickle.sources import Source


def fetch_plan(connection: psycopg.Connection[Any], query: sql.Composable) -> Any:
    """The plan of a statement, as EXPLAIN (FORMAT JSON) has it; it is not run."""
    # What Citus prepares for EXPLAIN goes with the savepoint.
    with connection.transaction(force_rollback=True):
        row = connection.execute(sql.SQL("EXPLAIN (FORMAT JSON, COSTS OFF) {}").format(query)).fetchone()
    return row[0] if row else []


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
    connection: psycopg.Connection[Any], query: sql.Composable, sources: Iterable[Source]
) -> None:
    """Refuse a statement in which Citus reads a table in one statement on the worker and what is taken back from it in another.

    Between the two something may commit, which would then be counted twice or not at all (docs/findings.md).

    Args:
        connection: to the coordinator.
        query: it is planned and not run.
        sources: the distributed tables that it may read.

    Raises:
        NotIncrementalError: it does; names the table.
        psycopg.Error: it cannot be planned.
    """
    text = query.as_string(connection)
    read = [source for source in sources if source.is_distributed and source.table.as_string(connection) in text]
    if not read:
        return
    jobs = list(relations_of_jobs(fetch_plan(connection, query)))
    for source in read:
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
