"""`shard_skew_report`: how unevenly nodes, tables and colocation groups are filled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import BadInputError
from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Severity
from harness.inspectors.heatmap import METRICS, value_of
from harness.inspectors.inputs import choice, integer, number
from harness.inspectors.placements import SIZE_SOURCES, Sizes, fetch_sizes
from harness.inspectors.session import Session
from harness.inspectors.shard_map import rank
from harness.inspectors.tables import (
    SHARD_SOURCES,
    TABLE_SOURCES,
    CitusTable,
    OfTables,
    choose_tables,
    fetch_placements,
    fetch_tables,
    of_table,
    primaries,
)

_SCOPES = ("node", "table", "shard_group")


@dataclass(frozen=True, kw_only=True)
class Inputs(OfTables):
    """What is compared, and from where on it is called skew."""

    metric: str = choice("bytes", METRICS, "what is compared; rows are an estimate by statistics")
    warn_ratio: float = number(2.0, 1.0, 1000.0, "max over average from which the verdict is warn")
    crit_ratio: float = number(5.0, 1.0, 1000.0, "max over average from which the verdict is critical")
    min_bytes: int = integer(1024 * 1024, 0, 2**50, "whose largest part is smaller is not judged: verdict small")
    min_rows: int = integer(1000, 0, 2**50, "the same for rows_estimate")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        scope: ``node``: all data nodes with each other, by what of distributed tables they hold. ``table``: the shards
            of one table, a partitioned one with all its partitions. ``shard_group``: the shard groups of one
            colocation group with each other, each the sum of its tables' shards; never shards of different tables.
        key: ``cluster``; ``schema.table``, quoted where needed; the colocation id.
        n: how many parts were compared; parts that are empty count with 0.
        max, avg, min: of the parts, in bytes, rows or shards; None: a part is not known.
        max_over_avg: 2 decimals; None where all are empty, or a part is not known.
        verdict: ``ok``, ``warn``, ``critical``; or why it is not judged: ``single_data_node`` (fewer than two),
            ``empty``, ``small``, ``unknown`` (a node is silent, or a table was never analysed).
        hottest: the largest part: ``host:port``, or the id of the shard; of a shard group, of its first table by name.
    """

    scope: str
    scope_order: int
    key: str
    n: int
    max: int | None
    avg: float | None
    min: int | None
    max_over_avg: float | None
    verdict: str
    hottest: str | None


@dataclass(frozen=True)
class _Part:
    name: str
    value: float | None


def _verdict(inputs: Inputs, scope: str, parts: Sequence[_Part], largest: float, ratio: float | None) -> str:
    if scope == "node" and len(parts) < 2:
        return "single_data_node"
    if ratio is None:
        return "empty"
    least = {"bytes": inputs.min_bytes, "rows_estimate": inputs.min_rows}.get(inputs.metric, 0)
    if largest < least:
        return "small"
    if ratio >= inputs.crit_ratio:
        return "critical"
    return "warn" if ratio >= inputs.warn_ratio else "ok"


def _compare(inputs: Inputs, scope: str, key: str, parts: Sequence[_Part]) -> Row:
    known = [each.value for each in parts if each.value is not None]
    order = _SCOPES.index(scope)
    if len(known) < len(parts):
        return Row(scope, order, key, len(parts), None, None, None, None, "unknown", None)
    if not known:
        return Row(scope, order, key, 0, None, None, None, None, _verdict(inputs, scope, parts, 0, None), None)
    largest, average = max(known), sum(known) / len(known)
    ratio = round(largest / average, 2) if average else None
    return Row(
        scope=scope,
        scope_order=order,
        key=key,
        n=len(parts),
        max=round(largest),
        avg=round(average, 2),
        min=round(min(known)),
        max_over_avg=ratio,
        verdict=_verdict(inputs, scope, parts, largest, ratio),
        hottest=next(each.name for each in parts if each.value == largest) if largest else None,
    )


@dataclass(frozen=True)
class _Shard:
    """One copy of a shard of a table with rows."""

    table: CitusTable
    root: CitusTable
    at: int
    shardid: int
    groupid: int | None
    value: float | None


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else float(sum(each for each in found if each is not None))


def _by_rank(shards: Sequence[_Shard]) -> list[_Part]:
    """Shards of one table, or of one colocation group, summed by their range; named by the first of each."""
    groups: dict[int, list[_Shard]] = defaultdict(list)
    for shard in shards:
        groups[shard.at].append(shard)
    parts = []
    for at in sorted(groups):
        first = min(groups[at], key=lambda each: (each.table.key, each.shardid))
        parts.append(_Part(str(first.shardid), _sum(each.value for each in groups[at])))
    return parts


def _root(table: CitusTable, tables: Mapping[int, CitusTable]) -> CitusTable:
    while table.parent is not None and table.parent in tables:
        table = tables[table.parent]
    return table


def _shards(
    session: Session, inputs: Inputs, tables: Mapping[int, CitusTable], chosen: Mapping[int, CitusTable]
) -> tuple[list[_Shard], Sizes]:
    """Copies of shards of these tables and of partitions of them; not of reference tables, which are equal anywhere."""
    wanted = {
        relid: table
        for relid, table in tables.items()
        if table.kind in ("distributed", "single_shard", "schema")
        and table.relkind != "p"
        and (relid in chosen or _root(table, tables).relid in chosen)
    }
    placements = of_table(fetch_placements(session, list(wanted)))
    ids = {each.shardid for found in placements.values() for each in found}
    sizes = Sizes() if inputs.metric == "shards" else fetch_sizes(session, ids)
    shards = [
        _Shard(
            wanted[relid],
            _root(wanted[relid], tables),
            at,
            each.shardid,
            each.groupid,
            value_of(inputs.metric, sizes.of(each.shardid, each.groupid)),
        )
        for relid, found in placements.items()
        for at, each in rank(found)
    ]
    return shards, sizes


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    if inputs.crit_ratio < inputs.warn_ratio:
        raise BadInputError(f"crit_ratio={inputs.crit_ratio} is below warn_ratio={inputs.warn_ratio}")
    tables = fetch_tables(session)
    chosen = choose_tables(tables, inputs.schema, inputs.table)
    shards, sizes = _shards(session, inputs, tables, chosen)
    nodes = primaries(session)
    data_nodes = [node for node in nodes.values() if node.should_have_shards and node.is_active]
    by_node: dict[int | None, list[float | None]] = defaultdict(list)
    by_table: dict[CitusTable, list[_Shard]] = defaultdict(list)
    by_group: dict[int, list[_Shard]] = defaultdict(list)
    for shard in shards:
        by_node[shard.groupid].append(shard.value)
        if shard.table.kind == "distributed":
            by_table[shard.root].append(shard)
            by_group[shard.table.colocation_id].append(shard)
    rows = [_compare(inputs, "node", "cluster", [_Part(node.name, _sum(by_node[node.groupid])) for node in data_nodes])]
    rows += [_compare(inputs, "table", table.label, _by_rank(found)) for table, found in by_table.items()]
    rows += [_compare(inputs, "shard_group", str(each), _by_rank(found)) for each, found in by_group.items() if each]
    return Found(rows, sizes.reason, sizes.message, facts={"metric": inputs.metric})


_RULES = {"node": "node_skew", "table": "table_skew", "shard_group": "shard_group_skew"}


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    return [
        Finding(
            rule=_RULES[row.scope],
            severity=Severity.WARNING if row.verdict == "critical" else Severity.INFO,
            scope=row.scope,
            target=row.key,
            title=f"the fullest of {row.n} has {row.max_over_avg} times the average",
            evidence=f"max {row.max}, average {row.avg} ({envelope.facts.get('metric', '')}), at {row.hottest}",
            suggestion="see which tenant fills it (citus_tenant_hotspots); isolate_tenant_to_new_shard, or split it"
            if row.scope != "node"
            else "see what rebalancing would move: citus_rebalance_plan",
        )
        for row in envelope.rows
        if row.verdict in ("warn", "critical")
    ]


INSPECTOR = Inspector(
    name="shard_skew_report",
    summary="How unevenly data nodes, tables and colocation groups are filled, with a verdict on each",
    cost=Cost.SIZES,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("scope_order", "-max_over_avg", "key"),
    volatile=frozenset(),
    sources=(*TABLE_SOURCES, *SHARD_SOURCES, *SIZE_SOURCES),
    look=_look,
    severity=_severity,
)
