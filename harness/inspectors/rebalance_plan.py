"""`citus_rebalance_plan`: what rebalancing would move, without moving anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.errors import BadInputError
from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity, Source, Unavailable
from harness.inspectors.inputs import Listing, flag, identifier, integer, number
from harness.inspectors.placements import SIZE_SOURCES, Sizes, fetch_sizes
from harness.inspectors.session import Session
from harness.inspectors.tables import TABLE_SOURCES, CitusTable, choose_tables, fetch_tables

_STRATEGIES: LiteralString = """
    SELECT s.name, s.default_strategy, s.default_threshold, s.shard_cost_function::text
      FROM pg_catalog.pg_dist_rebalance_strategy s
"""
# Citus asks for sizes by name: without USAGE on one of these it says "cannot get the size because of a connection
# error" (08006), as it does when a node is down. Which it is must be known before.
_FORBIDDEN: LiteralString = """
    SELECT DISTINCT n.nspname
      FROM pg_catalog.pg_dist_partition p
      JOIN pg_catalog.pg_class c ON c.oid = p.logicalrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
"""
# Its shard_size is pg_dist_placement.shardlength, 0 everywhere (Citus 14.0.1): sizes are asked for by ourselves.
# max_shard_moves has no NULL (22004); the others take it for "as the strategy has it".
_PLAN: LiteralString = """
    SELECT p.step, n.nspname, c.relname, p.shardid, p.sourcename, p.sourceport, p.targetname, p.targetport
      FROM pg_catalog.get_rebalance_table_shards_plan(
               relation => %s::oid::regclass, threshold => %s::real, max_shard_moves => %s::integer,
               drain_only => %s::boolean, rebalance_strategy => %s::name)
           WITH ORDINALITY AS p(table_name, shardid, shard_size, sourcename, sourceport, targetname, targetport, step)
      LEFT JOIN pg_catalog.pg_class c ON c.oid = p.table_name
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""
# Counts shards and asks for no size of them to decide.
_BY_COUNT = "citus_shard_cost_1"


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """What would be rebalanced, and how."""

    schema: str | None = identifier(None, "of the table, as the catalog spells it")
    table: str | None = identifier(None, "only this table and those colocated with it, as the catalog spells it")
    strategy: str | None = identifier(None, "of pg_dist_rebalance_strategy; without, the default one")
    threshold: float | None = number(None, 0.0, 1.0, "how far from the average a node may be; as the strategy has it")
    drain_only: bool = flag(False, "only what must leave nodes with shouldhaveshards = false")
    max_moves: int = integer(
        1000, 1, 1_000_000, "shard groups moved at most; what leaves a node to be drained is not counted"
    )


@dataclass(frozen=True)
class Row:
    """One shard that would be moved; those of a shard group follow each other.

    Attributes:
        step: its place in the plan, from 1.
        size_bytes: of the copy that would be moved, with indexes and toast; None where its node did not say.
        source, target: ``host:port``.
    """

    step: int
    schema: str | None
    table: str | None
    shardid: int
    size_bytes: int | None
    source: str
    target: str


def _one_table(tables: Sequence[CitusTable], inputs: Inputs) -> CitusTable | None:
    if inputs.table is None and inputs.schema is None:
        return None
    if inputs.table is None:
        raise BadInputError(f"schema={inputs.schema!r:.80} without a table", hint="give both, or neither")
    if len(tables) > 1:
        where = ", ".join(sorted(each.label for each in tables))
        raise BadInputError(f"table={inputs.table!r:.80} is more than one: {where:.200}", hint="give its schema too")
    return tables[0]


def _strategy(session: Session, name: str | None) -> tuple[str, float, str]:
    """Name, threshold and cost function of the strategy that would be used."""
    found = session.rows(sql.SQL(_STRATEGIES))
    chosen = [each for each in found if (each[1] if name is None else each[0] == name)]
    if not chosen:
        names = ", ".join(sorted(each[0] for each in found))
        raise BadInputError(f"there is no rebalance strategy {name!r:.80}", hint=f"there are {names:.200}")
    return chosen[0][0], chosen[0][2], chosen[0][3]


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    tables = choose_tables(fetch_tables(session), inputs.schema, inputs.table)
    table = _one_table(list(tables.values()), inputs)
    strategy, threshold, cost_function = _strategy(session, inputs.strategy)
    forbidden = sorted(row[0] for row in session.rows(sql.SQL(_FORBIDDEN)))
    if forbidden and not cost_function.endswith(_BY_COUNT):
        shown = ", ".join(forbidden)
        raise Unavailable(
            Reason.INSUFFICIENT_PRIVILEGE,
            f"Citus plans by size only with USAGE on every schema of its tables; it is missing on {shown:.120}",
        )
    parameters = [
        table.relid if table else None,
        inputs.threshold,
        inputs.max_moves,
        inputs.drain_only,
        strategy,
    ]
    plan = session.rows(sql.SQL(_PLAN), parameters)
    sizes = fetch_sizes(session, {shardid for _, _, _, shardid, *_ in plan}) if plan else Sizes()
    group_of = {(node.host, node.port): node.groupid for node in session.nodes if node.role == "primary"}
    rows = []
    for step, schema, name, shardid, source, source_port, target, target_port in plan:
        measure = sizes.of(shardid, group_of.get((source, source_port)))
        size_bytes = measure.size_bytes if measure else None
        rows.append(Row(step, schema, name, shardid, size_bytes, f"{source}:{source_port}", f"{target}:{target_port}"))
    facts = {
        "strategy": strategy,
        "threshold": round(threshold if inputs.threshold is None else inputs.threshold, 4),
        "shards_to_move": len(rows),
        "bytes_to_move": sum(row.size_bytes or 0 for row in rows),
    }
    return Found(rows, sizes.reason, sizes.message, facts=facts)


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    if not envelope.rows:
        return ()
    return (
        Finding(
            rule="rebalance_suggested",
            severity=Severity.INFO,
            scope="cluster",
            target="cluster",
            title="shards are not as evenly placed as the strategy has it",
            evidence=f"{envelope.facts.get('shards_to_move')} shards, {envelope.facts.get('bytes_to_move')} bytes",
            suggestion="SELECT citus_rebalance_start()",
        ),
    )


INSPECTOR = Inspector(
    name="citus_rebalance_plan",
    summary="What rebalancing would move, shard by shard, by a strategy and its threshold; nothing is moved",
    cost=Cost.SIZES,
    least_role="USAGE on every schema of Citus tables",
    inputs=Inputs,
    row=Row,
    ordering=("step",),
    volatile=frozenset(),
    sources=(
        *TABLE_SOURCES,
        *SIZE_SOURCES,
        Source(
            "pg_dist_rebalance_strategy",
            (
                ("name", "name"),
                ("default_strategy", "boolean"),
                ("default_threshold", "real"),
                ("shard_cost_function", "regproc"),
            ),
        ),
        Source("has_schema_privilege", (("returns", "boolean"),), "function"),
        Source(
            "get_rebalance_table_shards_plan",
            (
                ("table_name", "regclass"),
                ("shardid", "bigint"),
                ("sourcename", "text"),
                ("sourceport", "integer"),
                ("targetname", "text"),
                ("targetport", "integer"),
            ),
            "function",
            note="asks for sizes by name, one shard after another; an error without USAGE, or with a node down",
        ),
    ),
    look=_look,
    severity=_severity,
)
