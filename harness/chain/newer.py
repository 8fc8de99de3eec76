"""Newer catalogs of the extension (0.66, 0.67): what can be taken over from them, and what is refused by name.

They hold more than 0.2's and capture otherwise: stable names, statement triggers, buffers without the key's hash. What
is taken is what a stream table *is* (name, query, schedule, mode, storage, readers); it is rebuilt from its sources at
its first refresh, so no captured row has to be understood and none can be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from harness.chain import immediate, obstacles
from harness.chain.connection import Connection
from harness.chain.runner import migrations_path
from harness.errors import Finding, PreflightError

#: Seen, and read from their own install scripts; the column lists of the two are equal.
TAKEN_VERSIONS = ("0.66.0", "0.67.0")

# What a stream table has and the chain's catalog has no place for: dropping it silently would change what it means.
# A condition on pgt_stream_tables t, and what it is called.
_MEANS_MORE = (
    ("t.topk_offset IS NOT NULL", "topk_offset: the rows after the first few"),
    ("t.st_placement <> 'local'", "st_placement: storage on other nodes"),
    ("t.temporal_mode", "temporal_mode: it keeps former rows"),
    ("t.storage_backend <> 'heap'", "storage_backend: another access method"),
    ("t.st_partition_key IS NOT NULL", "st_partition_key: partitioned storage"),
    ("t.scc_id IS NOT NULL", "scc_id: it reads itself, through others"),
    ("t.downstream_publication_name IS NOT NULL", "downstream_publication_name: subscribers read it"),
    ("t.refresh_tier = 'frozen'", "refresh_tier frozen: it is never refreshed"),
    ("t.fuse_mode <> 'off'", "fuse_mode: it stops at too many changes"),
    ("t.post_refresh_action <> 'none'", "post_refresh_action: something runs after each refresh"),
    ("coalesce(t.ducklake_sink_mode, t.ducklake_sink_path, t.ducklake_compaction_policy) IS NOT NULL", "ducklake"),
)
# What only says how fast or how often: it is told, and gone.
_TUNING = (
    ("t.is_append_only", "append_only"),
    ("t.refresh_tier <> 'hot'", "refresh_tier"),
    ("t.pooler_compatibility_mode", "pooler_compatibility_mode"),
    ("t.max_differential_joins IS NOT NULL", "max_differential_joins"),
    ("t.max_delta_fraction IS NOT NULL", "max_delta_fraction"),
    ("t.freshness_deadline_ms IS NOT NULL", "freshness_deadline_ms"),
    ("t.requested_cdc_mode IS DISTINCT FROM NULL AND t.requested_cdc_mode <> 'trigger'", "requested_cdc_mode"),
)
# Tables whose rows are somebody's arrangements; the chain has none of the kind.
_ARRANGEMENTS = (
    ("pgt_refresh_groups", "group_name"),
    ("pgt_source_gates", "source_relid::regclass::text"),
    ("pgt_watermarks", "source_relid::regclass::text"),
    ("pgt_watermark_groups", "group_name"),
    ("pgt_worker_slots", "slot_name"),
    ("pgt_outbox_config", "stream_table_name"),
    ("pgt_distance_subscriptions", "stream_table || ' ' || channel"),
    ("pgt_ducklake_provenance", "stream_table_name"),
)
# What its other tables hold is carried, or worth nothing without it. An installation that was updated from an older
# version has more of them, such as pgt_subscriptions and pgt_snapshots (0.30 and before), which work there.
_WITHOUT_LOSS = (
    "pgt_stream_tables",
    "pgt_dependencies",
    "pgt_refresh_history",
    "pgt_change_tracking",
    "pgt_scheduler_jobs",
    "pgt_schema_version",
    "pgt_st_locks",
    "pgt_template_cache",
)
_OTHER_MEMBERS = """
SELECT c.relname FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'p')
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = %s
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
AND c.relnamespace = to_regnamespace('pgtrickle') AND NOT c.relname = ANY (%s) ORDER BY 1
"""
_CARRIED = {
    "pgt_stream_tables": (
        "pgt_id, pgt_relid, pgt_name, pgt_schema, defining_query, original_query, schedule, refresh_mode, status,"
        " is_populated, data_timestamp, last_refresh_at, consecutive_errors, auto_threshold, last_full_ms,"
        " functions_used, topk_limit, topk_order_by, diamond_consistency, diamond_schedule_policy, created_at,"
        " updated_at"
    ),
    "pgt_dependencies": "pgt_id, source_relid, source_type, columns_used, column_snapshot, schema_fingerprint",
    "pgt_refresh_history": (
        "refresh_id, pgt_id, data_timestamp, start_time, end_time, action, rows_inserted, rows_deleted,"
        " delta_row_count, merge_strategy_used, was_full_fallback, error_message, status, initiated_by,"
        " freshness_deadline"
    ),
}
# What it made while it ran is no member: functions of capture and of IMMEDIATE stream tables, buffers, and the guards
# of stream tables, which lie in their schema (`shop._pgt_guard_totals`). By their names: what somebody else put into
# its schemas stays, and stops the taking over.
_MADE_FUNCTIONS = """
SELECT p.tableoid AS classid, p.oid FROM pg_proc p
WHERE p.pronamespace = to_regnamespace('pgtrickle') AND p.proname LIKE 'pgt\\_ivm\\_%'
   OR p.pronamespace = to_regnamespace('pgtrickle_changes') AND p.proname LIKE 'pg\\_trickle\\_%'
   OR p.proname LIKE '\\_pgt\\_guard\\_%' AND p.oid IN (
       SELECT t.tgfoid FROM pg_trigger t JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = t.tgrelid
       WHERE t.tgname IN ('pgt_dml_guard', 'pgt_truncate_guard'))
"""
_TRIGGERS = """
SELECT t.tgname, n.nspname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND (
    t.tgfoid IN (SELECT oid FROM ({made}) m)
    OR t.tgfoid IN (SELECT d.objid FROM pg_depend d
                    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_trickle'
                    WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
                      AND d.refclassid = 'pg_extension'::regclass))
ORDER BY 3, 1
""".replace("{made}", _MADE_FUNCTIONS)
_MADE = """
SELECT i.type, i.identity FROM (
    SELECT 1 AS place, m.classid, m.oid FROM ({made}) m
    UNION ALL
    SELECT 2, c.tableoid, c.oid FROM pg_class c WHERE c.relnamespace = to_regnamespace('pgtrickle_changes')
    AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relname ~ '^changes_([0-9a-f]{16}|[0-9]+|pgt_[0-9]+)$') o
CROSS JOIN LATERAL pg_identify_object(o.classid, o.oid, 0) i
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')
ORDER BY o.place, i.identity
""".replace("{made}", _MADE_FUNCTIONS)


@dataclass(frozen=True)
class Taken:
    """What taking over a newer catalog did.

    Attributes:
        members: how many objects left with the extension.
        dropped: what it had made on the way and is gone: triggers, functions, change buffers.
        told: what does not come along and changes no result.
        converted: stream tables that were IMMEDIATE.
        rebuilt: all of them, by name: each is filled anew at its first refresh.
    """

    members: int
    dropped: tuple[str, ...]
    told: tuple[str, ...]
    converted: tuple[str, ...]
    rebuilt: tuple[str, ...]


def find_refused(connection: Connection) -> tuple[Finding, ...]:
    """What of a newer catalog cannot be taken over, each by the name of what has it. Only reads."""
    findings = [
        Finding(
            "feature_not_taken",
            name,
            f"stream table {name} has {feature}",
            "take that off it with the extension's own functions, or drop the stream table, and adopt again",
        )
        for name, feature in _with_features(connection, _MEANS_MORE)
    ]
    findings += [
        Finding(
            "source_not_taken",
            name,
            f"stream table {name} reads {source}, {what}",
            "the chain captures tables by triggers; drop the stream table, or change its capture, and adopt again",
        )
        for name, source, what in connection.execute(
            "SELECT format('%I.%I', t.pgt_schema, t.pgt_name), d.source_relid::regclass::text,"
            " CASE WHEN c.oid IS NULL THEN 'which is gone' WHEN d.cdc_mode <> 'TRIGGER' THEN 'captured by '"
            " || d.cdc_mode ELSE 'a ' || d.source_type END"
            " FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables t USING (pgt_id)"
            " LEFT JOIN pg_class c ON c.oid = d.source_relid"
            " WHERE c.oid IS NULL OR d.cdc_mode <> 'TRIGGER' AND d.source_type = 'TABLE'"
            " OR d.source_type NOT IN ('TABLE', 'STREAM_TABLE', 'VIEW') ORDER BY 1, 2"
        )
    ]
    findings += [
        Finding(
            "storage_not_taken",
            name,
            f"stream table {name} is kept in {what}",
            "only an ordinary table of this server can be taken over",
        )
        for name, what in connection.execute(
            "SELECT format('%I.%I', t.pgt_schema, t.pgt_name), coalesce('a relation of kind ' || c.relkind::text ||"
            " ', persistence ' || c.relpersistence::text, 'a table that is gone')"
            " FROM pgtrickle.pgt_stream_tables t LEFT JOIN pg_class c ON c.oid = t.pgt_relid"
            " WHERE c.oid IS NULL OR c.relkind <> 'r' OR c.relpersistence <> 'p' ORDER BY 1"
        )
    ]
    for table, name in _ARRANGEMENTS:
        row = connection.execute("SELECT to_regclass(%s) IS NULL", [f"pgtrickle.{table}"]).fetchone()
        if row is None or row[0]:
            continue
        findings += [
            Finding("arrangement_not_taken", subject, f"pgtrickle.{table} holds {subject}", "take it back first")
            for (subject,) in connection.execute(
                sql.SQL("SELECT ({})::text FROM {} ORDER BY 1").format(
                    sql.SQL(name), sql.Identifier("pgtrickle", table)
                )
            )
        ]
    return (*findings, *_find_others(connection))


def _find_others(connection: Connection) -> tuple[Finding, ...]:
    """Rows of tables that leave with the extension and that nobody here knows."""
    known = [*_WITHOUT_LOSS, *(table for table, _ in _ARRANGEMENTS)]
    findings = []
    for (table,) in connection.execute(_OTHER_MEMBERS, [obstacles.EXTENSION, known]).fetchall():
        name = sql.Identifier("pgtrickle", table)
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
        if row is not None and row[0]:
            subject = f"pgtrickle.{table}"
            told = f"{subject} holds {row[0]} row(s), of an older version of the extension"
            findings.append(Finding("arrangement_not_taken", subject, told, "take them back first"))
    return tuple(findings)


def _with_features(connection: Connection, features: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Stream tables and the features that each has."""
    parts = [
        sql.SQL(
            "SELECT format('%I.%I', t.pgt_schema, t.pgt_name), {} FROM pgtrickle.pgt_stream_tables t WHERE {}"
        ).format(sql.Literal(word), sql.SQL(condition))
        for condition, word in features
    ]
    query = sql.SQL(" UNION ALL ").join(parts) + sql.SQL(" ORDER BY 1, 2")
    return [(str(name), str(word)) for name, word in connection.execute(query)]


def take(connection: Connection) -> Taken:
    """Take the stream tables of a newer catalog over into the baseline's, in the caller's transaction.

    Their rows are carried under their ids, the extension goes with everything that it made, the baseline's catalog is
    made, and each source gets the baseline's capture. Afterwards each stream table holds what it held, is marked
    ``needs_reinit`` without a frontier, and is filled anew at its first refresh: nothing that was captured and not
    consumed, or lost before, matters then.

    Raises:
        PreflightError: something of somebody's depends on what goes.
    """
    told = tuple(f"{name}: {word} does not come along" for name, word in _with_features(connection, _TUNING))
    told += _rights(connection)
    rebuilt = tuple(
        str(name)
        for (name,) in connection.execute(
            "SELECT format('%I.%I', pgt_schema, pgt_name) FROM pgtrickle.pgt_stream_tables ORDER BY 1"
        )
    )
    for table, columns in _CARRIED.items():
        condition = "WHERE initiated_by IS DISTINCT FROM 'SELF_MONITOR'" if table == "pgt_refresh_history" else ""
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} {}").format(
                sql.Identifier(f"taken_{table}"),
                sql.SQL(columns),
                sql.Identifier("pgtrickle", table),
                sql.SQL(condition),
            )
        )
    dropped, members = _remove_extension(connection)
    for name in ("0001_catalog", "0001_hash", "0001_views"):
        connection.execute((migrations_path() / "sql" / f"{name}.sql").read_text(encoding="utf-8").encode())
    _give_back(connection)
    converted = immediate.convert(connection)
    rows = connection.execute("SELECT pgt_id FROM pgtrickle.pgt_stream_tables ORDER BY 1").fetchall()
    immediate.capture_sources(connection, [pgt_id for (pgt_id,) in rows])
    return Taken(members, dropped, told, converted, rebuilt)


def _rights(connection: Connection) -> tuple[str, ...]:
    """Rights that somebody was given on the catalog: it is made anew, without them."""
    rows = connection.execute(
        "SELECT format('%I.%I', n.nspname, c.relname), c.relacl::text FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_init_privs i ON i.objoid = c.oid AND i.classoid = 'pg_class'::regclass AND i.objsubid = 0"
        " WHERE n.nspname = 'pgtrickle' AND c.relkind IN ('r', 'v') AND c.relacl IS NOT NULL"
        " AND c.relacl IS DISTINCT FROM i.initprivs ORDER BY 1"
    ).fetchall()
    return tuple(f"rights on {name} were {rights}: grant them again" for name, rights in rows)


def fetch_made(connection: Connection) -> list[tuple[str, str]]:
    """Kind and identity of what the extension made while it ran, in the order of its going; of nothing of anybody's."""
    return [(str(kind), str(identity)) for kind, identity in connection.execute(_MADE)]


def _remove_extension(connection: Connection) -> tuple[tuple[str, ...], int]:
    """Triggers first, then what was made on the way, then the extension with its members; nobody else's goes along."""
    dropped, made = [], fetch_made(connection)
    for trigger, schema, table in connection.execute(_TRIGGERS).fetchall():
        on = sql.Identifier(schema, table)
        connection.execute(sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger), on))
        dropped.append(f"trigger {trigger} on {on.as_string(connection)}")
    row = connection.execute(
        "SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid"
        " WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = %s",
        [obstacles.EXTENSION],
    ).fetchone()
    try:
        for kind, identity in made:
            # Kind and identity are the server's own words (pg_identify_object), quoted as SQL wants them.
            connection.execute(b"DROP " + f"{kind} {identity}".encode())
            dropped.append(f"{kind} {identity}")
        connection.execute("DROP EXTENSION pg_trickle")
    except psycopg.errors.DependentObjectsStillExist as error:
        found = (error.diag.message_detail or error.diag.message_primary or "").splitlines()
        raise PreflightError(
            "something depends on what leaves with the extension, and nothing was changed",
            [Finding("object_depends", line, line, "drop it, or change what it needs") for line in found],
        ) from error
    return tuple(dropped), int(row[0]) if row else 0


def _give_back(connection: Connection) -> None:
    """The carried rows into the baseline's catalog; sequences go on behind them."""
    for table, columns in _CARRIED.items():
        connection.execute(
            sql.SQL("INSERT INTO {} ({columns}) SELECT {columns} FROM {}").format(
                sql.Identifier("pgtrickle", table),
                sql.Identifier("pg_temp", f"taken_{table}"),
                columns=sql.SQL(columns),
            )
        )
    connection.execute("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true, frontier = NULL")
    for table, column in (("pgt_stream_tables", "pgt_id"), ("pgt_refresh_history", "refresh_id")):
        connection.execute(
            sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), max({})) FROM {}").format(
                sql.Literal(f"pgtrickle.{table}"),
                sql.Literal(column),
                sql.Identifier(column),
                sql.Identifier("pgtrickle", table),
            )
        )
