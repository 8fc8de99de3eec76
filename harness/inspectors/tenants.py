"""`citus_tenant_hotspots`: which tenants the cluster works for, summed over the nodes that they are on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity, Source, Unavailable
from harness.inspectors.fan_out import ClusterNode, Gathered
from harness.inspectors.inputs import Listing, choice, flag, integer
from harness.inspectors.session import Session

_ALLOWED: LiteralString = """
    SELECT pg_catalog.has_function_privilege('pg_catalog.citus_stat_tenants_local(boolean)', 'EXECUTE')
"""
# One element a node, so that a node that counts nothing says whether it counts at all.
_QUERY = sql.SQL("""
    SELECT pg_catalog.json_build_array(pg_catalog.json_build_object(
        'track', pg_catalog.current_setting('citus.stat_tenants_track'),
        'period_s', pg_catalog.current_setting('citus.stat_tenants_period'),
        'limit', pg_catalog.current_setting('citus.stat_tenants_limit'),
        'tenants', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'colocation_id', t.colocation_id, 'tenant', t.tenant_attribute,
                'reads', t.read_count_in_this_period, 'reads_before', t.read_count_in_last_period,
                'queries', t.query_count_in_this_period, 'queries_before', t.query_count_in_last_period,
                'cpu', t.cpu_usage_in_this_period, 'cpu_before', t.cpu_usage_in_last_period))
            FROM pg_catalog.citus_stat_tenants_local(true) t
            WHERE t.query_count_in_this_period + t.query_count_in_last_period > 0)))
""")
_COUNTS = ("reads", "reads_before", "queries", "queries_before", "cpu", "cpu_before")
# One tenant is hot where it has most of the work, there are others, and it is work worth the name.
HOT_PCT, HOT_QUERIES = 50.0, 1_000
_WHY_KEY = "tenants are not named: set HARNESS_INSPECT_KEY for their hashes, or reveal_tenants for their names"


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which tenants, and how they are called."""

    min_queries: int = integer(1, 1, 2_000_000_000, "leave out tenants with fewer queries in both periods together")
    order_by: str = choice("queries", ("queries", "cpu", "reads"), "what makes a tenant hot")
    reveal_tenants: bool = flag(False, "show the tenants' own names, which are data, and not their hashes")


@dataclass(frozen=True)
class Row:
    """A tenant: a value of a distribution column, or a schema that is one.

    Attributes:
        rank: by ``order_by``, in this period and the one before together; 1 is the hottest.
        colocation_id: of its tables.
        tenant: a hash that only our key can make, or its name where that was asked for; None without either.
        nodes: where its queries ran; two after a shard was moved.
        reads, queries, cpu_s: in this period; reads are SELECTs, queries are reads and writes, CPU is in seconds.
        reads_before, queries_before, cpu_before_s: in the last one.
        share_pct: its share of what all tenants have of ``order_by``, in both periods.
    """

    rank: int
    colocation_id: int
    tenant: str | None
    nodes: tuple[str, ...]
    reads: int
    reads_before: int
    queries: int
    queries_before: int
    cpu_s: float
    cpu_before_s: float
    share_pct: float


def _sums(gathered: Gathered) -> dict[tuple[int, str], tuple[list[str], dict[str, float]]]:
    found: dict[tuple[int, str], tuple[list[str], dict[str, float]]] = {}
    for node, answer in gathered.rows:
        for each in answer["tenants"] or ():
            key = (int(each["colocation_id"]), str(each["tenant"]))
            nodes, counts = found.setdefault(key, ([], defaultdict(float)))
            nodes.append(node.name)
            for name in _COUNTS:
                counts[name] += each[name]
    return found


def _tracking(gathered: Gathered) -> Mapping[str, str]:
    return {node.name: str(answer["track"]) for node, answer in gathered.rows}


def _require_tracking(gathered: Gathered) -> tuple[Reason | None, str]:
    """What is missing where tracking is off; both the coordinator and the worker with the shard have to count.

    Raises:
        Unavailable: nothing can have been counted anywhere.
    """
    off = [node for node, answer in gathered.rows if answer["track"] == "none"]
    if not off:
        return None, ""

    def advice(nodes: list[ClusterNode]) -> str:
        where = ", ".join(node.name for node in nodes)
        return f"citus.stat_tenants_track is none on {where}: a superuser sets it to all there, and reloads"

    counting = [node for node, _ in gathered.rows if node not in off]
    if not counting or not any(answer["tenants"] for _, answer in gathered.rows):
        raise Unavailable(Reason.GUC_OFF, f"no tenants are counted; {advice(off)}")
    return Reason.GUC_OFF, advice(off)


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    if not session.rows(_ALLOWED)[0][0]:
        raise Unavailable(
            Reason.INSUFFICIENT_PRIVILEGE, "citus_stat_tenants_local() is for pg_monitor: grant it to this role"
        )
    gathered = session.on_all_nodes(_QUERY)
    if not gathered.rows:
        raise Unavailable(Reason.NODE_UNREACHABLE, "no node answered")
    reason, message = _require_tracking(gathered)
    sums = _sums(gathered)

    def heat(counts: Mapping[str, Any]) -> float:
        return float(counts[inputs.order_by] + counts[f"{inputs.order_by}_before"])

    total = sum(heat(counts) for _, counts in sums.values())
    ranked = sorted(sums.items(), key=lambda item: (-heat(item[1][1]), item[0][0], item[0][1].encode()))
    rows = []
    for at, ((colocation_id, tenant), (nodes, counts)) in enumerate(ranked, 1):
        if counts["queries"] + counts["queries_before"] < inputs.min_queries:
            continue
        rows.append(
            Row(
                rank=at,
                colocation_id=colocation_id,
                tenant=session.redactor.tenant(tenant, colocation_id=colocation_id, is_revealed=inputs.reveal_tenants),
                nodes=tuple(nodes),
                reads=int(counts["reads"]),
                reads_before=int(counts["reads_before"]),
                queries=int(counts["queries"]),
                queries_before=int(counts["queries_before"]),
                cpu_s=round(counts["cpu"], 6),
                cpu_before_s=round(counts["cpu_before"], 6),
                share_pct=round(100 * heat(counts) / total, 1) if total else 0.0,
            )
        )
    unnamed = any(row.tenant is None for row in rows)
    return Found(
        rows,
        reason=reason,
        message=message,
        warnings=(_WHY_KEY,) if unnamed else (),
        facts={
            "tracking": _tracking(gathered),
            "period_s": {node.name: int(answer["period_s"]) for node, answer in gathered.rows},
            "most_tenants": {node.name: int(answer["limit"]) for node, answer in gathered.rows},
            "tenants": len(sums),
        },
    )


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    return [
        Finding(
            "tenant_hot",
            Severity.WARNING,
            "tenant",
            f"{row.tenant or 'a tenant'} of colocation group {row.colocation_id}",
            "one tenant has most of the work",
            f"{row.share_pct:.0f} % of {envelope.facts['tenants']} tenants' work",
            "give it a node of its own: isolate_tenant_to_new_shard(), then move that shard",
        )
        for row in envelope.rows
        if row.share_pct >= HOT_PCT and row.queries + row.queries_before >= HOT_QUERIES
        if envelope.facts["tenants"] > 1
    ]


INSPECTOR = Inspector(
    name="citus_tenant_hotspots",
    summary="Which tenants the cluster works for: reads, queries and CPU, with each one's share",
    cost=Cost.FAN_OUT,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    # The rank is by the metric and then by group and name; of tenants without a name it is all there is.
    ordering=("rank",),
    volatile=frozenset(
        {"reads", "reads_before", "queries", "queries_before", "cpu_s", "cpu_before_s", "share_pct", "rank"}
    ),
    sources=(
        Source(
            "citus_stat_tenants_local",
            (
                ("colocation_id", "integer"),
                ("tenant_attribute", "text"),
                ("read_count_in_this_period", "integer"),
                ("read_count_in_last_period", "integer"),
                ("query_count_in_this_period", "integer"),
                ("query_count_in_last_period", "integer"),
                ("cpu_usage_in_this_period", "double precision"),
                ("cpu_usage_in_last_period", "double precision"),
            ),
            "function",
            note="of this node; pg_monitor",
        ),
        Source("citus.stat_tenants_track", kind="setting"),
        Source("citus.stat_tenants_period", kind="setting"),
        Source("citus.stat_tenants_limit", kind="setting"),
    ),
    look=_look,
    severity=_severity,
)
