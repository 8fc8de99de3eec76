"""Proofs of topology: where sources, triggers, buffers and captured rows are, each asked of the node itself."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from harness.engines import OURS
from harness.matrix.stage import Stage
from harness.matrix.tables import Table
from harness.postgres.node import Node

_LOCATION = """
SELECT CASE WHEN p.partmethod <> 'n' THEN 'distributed' WHEN p.repmodel = 't' THEN 'reference'
            WHEN p.colocationid = 0 THEN 'local' ELSE 'distributed' END, p.colocationid
FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = pg_catalog.to_regclass(%s)"""
_PLACEMENTS = """
SELECT s.shardid, coalesce(s.shardminvalue, ''), p.groupid FROM pg_catalog.pg_dist_shard s
JOIN pg_catalog.pg_dist_placement p USING (shardid)
WHERE s.logicalrelid = pg_catalog.to_regclass(%s) ORDER BY 1, 3"""
# Asked of a node about the placements that it holds itself, with the triggers in its own catalog. A shard's end with
# its id.
_TRIGGERS_HERE = """
SELECT s.shardid, count(t.oid)::int FROM pg_catalog.pg_dist_shard s
JOIN pg_catalog.pg_dist_placement p USING (shardid)
LEFT JOIN pg_catalog.pg_trigger t ON NOT t.tgisinternal AND t.tgname ~ '^pg_trickle_cdc_(ins|upd|del)_'
    AND t.tgrelid = pg_catalog.to_regclass(pg_catalog.shard_name(s.logicalrelid, s.shardid))
WHERE s.logicalrelid = pg_catalog.to_regclass(%s)
    AND p.groupid = (SELECT groupid FROM pg_catalog.pg_dist_local_group)
GROUP BY 1 ORDER BY 1"""
# Triggers, buffers and functions of capture on a node, of any source.
CAPTURE_HERE: LiteralString = """
SELECT 'trigger ' || t.tgname FROM pg_catalog.pg_trigger t WHERE t.tgname ~ '^pg_trickle_'
UNION ALL SELECT 'relation ' || c.relname FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'pgtrickle_changes'::pg_catalog.regnamespace
UNION ALL SELECT 'function ' || p.proname FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'pgtrickle_changes'::pg_catalog.regnamespace"""
# Which node wrote a captured row: a sequence counts from group * 2^48 on a worker (F5).
_CAPTURED_ON = "SELECT (seq_id >> 48)::int, count(*)::int FROM {} GROUP BY 1 ORDER BY 1"
# Statement-level: one for INSERT, one for UPDATE, one for DELETE; the one for TRUNCATE is on the shell table (F11).
_TRIGGERS_A_SHARD = 3
_STATEMENT_TRIGGERS = ("pg_trickle_cdc_ins_", "pg_trickle_cdc_upd_", "pg_trickle_cdc_del_")


def location(stage: Stage, table: Table) -> tuple[str, int]:
    """Placement and colocation group of a table, as the coordinator's catalog has them; ``local, 0`` without Citus."""
    if not stage.is_citus:
        return "local", 0
    found = stage.rows(_LOCATION, [table.qualified])
    return (str(found[0][0]), int(found[0][1])) if found else ("local", 0)


def shards_by_group(stage: Stage, table: Table) -> dict[int, list[str]]:
    """Where each shard is: the lower ends of the hash ranges, by group."""
    found: dict[int, list[str]] = {}
    for _, start, group in stage.rows(_PLACEMENTS, [table.qualified]):
        found.setdefault(group, []).append(start)
    return found


def groups_of(stage: Stage) -> dict[int, Node]:
    """The workers, by the group that each believes to be."""
    return {node.value("SELECT groupid FROM pg_catalog.pg_dist_local_group"): node for node in stage.workers}


def _describe(shards: dict[int, list[str]]) -> str:
    return ", ".join(f"group {group}: {len(starts)}" for group, starts in sorted(shards.items()))


def _place(stage: Stage, table: Table, placement: str) -> str:
    if placement == "local":
        return placement
    shards = shards_by_group(stage, table)
    if placement == "reference":
        return f"on {len(shards)} nodes"
    return "+".join(str(len(starts)) for _, starts in sorted(shards.items())) + " shards"


def _prove_spread(stage: Stage, table: Table, what: str) -> dict[int, list[str]]:
    shards = shards_by_group(stage, table)
    missing = set(groups_of(stage)) - set(shards)
    stage.require(f"{what} has shards on every worker", not missing, _describe(shards))
    return shards


def prove_source(stage: Stage, table: Table, placement: str) -> None:
    """A source is where it should be, and so are its triggers and its buffer (D4).

    Asks the coordinator for placements, and every node for the triggers in its own catalog.

    Raises:
        CheckFailedError: says what was seen instead.
    """
    seen, group = location(stage, table)
    stage.require(f"{table.name} is a {placement} table", seen == placement, seen)
    stage.places[table.name] = _place(stage, table, placement)
    if placement == "distributed":
        _prove_distributed_source(stage, table, group)
    elif placement == "reference":
        _prove_reference_source(stage, table)
    else:
        found = stage.tables.footprint(table.schema, table.name)
        captured_events = found.events >= {"INSERT", "UPDATE", "DELETE", "TRUNCATE"}
        if stage.engine is OURS:
            by_statement = [name for name in found.triggers if name.startswith(_STATEMENT_TRIGGERS)]
            captured_events = captured_events and len(by_statement) == _TRIGGERS_A_SHARD
        stage.require(f"{table.name} has its triggers", captured_events, f"{len(found.triggers)} triggers")
        stage.require(f"{table.name} has its buffer", bool(found.relations), ", ".join(found.relations))
        stage.require(f"the buffer of {table.name} is local", location(stage, table.buffer)[0] == "local", "local")


def _prove_distributed_source(stage: Stage, table: Table, group: int) -> None:
    shards = _prove_spread(stage, table, table.name)
    triggers: dict[str, dict[int, int]] = {
        worker.name: dict(worker.rows(_TRIGGERS_HERE, [table.qualified])) for worker in stage.workers
    }
    bad = [
        f"{name}: shard {shard} has {count}"
        for name, counts in triggers.items()
        for shard, count in counts.items()
        if count != _TRIGGERS_A_SHARD
    ]
    covered = sum(len(counts) for counts in triggers.values())
    if covered != sum(map(len, shards.values())):
        bad.append(f"{covered} of {sum(map(len, shards.values()))} shards were found on the workers")
    text = "; ".join(bad) or ", ".join(
        f"{name}: {_TRIGGERS_A_SHARD} on each of {len(counts)} shards" for name, counts in triggers.items()
    )
    stage.require(f"every shard of {table.name} has its triggers", not bad, text)
    buffer, buffer_group = location(stage, table.buffer)
    together = buffer == "distributed" and buffer_group == group and shards_by_group(stage, table.buffer) == shards
    stage.require(
        f"the buffer of {table.name} is colocated with it", together, f"{buffer}, colocation group {buffer_group}"
    )


def _prove_reference_source(stage: Stage, table: Table) -> None:
    shards = shards_by_group(stage, table)
    everywhere = {0, *groups_of(stage)} <= set(shards)
    stage.require(f"{table.name} has a replica on every node", everywhere, f"groups {sorted(shards)}")
    counts: dict[str, dict[int, int]] = {
        node.name: dict(node.rows(_TRIGGERS_HERE, [table.qualified])) for node in stage.cluster.nodes
    }
    seen = {name: sum(found.values()) for name, found in counts.items()}
    expected = {node.name: 0 for node in stage.workers} | {stage.coordinator.name: _TRIGGERS_A_SHARD}
    text = ", ".join(f"{name}: {count}" for name, count in seen.items())
    stage.require(f"only the coordinator's replica of {table.name} has triggers", seen == expected, text)
    stage.require(f"the buffer of {table.name} is local", location(stage, table.buffer)[0] == "local", "local")


def prove_storage(stage: Stage, table: Table, placement: str) -> None:
    """A stream table's storage is where it should be, and the catalog says so.

    Raises:
        CheckFailedError: says what was seen instead.
    """
    seen, _ = location(stage, table)
    stage.require(f"stream table {table.name} is {placement}", seen == placement, seen)
    stage.places[table.name] = _place(stage, table, placement)
    recorded = stage.tables.placement(table.schema, table.name)
    stage.require_equal(f"the catalog's placement of {table.name}", recorded, placement)
    if placement == "distributed":
        _prove_spread(stage, table, f"stream table {table.name}")
    if placement == "reference":
        groups = set(shards_by_group(stage, table))
        everywhere = {0, *groups_of(stage)} <= groups
        stage.require(f"stream table {table.name} has a replica on every node", everywhere, f"groups {sorted(groups)}")


def prove_captured_on_workers(stage: Stage, table: Table) -> None:
    """Captured rows that wait in a distributed source's buffer were written on every worker, by that worker.

    Raises:
        CheckFailedError: says which groups wrote.
    """
    found = dict(stage.rows(sql.SQL(_CAPTURED_ON).format(table.buffer.identifier)))
    seen = ", ".join(f"group {group}: {count} rows" for group, count in found.items())
    stage.require(f"changes of {table.name} were captured on every worker", set(found) == set(groups_of(stage)), seen)


def captured(stage: Stage, table: Table) -> int:
    """How many captured rows wait in a table's buffer."""
    return int(stage.value(sql.SQL("SELECT count(*) FROM {}").format(table.buffer.identifier)))


def find_on_every_node(stage: Stage, query: LiteralString) -> dict[str, list[str]]:
    """Ask every node for names, shards included, which a Citus catalog else hides from clients.

    Args:
        stage: where.
        query: answers one column of names.

    Returns:
        What was found, by node; each node has an entry.
    """
    found = {}
    for node in stage.cluster.nodes:
        with node.transaction() as connection:
            if stage.is_citus:
                connection.execute("SET LOCAL citus.show_shards_for_app_name_prefixes = '*'")
            found[node.name] = [name for (name,) in connection.execute(query)]
    return found


def prove_on_every_node(stage: Stage, what: str, query: LiteralString) -> None:
    """A query finds something on every node: that it finds nothing later means something.

    Raises:
        CheckFailedError: names the nodes where it found nothing.
    """
    found = find_on_every_node(stage, query)
    seen = ", ".join(f"{name}: {len(names)}" for name, names in found.items())
    stage.require(f"{what} is on every node", all(found.values()), seen)


def prove_on_no_node(stage: Stage, what: str, query: LiteralString) -> None:
    """A query finds nothing on any node.

    Raises:
        CheckFailedError: says what it found, and where.
    """
    found = find_on_every_node(stage, query)
    left = [f"{node}: {name}" for node, names in found.items() for name in names]
    stage.require(f"{what} is gone from every node", not left, ", ".join(left or found))
