"""`citus_placement_integrity`: whether what Citus has written down and what lies on the nodes' disks are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Severity, Source
from harness.inspectors.fan_out import ClusterNode, Gathered
from harness.inspectors.inputs import Listing, choice
from harness.inspectors.placements import local_placements, whats_missing
from harness.inspectors.session import Session
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    CatalogPlacement,
    CitusTable,
    fetch_placements,
    fetch_tables,
    primaries,
)

PROBLEMS = ("ghost", "inactive", "no_node", "no_placement", "orphan", "queued", "unknown")
# The first shard id that Citus gives (pg_dist_shardid_seq, since its first version).
_FIRST_SHARD = 102008
# A leftover may be of a shard that came after all that are there now; a table named for a day, such as
# orders_20260101, is beyond this.
_MARGIN = 100_000
# Relations that a node has and should not: named as a shard that the catalog knows, which is not placed on it; or as
# a shard of a table that the catalog knows, with an id that it does not. Names that Citus shortened are found the
# first way only. Tables that Citus knows themselves are none, whatever their name.
_ASK: LiteralString = """
    WITH {placed},
    named AS MATERIALIZED (
        SELECT s.shardid, s.logicalrelid::oid AS relid, r.relnamespace,
               (pg_catalog.parse_ident(pg_catalog.shard_name(s.logicalrelid, s.shardid, false)))[2] AS relname
          FROM pg_catalog.pg_dist_shard s JOIN pg_catalog.pg_class r ON r.oid = s.logicalrelid),
    suspects AS MATERIALIZED (
        SELECT c.oid, c.relnamespace, c.relname
          FROM pg_catalog.pg_class c
         WHERE c.relkind IN ('r', 'p', 'f') AND c.relname ~ '_[0-9]{{6,}}$'
           AND NOT EXISTS (SELECT FROM found f WHERE f.oid = c.oid)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition d WHERE d.logicalrelid = c.oid))
    SELECT pg_catalog.json_build_array(pg_catalog.json_build_object(
        'ghosts', (SELECT coalesce(pg_catalog.json_agg(f.shardid), '[]') FROM found f WHERE f.oid IS NULL),
        'strays', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(
                              n.nspname, s.relname, coalesce(k.relname, t.relname),
                              pg_catalog.regexp_replace(s.relname, '^.*_', ''))), '[]')
                     FROM suspects s
                     JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
                     LEFT JOIN (named m JOIN pg_catalog.pg_class k ON k.oid = m.relid)
                            ON m.relnamespace = s.relnamespace AND m.relname = s.relname
                     LEFT JOIN (pg_catalog.pg_class t JOIN pg_catalog.pg_dist_partition d ON d.logicalrelid = t.oid)
                            ON t.relnamespace = s.relnamespace
                           AND t.relname = pg_catalog.regexp_replace(s.relname, '_[0-9]+$', '')
                    WHERE m.shardid IS NOT NULL OR d.logicalrelid IS NOT NULL)))
"""
# Type 1 is a shard; the name is qualified and quoted as SQL has it.
_CLEANUP: LiteralString = """
    SELECT pg_catalog.parse_ident(c.object_name), c.node_group_id
      FROM pg_catalog.pg_dist_cleanup c WHERE c.object_type = 1
"""


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """What is shown."""

    problem: str = choice("any", ("any", *PROBLEMS), "only this problem")


@dataclass(frozen=True)
class Row:
    """One difference.

    Attributes:
        problem: ``ghost``: the catalog has a copy, the node has no such relation. ``orphan``: the node has a relation
            named as a shard that is not placed there. ``queued``: the same, and Citus will remove it. ``inactive``: the
            copy's state is not 1. ``no_node``: the copy's group has no registered primary. ``no_placement``: a shard
            without a copy. ``unknown``: the node did not answer, or has no metadata to go by; one row for all copies.
        nodeid, node: where; None where there is none.
        schema, table: of the Citus table; None for ``unknown``.
        shardid: None for ``unknown``.
        relation: the relation's name on the node; of ``orphan`` and ``queued`` only.
        copies: how many copies of shards the row stands for.
    """

    problem: str
    nodeid: int | None
    node: str | None
    schema: str | None
    table: str | None
    shardid: int | None
    relation: str | None
    copies: int


def _from_catalog(
    placements: Sequence[CatalogPlacement],
    tables: Mapping[int, CitusTable],
    nodes: Mapping[int, ClusterNode],
) -> Iterator[Row]:
    """What the coordinator's catalog alone says."""
    for each in placements:
        table = tables[each.relid]
        if each.groupid is None:
            yield Row("no_placement", None, None, *table.key, each.shardid, None, 0)
            continue
        node = nodes.get(each.groupid)
        if node is None:
            yield Row("no_node", None, None, *table.key, each.shardid, None, 1)
        elif each.state != 1:
            yield Row("inactive", node.nodeid, node.name, *table.key, each.shardid, None, 1)


def _silent(
    gathered: Gathered, placements: Sequence[CatalogPlacement], nodes: Mapping[int, ClusterNode]
) -> Iterator[Row]:
    """Nodes whose copies nobody can judge, those that were not asked included."""
    judged = {node.nodeid for node in gathered.answered if node.has_metadata}
    for groupid, node in nodes.items():
        if node.nodeid not in judged:
            copies = sum(each.groupid == groupid for each in placements)
            yield Row("unknown", node.nodeid, node.name, None, None, None, None, copies)


def _on_node(
    node: ClusterNode,
    answer: Mapping[str, Any],
    table_of: Mapping[int, CitusTable],
    queued: frozenset[tuple[str, str, int]],
    most_shard: int,
) -> Iterator[Row]:
    """What one node's relations say."""
    for shardid in answer["ghosts"]:
        table = table_of.get(shardid)
        if table is not None:
            yield Row("ghost", node.nodeid, node.name, *table.key, shardid, None, 1)
    for schema, relation, table_name, digits in answer["strays"]:
        shardid = int(digits)
        is_queued = (schema, relation, node.groupid) in queued
        if is_queued or _FIRST_SHARD <= shardid <= most_shard:
            problem = "queued" if is_queued else "orphan"
            yield Row(problem, node.nodeid, node.name, schema, table_name, shardid, relation, 1)


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    tables = fetch_tables(session)
    placements = [each for each in fetch_placements(session) if each.relid in tables]
    nodes = primaries(session)
    queued = frozenset(
        (name[0], name[1], groupid) for name, groupid in session.rows(sql.SQL(_CLEANUP)) if len(name) == 2
    )
    gathered = session.on_all_nodes(sql.SQL(_ASK).format(placed=local_placements(None)))
    table_of = {each.shardid: tables[each.relid] for each in placements}
    most_shard = max(table_of, default=_FIRST_SHARD) + _MARGIN
    rows = [*_from_catalog(placements, tables, nodes), *_silent(gathered, placements, nodes)]
    for node, answer in gathered.rows:
        if node.has_metadata:
            rows += _on_node(node, answer, table_of, queued, most_shard)
    facts = {"placements": sum(each.groupid is not None for each in placements)}
    facts |= {problem: sum(row.problem == problem for row in rows) for problem in PROBLEMS}
    return Found(
        [row for row in rows if inputs.problem in ("any", row.problem)], *whats_missing(session, gathered), facts=facts
    )


_SEVERITIES = {
    "ghost": ("ghost_placement", Severity.ERROR, "a copy of a shard has no relation on its node"),
    "no_placement": ("ghost_placement", Severity.ERROR, "a shard has no copy"),
    "no_node": ("ghost_placement", Severity.ERROR, "a copy of a shard is placed on a node that is not registered"),
    "inactive": ("inactive_placement", Severity.WARNING, "a copy of a shard is not active"),
    "orphan": ("orphan_relation", Severity.WARNING, "a relation is named as a shard that is not placed there"),
}


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    found = []
    for row in envelope.rows:
        if row.problem in _SEVERITIES:
            rule, severity, title = _SEVERITIES[row.problem]
            found.append(
                Finding(
                    rule=rule,
                    severity=severity,
                    scope="shard",
                    target=f"{row.shardid}@{row.node}",
                    title=title,
                    evidence=f"table {row.schema}.{row.table}",
                    suggestion="see whether it holds rows that are nowhere else, then drop it"
                    if row.problem == "orphan"
                    else "restore the node, or move the shard from a good copy",
                )
            )
    return found


INSPECTOR = Inspector(
    name="citus_placement_integrity",
    summary="Placements without a relation, relations without a placement, and what waits to be removed",
    cost=Cost.FAN_OUT,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("problem", "nodeid", "schema", "table", "shardid", "relation"),
    volatile=frozenset(),
    sources=(
        *TABLE_SOURCES,
        *SHARD_SOURCES,
        Source(
            "pg_dist_cleanup",
            (("object_type", "integer"), ("object_name", "text"), ("node_group_id", "integer")),
            note="rows on the coordinator only",
        ),
        Source("shard_name", (("returns", "text"),), "function", note="hashes what would be longer than 63 bytes"),
    ),
    look=_look,
    severity=_severity,
)
