"""`list_distributed_tables`: every table that Citus knows, with what it is and how large."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from harness.inspectors.contract import Cost, Found, Inspector, Source
from harness.inspectors.inputs import choice, flag
from harness.inspectors.placements import SIZE_SOURCES, Sizes, Total, fetch_sizes
from harness.inspectors.session import Session
from harness.inspectors.tables import (
    KINDS,
    SHARD_SOURCES,
    TABLE_SOURCES,
    CatalogPlacement,
    CitusTable,
    OfTables,
    choose_tables,
    fetch_placements,
    fetch_tables,
    of_table,
)


@dataclass(frozen=True, kw_only=True)
class Inputs(OfTables):
    """Which tables, and whether the nodes are asked for sizes."""

    type: str = choice("any", ("any", *KINDS), "only tables of this kind")
    include_partitions: bool = flag(False, "partitions too, each by itself; without, their parent has their sizes")
    include_sizes: bool = flag(False, "ask every node for sizes: one connection to each")


@dataclass(frozen=True)
class Row:
    """One table.

    Attributes:
        schema, table: as the catalog spells them.
        type: ``distributed`` (by a column), ``reference``, ``local`` (on the coordinator, in Citus' metadata),
            ``single_shard`` or ``schema`` (of a sharded schema).
        distribution_column: its name; None without one.
        colocation_id: of its group; None without one.
        shard_count: shards, not their copies.
        replication_model: ``streaming``, ``2pc`` or ``statement``.
        access_method: such as ``heap``; None for a partitioned parent.
        parent: of a partition, the table that it belongs to, as ``schema.name``, quoted where needed.
        size_bytes: of all copies of all shards with indexes and toast, and of its partitions; None if not asked for.
        size_source: ``exact``, ``estimate`` (part of it was locked), ``none``.
    """

    schema: str
    table: str
    type: str
    distribution_column: str | None
    colocation_id: int | None
    shard_count: int
    replication_model: str
    owner: str
    access_method: str | None
    is_partition: bool
    parent: str | None
    size_bytes: int | None
    size_source: str


_MODELS = {"s": "streaming", "t": "2pc", "c": "statement"}


def _sizes_by_table(
    tables: Mapping[int, CitusTable], placements: Mapping[int, list[CatalogPlacement]], sizes: Sizes
) -> dict[int, Total]:
    """Of each table with all partitions below it."""
    children: dict[int, list[int]] = defaultdict(list)
    for table in tables.values():
        if table.parent is not None:
            children[table.parent].append(table.relid)

    def whole(relid: int) -> list[CatalogPlacement]:
        own = list(placements.get(relid, ()))
        return own + [each for child in children[relid] for each in whole(child)]

    return {relid: sizes.total((each.shardid, each.groupid) for each in whole(relid)) for relid in tables}


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    tables = fetch_tables(session)
    chosen = choose_tables(tables, inputs.schema, inputs.table)
    placements = of_table(fetch_placements(session))
    sizes = fetch_sizes(session) if inputs.include_sizes else None
    totals = _sizes_by_table(tables, placements, sizes) if sizes is not None else {}
    rows = []
    for table in chosen.values():
        if inputs.type not in ("any", table.kind) or (table.is_partition and not inputs.include_partitions):
            continue
        parent = tables.get(table.parent) if table.parent is not None else None
        total = totals.get(table.relid, Total(None, "none"))
        rows.append(
            Row(
                schema=table.schema,
                table=table.name,
                type=table.kind,
                distribution_column=table.column,
                colocation_id=table.colocation_id or None,
                shard_count=len({each.shardid for each in placements.get(table.relid, ())}),
                replication_model=_MODELS.get(table.replication, table.replication),
                owner=table.owner,
                access_method=table.access_method,
                is_partition=table.is_partition,
                parent=parent.label if parent else None,
                size_bytes=total.size_bytes,
                size_source=total.source,
            )
        )
    kinds = Counter(table.kind for table in tables.values())
    return Found(
        rows,
        reason=sizes.reason if sizes else None,
        message=sizes.message if sizes else "",
        facts={"tables_by_type": {kind: kinds.get(kind, 0) for kind in KINDS}},
    )


SOURCES: tuple[Source, ...] = (*TABLE_SOURCES, *SHARD_SOURCES, *SIZE_SOURCES)
INSPECTOR = Inspector(
    name="list_distributed_tables",
    summary="Every table that Citus knows: kind, distribution column, colocation, shards, owner, size on request",
    cost=Cost.SIZES,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("schema", "table"),
    volatile=frozenset(),
    sources=SOURCES,
    look=_look,
)
