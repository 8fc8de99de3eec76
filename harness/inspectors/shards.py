"""`list_shards`: every copy of every shard, as the coordinator's catalog has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Found, Inspector, Source
from harness.inspectors.session import Session
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    OfTables,
    choose_tables,
    fetch_placements,
    fetch_tables,
    node_name,
    primaries,
)

# parse_ident has the name without quotes; with schema always, so that it is the second part.
_NAMES_QUERY: LiteralString = """
    SELECT s.shardid, (pg_catalog.parse_ident(pg_catalog.shard_name(s.logicalrelid, s.shardid, false)))[2]
      FROM pg_catalog.pg_dist_shard s
     WHERE s.logicalrelid = ANY (%s::oid[])
"""


@dataclass(frozen=True)
class Row:
    """One copy of a shard.

    Attributes:
        schema, table: as the catalog spells them.
        shard_name: the relation's name on its node, in the same schema; right for names that Citus shortened too.
        min_hash, max_hash: its range, as the catalog's text; None without a distribution column.
        storage: ``t`` table, ``f`` foreign, ``c`` columnar.
        placementid, groupid, shardstate: None for a shard that has no placement at all; shardstate 1 is active, 4 to be
            deleted.
        nodeid, node: the primary of that group; None where none is registered.
    """

    schema: str
    table: str
    shardid: int
    shard_name: str
    min_hash: str | None
    max_hash: str | None
    storage: str
    placementid: int | None
    groupid: int | None
    nodeid: int | None
    node: str | None
    shardstate: int | None


def fetch_shard_names(session: Session, relids: list[int]) -> Mapping[int, str]:
    """The relation's name of each shard of these tables."""
    return dict(session.rows(sql.SQL(_NAMES_QUERY), [relids]))


def _look(session: Session, inputs: OfTables) -> Found[Row]:
    chosen = choose_tables(fetch_tables(session), inputs.schema, inputs.table)
    names, nodes = fetch_shard_names(session, list(chosen)), primaries(session)
    rows = []
    for each in fetch_placements(session, list(chosen)):
        table = chosen[each.relid]
        node = nodes.get(each.groupid) if each.groupid is not None else None
        rows.append(
            Row(
                schema=table.schema,
                table=table.name,
                shardid=each.shardid,
                shard_name=names[each.shardid],
                min_hash=each.min_value,
                max_hash=each.max_value,
                storage=each.storage,
                placementid=each.placementid,
                groupid=each.groupid,
                nodeid=node.nodeid if node else None,
                node=node_name(nodes, each.groupid),
                shardstate=each.state,
            )
        )
    facts = {"shards": len({row.shardid for row in rows}), "placements": sum(row.groupid is not None for row in rows)}
    return Found(rows, facts=facts)


INSPECTOR = Inspector(
    name="list_shards",
    summary="Every copy of every shard: its range of hashes, its relation's name, its node",
    cost=Cost.CATALOG,
    least_role="any role",
    inputs=OfTables,
    row=Row,
    ordering=("schema", "table", "shardid", "groupid", "placementid"),
    volatile=frozenset(),
    sources=(
        *TABLE_SOURCES,
        *SHARD_SOURCES,
        Source("shard_name", (("returns", "text"),), "function", note="hashes what would be longer than 63 bytes"),
    ),
    look=_look,
)
