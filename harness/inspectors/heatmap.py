"""`shard_heatmap`: where the bytes, the rows or the shards are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.inspectors.contract import Cost, Found, Inspector
from harness.inspectors.fan_out import ClusterNode
from harness.inspectors.inputs import choice
from harness.inspectors.placements import SIZE_SOURCES, Measure, Sizes, fetch_sizes
from harness.inspectors.session import Session
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    CatalogPlacement,
    CitusTable,
    OfTables,
    choose_tables,
    fetch_placements,
    fetch_tables,
    node_name,
    primaries,
)

METRICS = ("bytes", "rows_estimate", "shards")
WITHOUT_NODE = "no node"


@dataclass(frozen=True, kw_only=True)
class Inputs(OfTables):
    """What is counted, and by what."""

    metric: str = choice("bytes", METRICS, "what is counted; rows are an estimate by statistics")
    group_by: str = choice("node", ("node", "table", "colocation", "shard"), "what it is summed by")


@dataclass(frozen=True)
class Row:
    """One node, table, colocation group or shard. A partitioned parent has no rows of its own and is left out.

    Attributes:
        key: ``host:port``; ``schema.table``, quoted where needed; the id of a group or a shard; ``none`` for tables
            without a group.
        shards: copies of shards that were counted.
        value: bytes with indexes and toast, rows, or copies; None: of none of them it is known.
        share_pct: of the sum over all keys, 2 decimals; None where that is 0 or unknown.
        max_over_avg: of the copies under this key the largest over the average, 2 decimals; None where all are empty.
        has_reference: whether copies of reference tables are among them: every node has one.
        unknown: copies whose figure is not known: the node is silent, or the table was never analysed.
    """

    key: str
    shards: int
    value: int | None
    share_pct: float | None
    max_over_avg: float | None
    has_reference: bool
    unknown: int


@dataclass
class _Heap:
    values: list[float] = field(default_factory=list)
    copies: int = 0
    has_reference: bool = False


def value_of(metric: str, measure: Measure | None) -> float | None:
    """A copy's figure; None where it is not known."""
    if metric == "shards":
        return 1.0
    if measure is None:
        return None
    return float(measure.size_bytes) if metric == "bytes" else measure.rows


def _key(group_by: str, table: CitusTable, copy: CatalogPlacement, nodes: Mapping[int, ClusterNode]) -> str:
    match group_by:
        case "node":
            return node_name(nodes, copy.groupid) or WITHOUT_NODE
        case "table":
            return table.label
        case "colocation":
            return str(table.colocation_id) if table.colocation_id else "none"
    return str(copy.shardid)


def _rows(heaps: Mapping[str, _Heap]) -> list[Row]:
    whole = sum(sum(heap.values) for heap in heaps.values())
    rows = []
    for key, heap in heaps.items():
        total = sum(heap.values)
        rows.append(
            Row(
                key=key,
                shards=heap.copies,
                value=round(total) if heap.values else None,
                share_pct=round(100 * total / whole, 2) if whole and heap.values else None,
                max_over_avg=round(max(heap.values) * len(heap.values) / total, 2) if total else None,
                has_reference=heap.has_reference,
                unknown=heap.copies - len(heap.values),
            )
        )
    return rows


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    chosen = choose_tables(fetch_tables(session), inputs.schema, inputs.table)
    tables = {relid: each for relid, each in chosen.items() if each.relkind != "p"}
    placements = [each for each in fetch_placements(session, list(tables)) if each.groupid is not None]
    nodes = primaries(session)
    sizes = Sizes() if inputs.metric == "shards" else fetch_sizes(session, {each.shardid for each in placements})
    heaps: dict[str, _Heap] = defaultdict(_Heap)
    if inputs.group_by == "node":
        for node in nodes.values():
            heaps[node.name] = _Heap()
    for each in placements:
        table = tables[each.relid]
        heap = heaps[_key(inputs.group_by, table, each, nodes)]
        value = value_of(inputs.metric, sizes.of(each.shardid, each.groupid))
        heap.copies += 1
        heap.has_reference = heap.has_reference or table.kind == "reference"
        if value is not None:
            heap.values.append(value)
    return Found(_rows(heaps), sizes.reason, sizes.message, facts={"metric": inputs.metric})


INSPECTOR = Inspector(
    name="shard_heatmap",
    summary="Where the bytes, rows or shards are: by node, table, colocation group or shard, the largest first",
    cost=Cost.SIZES,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("-value", "key"),
    volatile=frozenset(),
    sources=(*TABLE_SOURCES, *SHARD_SOURCES, *SIZE_SOURCES),
    look=_look,
)
