"""`citus_drift_inspector`: what differs between nodes that should be the same: versions, extensions, settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.inspectors.cluster_summary import NodeValue
from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity, Source
from harness.inspectors.fan_out import Gathered
from harness.inspectors.inputs import Listing, flag
from harness.inspectors.session import Session

# What is compared, by what a difference means. must: results or Citus itself go wrong. should: one node behaves
# otherwise than the rest. may: workers and coordinator often differ on purpose. No secret is among them.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "must": (
        "bytea_output",
        "citus.cluster_name",
        "citus.local_hostname",
        "default_text_search_config",
        "IntervalStyle",
        "integer_datetimes",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "max_prepared_transactions",
        "server_encoding",
        "shared_preload_libraries",
        "standard_conforming_strings",
        "TimeZone",
        "wal_level",
    ),
    "should": (
        "citus.defer_shard_delete_interval",
        "citus.distributed_deadlock_detection_factor",
        "citus.enable_binary_protocol",
        "citus.enable_schema_based_sharding",
        "citus.enable_stat_counters",
        "citus.max_adaptive_executor_pool_size",
        "citus.max_client_connections",
        "citus.max_shared_pool_size",
        "citus.node_connection_timeout",
        "citus.propagate_set_commands",
        "citus.recover_2pc_interval",
        "citus.shard_count",
        "citus.shard_replication_factor",
        "citus.stat_statements_track",
        "citus.stat_tenants_track",
        "citus.use_secondary_nodes",
        "autovacuum",
        "deadlock_timeout",
        "default_transaction_isolation",
        "fsync",
        "full_page_writes",
        "hot_standby_feedback",
        "idle_in_transaction_session_timeout",
        "max_logical_replication_workers",
        "max_replication_slots",
        "max_wal_senders",
        "max_worker_processes",
        "synchronous_commit",
        "wal_compression",
    ),
    "may": (
        "effective_cache_size",
        "jit",
        "maintenance_work_mem",
        "max_connections",
        "max_parallel_workers",
        "max_wal_size",
        "random_page_cost",
        "shared_buffers",
        "work_mem",
    ),
}
# reset_val: what a session starts with, not what this one made of it. Timeouts are left out, since the inspector's role
# has its own everywhere. A setting that the role may not see is missing from pg_settings; so is one that the library
# does not know, which is told apart by the right.
_ASK: LiteralString = """
    SELECT pg_catalog.json_build_array(pg_catalog.json_build_object(
        'sees_all', pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE'),
        'server', (SELECT pg_catalog.json_build_object(
                'postgresql', pg_catalog.current_setting('server_version'),
                'citus', pg_catalog.current_setting('citus.version', true),
                'encoding', pg_catalog.pg_encoding_to_char(d.encoding),
                'collate', d.datcollate,
                'ctype', d.datctype,
                'collation_version', pg_catalog.pg_database_collation_actual_version(d.oid))
              FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()),
        'extension', (SELECT pg_catalog.json_object_agg(e.extname, e.extversion) FROM pg_catalog.pg_extension e),
        'setting', (SELECT pg_catalog.json_object_agg(s.name, s.reset_val) FROM pg_catalog.pg_settings s
                     WHERE s.name = ANY ({names}::text[]))))
"""
_HIDDEN = frozenset({"citus.max_shared_pool_size", "shared_preload_libraries"})


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """What is shown."""

    only_drifted: bool = flag(True, "only what differs; without, all that was compared")


@dataclass(frozen=True)
class Row:
    """One version or setting.

    Attributes:
        kind: ``extension``, ``server`` or ``setting``.
        category: ``must`` (results or Citus itself go wrong if it differs), ``should`` (one node behaves otherwise) or
            ``may`` (often different on purpose).
        drifted: whether the nodes that answered have different values, or some have none; None: it is hidden.
        values: by node id; None where the node has none, or the role may not see it.
    """

    kind: str
    name: str
    category: str
    drifted: bool | None
    values: tuple[NodeValue, ...]


def _rows(gathered: Gathered, hidden: frozenset[str]) -> list[Row]:
    names: dict[tuple[str, str], str] = {("setting", name): which for which, all_ in _SETTINGS.items() for name in all_}
    for _, answer in gathered.rows:
        names |= {("server", name): "must" for name in answer["server"]}
        names |= {("extension", name): "must" for name in answer["extension"]}
    rows = []
    for (kind, name), category in names.items():
        values = tuple(
            NodeValue(node.nodeid, node.name, (answer[kind] or {}).get(name)) for node, answer in gathered.rows
        )
        is_hidden = kind == "setting" and name in hidden
        drifted = None if is_hidden else len({each.value for each in values}) > 1
        rows.append(Row(kind, name, category, drifted, values))
    return rows


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    names = [name for all_ in _SETTINGS.values() for name in all_]
    gathered = session.on_all_nodes(sql.SQL(_ASK).format(names=sql.Literal(names)))
    hidden = frozenset() if all(answer["sees_all"] for _, answer in gathered.rows) else _HIDDEN
    rows = _rows(gathered, hidden)
    facts = {"compared": len(rows), "drifted": sum(bool(row.drifted) for row in rows)}
    if inputs.only_drifted:
        rows = [row for row in rows if row.drifted]
    if not hidden:
        return Found(rows, facts=facts)
    message = f"{', '.join(sorted(hidden))}: pg_read_all_settings may see them (pg_monitor has it)"
    return Found(rows, Reason.INSUFFICIENT_PRIVILEGE, message, facts=facts)


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    return [
        Finding(
            rule="guc_drift" if row.kind == "setting" else "version_mismatch",
            severity=Severity.WARNING if row.kind == "setting" else Severity.ERROR,
            scope=row.kind,
            target=row.name,
            title="nodes do not have the same value",
            evidence=", ".join(f"{each.node}: {each.value}" for each in row.values),
            suggestion="make them the same, on all nodes",
        )
        for row in envelope.rows
        if row.drifted and row.category != "may"
    ]


INSPECTOR = Inspector(
    name="citus_drift_inspector",
    summary="What differs between nodes: versions, extensions, settings that should be the same",
    cost=Cost.FAN_OUT,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    ordering=("kind", "name"),
    volatile=frozenset(),
    sources=(
        Source("pg_settings", (("name", "text"), ("reset_val", "text"))),
        Source("pg_extension", (("extname", "name"), ("extversion", "text"))),
        Source(
            "pg_database",
            (
                ("oid", "oid"),
                ("datname", "name"),
                ("encoding", "integer"),
                ("datcollate", "text"),
                ("datctype", "text"),
            ),
        ),
        Source("citus.version", kind="setting"),
        *(Source(name, kind="setting") for all_ in _SETTINGS.values() for name in all_),
    ),
    look=_look,
    severity=_severity,
)
