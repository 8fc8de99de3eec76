"""`citus_cluster_summary`: what the cluster is, in a fixed list of figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Found, Inspector, Scalar, Source
from harness.inspectors.fan_out import ClusterNode, Gathered
from harness.inspectors.inputs import Listing, choice
from harness.inspectors.nodes import NODE_FACTS, NODE_SOURCES
from harness.inspectors.session import Session
from harness.inspectors.tables import KINDS, TABLE_SOURCES, fetch_tables

SECTIONS = ("versions", "nodes", "tables", "groups", "background", "features")
# Settings that decide what the other inspectors can see; anyone may read them. None: the library does not know it.
_FEATURES: dict[str, str] = {
    "stat_counters": "citus.enable_stat_counters",
    "stat_statements": "citus.stat_statements_track",
    "stat_tenants": "citus.stat_tenants_track",
}
_ASK: LiteralString = """
    SELECT pg_catalog.json_build_array(pg_catalog.json_build_object(
        'node', {facts},
        'settings', (SELECT pg_catalog.json_object_agg(s.name, pg_catalog.current_setting(s.name, true))
                       FROM pg_catalog.unnest({settings}::text[]) AS s(name)),
        'pgss', EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = 'pg_stat_statements'),
        'prepared', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts x
                      WHERE x.database = pg_catalog.current_database())))
"""
_COUNTS: LiteralString = """
    SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_shard),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_placement),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_colocation),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_schema),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_cleanup),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_cleanup c
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node n WHERE n.groupid = c.node_group_id)),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_background_job j WHERE j.state = 'running'),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_background_job j WHERE j.state = 'scheduled')
"""


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which figures."""

    section: str = choice("all", ("all", *SECTIONS), "only figures of this section")


@dataclass(frozen=True)
class NodeValue:
    """What one node says."""

    nodeid: int
    node: str
    value: Scalar


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        position: where it stands in the fixed list.
        section, name: what it is.
        value: the figure; of what nodes say for themselves the common value, or ``mixed``; None: nobody could say.
        per_node: what each node that answered says, where it is asked of nodes.
    """

    position: int
    section: str
    name: str
    value: Scalar
    per_node: tuple[NodeValue, ...] = ()


def _said(gathered: Gathered, *path: str) -> tuple[Scalar, tuple[NodeValue, ...]]:
    values: list[NodeValue] = []
    for node, answer in gathered.rows:
        value: Any = answer
        for step in path:
            value = value[step]
        values.append(NodeValue(node.nodeid, node.name, value))
    distinct = {each.value for each in values}
    return (distinct.pop() if len(distinct) == 1 else "mixed" if distinct else None), tuple(values)


def _versions(gathered: Gathered) -> Iterator[tuple[str, Scalar, tuple[NodeValue, ...]]]:
    is_mixed = False
    for name, key in (("postgres", "pg_version"), ("citus", "citus_version"), ("extension", "extension_version")):
        value, per_node = _said(gathered, "node", key)
        is_mixed = is_mixed or value == "mixed"
        yield name, value, per_node
    yield "is_mixed", is_mixed if gathered.answered else None, ()


def _nodes(nodes: tuple[ClusterNode, ...], gathered: Gathered) -> Iterator[tuple[str, Scalar, tuple[NodeValue, ...]]]:
    primaries = [node for node in nodes if node.role == "primary"]
    yield "registered", len(nodes), ()
    yield "primaries", len(primaries), ()
    yield "workers", sum(not node.is_coordinator for node in primaries), ()
    yield "data_nodes", sum(node.should_have_shards and node.is_active for node in primaries), ()
    yield "secondaries", len(nodes) - len(primaries), ()
    yield "inactive", sum(not node.is_active for node in nodes), ()
    yield "not_synced", sum(node.is_active and not node.is_metadata_synced for node in primaries), ()
    yield "answered", len(gathered.answered), ()
    yield "failed", len(gathered.failed), ()


def _figures(session: Session) -> Iterator[tuple[str, str, Scalar, tuple[NodeValue, ...]]]:
    question = sql.SQL(_ASK).format(facts=sql.SQL(NODE_FACTS), settings=sql.Literal(list(_FEATURES.values())))
    gathered = session.on_all_nodes(question)
    for name, value, per_node in _versions(gathered):
        yield "versions", name, value, per_node
    for name, value, per_node in _nodes(session.nodes, gathered):
        yield "nodes", name, value, per_node
    kinds = Counter(table.kind for table in fetch_tables(session).values())
    for kind in KINDS:
        yield "tables", kind, kinds.get(kind, 0), ()
    shards, placements, groups, schemas, cleanup, lost, running, scheduled = session.rows(_COUNTS)[0]
    yield "groups", "shards", shards, ()
    yield "groups", "placements", placements, ()
    yield "groups", "colocation_groups", groups, ()
    yield "groups", "tenant_schemas", schemas, ()
    yield "background", "jobs_running", running, ()
    yield "background", "jobs_scheduled", scheduled, ()
    yield "background", "cleanup_records", cleanup, ()
    yield "background", "cleanup_records_without_node", lost, ()
    _, prepared = _said(gathered, "prepared")
    yield "background", "prepared_transactions", sum(int(each.value or 0) for each in prepared), prepared
    for name, setting in _FEATURES.items():
        yield "features", name, *_said(gathered, "settings", setting)
    yield "features", "pg_stat_statements", *_said(gathered, "pgss")


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    rows = [Row(position, *figure) for position, figure in enumerate(_figures(session), start=1)]
    return Found([row for row in rows if inputs.section in ("all", row.section)])


INSPECTOR = Inspector(
    name="citus_cluster_summary",
    summary="The cluster in figures: versions, nodes, tables by kind, shards, jobs, prepared transactions, tracking",
    cost=Cost.FAN_OUT,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("position",),
    volatile=frozenset(),
    sources=(
        *NODE_SOURCES,
        *TABLE_SOURCES,
        Source("pg_dist_shard", (("shardid", "bigint"),)),
        Source("pg_dist_placement", (("placementid", "bigint"),)),
        Source("pg_dist_colocation", (("colocationid", "integer"),)),
        Source("pg_dist_cleanup", (("node_group_id", "integer"),), note="rows on the coordinator only"),
        Source("pg_dist_background_job", (("state", "citus_job_status"),), note="rows on the coordinator only"),
        Source("pg_prepared_xacts", (("database", "name"),)),
        *(Source(setting, kind="setting") for setting in _FEATURES.values()),
    ),
    look=_look,
)
