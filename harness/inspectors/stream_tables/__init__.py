"""`stream_table_inspector`: how each stream table of this project is, and what its capture keeps on which node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity, Source
from harness.inspectors.inputs import Listing, flag, identifier, integer
from harness.inspectors.live import ACTIVITY, CLASSES, DATABASES, PREPARED, SCHEMAS, statement_mode
from harness.inspectors.session import Session
from harness.inspectors.stream_tables.assembly import assemble
from harness.inspectors.stream_tables.model import Row
from harness.inspectors.stream_tables.question import MOST_ROWS, NodeAnswer, ask
from harness.inspectors.stream_tables.records import Records, fetch_records
from harness.trickle.repair.findings import COORDINATOR
from harness.trickle.repair.findings import Finding as Damage
from harness.trickle.repair.look import Kept, compare, findings_of, read_kept

# A lease is renewed three times before it runs out: who lets one run out is gone or frozen.
_OLD_HOLDER_S = 300
_MOST_DAMAGES = 50
_NEEDED: LiteralString = "GRANT EXECUTE ON FUNCTION pgtrickle.capture_problems(oid) is the owner's: what capture lacks"


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which stream tables, and how much of each."""

    schema: str | None = identifier(None, "only stream tables of this schema")
    table: str | None = identifier(None, "only the stream table of this name, as the catalog spells it")
    include_shards: bool = flag(True, "the buffers and triggers of each source shard by shard")
    refreshes: int = integer(3, 0, 50, "how many of the last refreshes")
    statements: str = statement_mode()


def _damages(session: Session, answers: Sequence[NodeAnswer]) -> tuple[list[Damage], str]:
    """What `harness st repair --check` would say, of what the nodes have said already; or why it cannot be told."""
    nodes: dict[str, Kept | None] = {node.name: None for node in session.nodes if not node.is_coordinator}
    for each in answers:
        nodes[COORDINATOR if each.node.is_coordinator else each.node.name] = read_kept(each.kept)
    if nodes.get(COORDINATOR) is None:
        return [], "the coordinator did not answer itself"
    silent = {each.node: each.reason for each in session.failed.values()}
    try:
        with session.connection.transaction():
            found = compare(session.connection, nodes, silent | {name: silent.get(name, "") for name in nodes})
    except psycopg.errors.InsufficientPrivilege:
        return [], f"{_NEEDED} is not looked at"
    return list(findings_of(found)), ""


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    records = fetch_records(session, refreshes=inputs.refreshes)
    answers = ask(session, records)
    damages, why_not = _damages(session, answers)
    rows = [
        row
        for row in assemble(session, records, answers, damages, inputs.statements, with_shards=inputs.include_shards)
        if inputs.schema in {None, row.schema} and inputs.table in {None, row.table}
    ]
    listed = [str(each) for each in damages if each.code != "node_down"]
    guessed = any(row.pending_source == "estimate" for row in rows)
    missing = [why_not] if why_not else []
    if guessed:
        missing.append("captured rows are estimated: counting them needs SELECT (xid, seq_id) on pgtrickle_changes")
    silent = bool(session.failed)
    return Found(
        rows,
        # Where a node is silent the envelope says so by itself.
        reason=Reason.INSUFFICIENT_PRIVILEGE if missing and not silent else None,
        message="; ".join(missing) if not silent else "",
        warnings=tuple(missing) if silent else (),
        facts=_facts(records, rows, listed),
    )


def _facts(records: Records, rows: Sequence[Row], damages: list[str]) -> dict[str, object]:
    return {
        "stream_tables": len(records.tables),
        "captured_sources": len({each.relid for each in records.sources if each.is_tracked}),
        "buffer_bytes": sum({each.stable_name: each.bytes for row in rows for each in row.sources}.values()),
        "counted_up_to": MOST_ROWS,
        "repair_count": len(damages),
        "repair": damages[:_MOST_DAMAGES],
    }


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    found = []
    for row in envelope.rows:
        name = f"{row.schema}.{row.table}"
        if row.status == "ERROR":
            found.append(
                Finding(
                    "stream_table_error",
                    Severity.ERROR,
                    "table",
                    name,
                    "its refreshes fail",
                    f"{row.consecutive_errors} in a row: {row.suspended_reason or 'see its history'}",
                    "mend the cause, then harness st resume",
                )
            )
        elif row.consecutive_errors:
            found.append(
                Finding(
                    "stream_table_failed",
                    Severity.WARNING,
                    "table",
                    name,
                    "its last refresh failed",
                    f"{row.consecutive_errors} in a row",
                    "see its refreshes here",
                )
            )
        if row.repair:
            found.append(
                Finding(
                    "stream_table_repair",
                    Severity.ERROR,
                    "table",
                    name,
                    "its changes may be missed",
                    row.repair[0],
                    "harness st repair",
                )
            )
        if row.lease is not None and row.lease.is_stale:
            found.append(
                Finding(
                    "stream_table_stale_lease",
                    Severity.INFO,
                    "table",
                    name,
                    "its lease is of nobody any more; the next refresh takes it over",
                    row.lease.holder,
                )
            )
        found += [
            Finding(
                "stream_table_held",
                Severity.WARNING,
                "table",
                name,
                f"a transaction on {held.node} keeps what it captured from being taken",
                f"open for {held.age_s // 60} min",
                "end that transaction",
            )
            for held in row.held_by
            if held.age_s >= _OLD_HOLDER_S
        ]
    return found


def _catalog(relation: str, *columns: tuple[str, str]) -> Source:
    return Source(relation, columns, schema="pgtrickle", note="made by this project's migrations")


INSPECTOR = Inspector(
    name="stream_table_inspector",
    summary="Stream tables: placement, lag, buffers and triggers by shard, lease, who holds them, what needs repair",
    cost=Cost.FAN_OUT,
    least_role="the owner of schema pgtrickle; SELECT on its tables for all but the counts and what needs repair",
    inputs=Inputs,
    row=Row,
    ordering=("schema", "table"),
    volatile=frozenset({"lag_s", "nodes", "held_by", "lease"}),
    sources=(
        _catalog(
            "pgt_stream_tables",
            ("pgt_id", "bigint"),
            ("pgt_relid", "oid"),
            ("pgt_schema", "text"),
            ("pgt_name", "text"),
            ("st_placement", "text"),
            ("refresh_mode", "text"),
            ("status", "text"),
            ("schedule", "text"),
            ("is_populated", "boolean"),
            ("needs_reinit", "boolean"),
            ("reinit_reason", "text"),
            ("suspended_reason", "text"),
            ("consecutive_errors", "integer"),
            ("last_refresh_at", "timestamp with time zone"),
            ("data_timestamp", "timestamp with time zone"),
            ("frontier", "jsonb"),
            ("drop_requested_at", "timestamp with time zone"),
        ),
        _catalog(
            "pgt_dependencies",
            ("pgt_id", "bigint"),
            ("source_relid", "oid"),
            ("source_stable_name", "text"),
            ("source_placement", "text"),
            ("is_captured", "boolean"),
        ),
        _catalog("pgt_change_tracking", ("source_relid", "oid"), ("source_stable_name", "text")),
        _catalog(
            "st_locks",
            ("pgt_id", "bigint"),
            ("holder", "text"),
            ("locked_by", "integer"),
            ("locked_at", "timestamp with time zone"),
            ("deadline", "timestamp with time zone"),
            ("fencing_token", "bigint"),
        ),
        _catalog(
            "pgt_refresh_history",
            ("refresh_id", "bigint"),
            ("pgt_id", "bigint"),
            ("data_timestamp", "timestamp with time zone"),
            ("start_time", "timestamp with time zone"),
            ("end_time", "timestamp with time zone"),
            ("action", "text"),
            ("status", "text"),
            ("reason", "text"),
            ("rows_inserted", "bigint"),
            ("rows_deleted", "bigint"),
            ("delta_row_count", "bigint"),
            ("error_message", "text"),
            ("initiated_by", "text"),
        ),
        _catalog("alembic_version", ("version_num", "character varying")),
        ACTIVITY,
        PREPARED,
        CLASSES,
        SCHEMAS,
        DATABASES,
        Source("pg_proc", (("oid", "oid"), ("proname", "name"), ("pronamespace", "oid"), ("prosrc", "text"))),
        Source(
            "pg_trigger",
            (
                ("tgrelid", "oid"),
                ("tgparentid", "oid"),
                ("tgname", "name"),
                ("tgfoid", "oid"),
                ("tgenabled", '"char"'),
            ),
        ),
        Source("pg_publication", (("pubname", "name"),)),
        Source(
            "pg_locks",
            (
                ("locktype", "text"),
                ("database", "oid"),
                ("relation", "oid"),
                ("classid", "oid"),
                ("objid", "oid"),
                ("objsubid", "smallint"),
                ("pid", "integer"),
                ("mode", "text"),
                ("granted", "boolean"),
            ),
        ),
        Source("pg_dist_local_group", (("groupid", "integer"),)),
        Source("pg_dist_shard_placement", (("shardid", "bigint"), ("nodename", "text"), ("nodeport", "integer"))),
        Source("pg_dist_placement", (("shardid", "bigint"), ("groupid", "integer"))),
        Source("pg_dist_shard", (("logicalrelid", "regclass"), ("shardid", "bigint"), ("shardminvalue", "text"))),
        Source("pg_dist_partition", (("logicalrelid", "regclass"), ("partkey", "text"))),
        Source("column_to_column_name", (("returns", "text"),), "function"),
        Source("ts_stat", (("ndoc", "integer"),), "function", note="runs a query that is put together on the node"),
    ),
    look=_look,
    severity=_severity,
    needs_citus=False,
)
