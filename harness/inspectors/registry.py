"""Which inspectors there are, and where each lives. One is loaded when it is asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from harness.errors import BadInputError
from harness.inspectors.contract import Inspector

# Name -> module in this package, in the order in which they are shown.
MODULES: MappingProxyType[str, str] = MappingProxyType(
    {
        "list_nodes": "nodes",
        "citus_cluster_summary": "cluster_summary",
        "list_distributed_tables": "distributed_tables",
        "table_inspector": "table",
        "list_shards": "shards",
        "citus_shard_map": "shard_map",
        "shard_heatmap": "heatmap",
        "shard_skew_report": "skew",
        "citus_colocation_inspector": "colocation",
        "citus_schema_overview": "schemas",
        "citus_lock_inspector": "locks",
        "citus_activity": "activity",
        "citus_job_inspector": "jobs",
        "citus_top_statements": "statements",
        "citus_tenant_hotspots": "tenants",
        "citus_pool_inspector": "pool",
        "citus_txn_inspector": "transactions",
        "citus_stats_dashboard": "counters",
        "citus_table_stats": "table_stats",
        "citus_time_partitions_inspector": "time_partitions",
        "citus_placement_integrity": "placement_integrity",
        "citus_drift_inspector": "drift",
        "citus_rebalance_plan": "rebalance_plan",
        "stream_table_inspector": "stream_tables",
        "citus_advisor": "advisor",
        "citus_health_report": "health_report",
    }
)


def names() -> tuple[str, ...]:
    """Every inspector's name, in the order in which they are shown."""
    return tuple(MODULES)


@cache
def get(name: str) -> Inspector[Any, Any]:
    """One inspector.

    Raises:
        BadInputError: there is none of that name.
    """
    if name not in MODULES:
        raise BadInputError(f"there is no inspector {name!r:.80}", hint=f"inspectors are {', '.join(sorted(MODULES))}")
    found = import_module(f"harness.inspectors.{MODULES[name]}").INSPECTOR
    if not isinstance(found, Inspector) or found.name != name:
        raise TypeError(f"harness.inspectors.{MODULES[name]} has no inspector {name}")
    return found


def all_() -> tuple[Inspector[Any, Any], ...]:
    """All of them, loaded."""
    return tuple(get(name) for name in MODULES)
