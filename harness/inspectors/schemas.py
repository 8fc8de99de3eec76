"""`citus_schema_overview`: sharded schemas, where each lies, and how large it is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Found, Inspector, Source
from harness.inspectors.inputs import Listing, flag
from harness.inspectors.placements import SIZE_SOURCES, Total, fetch_sizes
from harness.inspectors.session import Session
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    CatalogPlacement,
    fetch_placements,
    fetch_tables,
    node_name,
    of_table,
    primaries,
)

# citus_schemas says "0 bytes" after it failed to ask, and NULL without USAGE (inspectors.md, finding 4).
_SCHEMAS: LiteralString = """
    SELECT n.nspname, d.colocationid, pg_catalog.pg_get_userbyid(n.nspowner)
      FROM pg_catalog.pg_dist_schema d JOIN pg_catalog.pg_namespace n ON n.oid = d.schemaid
"""


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Whether the nodes are asked for sizes."""

    include_sizes: bool = flag(True, "ask every node for sizes: one connection to each")


@dataclass(frozen=True)
class Row:
    """One sharded schema.

    Attributes:
        colocation_id: of the group that its tables are in.
        owner: of the schema.
        node: where its tables lie, ``host:port``; several with a comma if they do not lie together; None: no table.
        tables: how many Citus has.
        size_bytes: of all tables with indexes and toast; None if not asked for, or nothing is known.
        size_source: ``exact``, ``estimate`` (something was locked), ``partial`` or ``none``.
    """

    schema: str
    colocation_id: int
    owner: str
    node: str | None
    tables: int
    size_bytes: int | None
    size_source: str


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    tables = {relid: each for relid, each in fetch_tables(session).items() if each.kind == "schema"}
    placements = of_table(fetch_placements(session, list(tables)))
    ids = {each.shardid for found in placements.values() for each in found}
    sizes = fetch_sizes(session, ids) if inputs.include_sizes else None
    nodes = primaries(session)
    copies: dict[int, list[CatalogPlacement]] = defaultdict(list)
    counts: dict[int, int] = defaultdict(int)
    for relid, table in tables.items():
        counts[table.colocation_id] += 1
        copies[table.colocation_id] += placements.get(relid, [])
    rows = []
    for schema, colocation_id, owner in session.rows(sql.SQL(_SCHEMAS)):
        own = copies[colocation_id]
        total = sizes.total((each.shardid, each.groupid) for each in own) if sizes else Total(None, "none")
        where = sorted({name for each in own if (name := node_name(nodes, each.groupid)) is not None})
        rows.append(
            Row(
                schema=schema,
                colocation_id=colocation_id,
                owner=owner,
                node=", ".join(where) or None,
                tables=counts[colocation_id],
                size_bytes=total.size_bytes,
                size_source=total.source,
            )
        )
    return Found(rows, sizes.reason if sizes else None, sizes.message if sizes else "")


INSPECTOR = Inspector(
    name="citus_schema_overview",
    summary="Sharded schemas: owner, node, tables, size",
    cost=Cost.SIZES,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("schema",),
    volatile=frozenset(),
    sources=(
        Source("pg_dist_schema", (("schemaid", "oid"), ("colocationid", "integer"))),
        Source("pg_namespace", (("oid", "oid"), ("nspname", "name"), ("nspowner", "oid"))),
        *TABLE_SOURCES,
        *SHARD_SOURCES,
        *SIZE_SOURCES,
    ),
    look=_look,
)
