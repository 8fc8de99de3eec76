"""Is there a catalog that the chain knows, whole, and not at its end already?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.chain.newer import TAKEN_VERSIONS, find_refused
from harness.errors import Finding
from harness.rehearsal.source import CATALOG_TABLES, CatalogState, Connection, SourceFacts

# The columns of 0.2's catalog (`baseline.md`), by table. Fewer is half a catalog, more is a newer one.
BASELINE_COLUMNS = {
    table: frozenset(columns.split())
    for table, columns in {
        "pgt_stream_tables": "pgt_id pgt_relid pgt_name pgt_schema defining_query original_query schedule refresh_mode "
        "status is_populated data_timestamp frontier last_refresh_at consecutive_errors needs_reinit auto_threshold "
        "last_full_ms functions_used topk_limit topk_order_by diamond_consistency diamond_schedule_policy created_at "
        "updated_at",
        "pgt_dependencies": "pgt_id source_relid source_type columns_used column_snapshot schema_fingerprint cdc_mode "
        "slot_name decoder_confirmed_lsn transition_started_at",
        "pgt_refresh_history": "refresh_id pgt_id data_timestamp start_time end_time action rows_inserted rows_deleted "
        "delta_row_count merge_strategy_used was_full_fallback error_message status initiated_by freshness_deadline",
        "pgt_change_tracking": "source_relid slot_name last_consumed_lsn tracked_by_pgt_ids",
    }.items()
}

_COLUMNS = """
SELECT c.relname::text, a.attname::text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = 'pgtrickle' AND c.relkind IN ('r', 'p')
"""


_WITHOUT_NUMBER = """
SELECT c.relname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = to_regnamespace('pgtrickle_changes') AND c.relkind = 'r' AND c.relname ~ '^changes_'
AND a.attname = 'change_id' AND NOT a.attnotnull AND NOT a.attisdropped ORDER BY 1
"""


def look_at_catalog(
    connection: Connection, facts: SourceFacts, revisions: Sequence[str], *, physical: bool = False
) -> tuple[Finding, ...]:
    """Is there a catalog that the chain knows, whole?

    Args:
        connection: to the source.
        facts: what it is.
        revisions: the chain's, in order.
        physical: the copy is a base backup, in which a newer catalog can be adopted as in the real one.

    Returns:
        What stops: no catalog, half a catalog, a newer one, what adopting refuses of one that can be taken over, one
        already at the end of the chain, or back from there with captured rows that have no number.
    """
    if facts.catalog is CatalogState.ABSENT:
        return (
            Finding(
                "no_catalog",
                facts.dbname,
                f"database {facts.dbname} has no pgtrickle catalog: there is nothing to upgrade",
                "name the database that pg_trickle is installed in; `\\dn pgtrickle` shows it",
            ),
        )
    if facts.catalog is CatalogState.EXTENSION and not (facts.extension_version or "").startswith("0.2."):
        if facts.extension_version in TAKEN_VERSIONS and physical:
            return find_refused(connection)
        known = facts.extension_version in TAKEN_VERSIONS
        return (
            Finding(
                "other_version",
                "pg_trickle",
                f"the extension is at {facts.extension_version}; the chain starts from 0.2",
                "its stream tables are adopted in a base backup: --copy physical"
                if known
                else f"only 0.2, and the stream tables of {' and '.join(TAKEN_VERSIONS)}, can be taken over",
            ),
        )
    if facts.revision is not None:
        return _look_at_revision(facts.revision, revisions) or _look_for_numbers(connection)
    return _compare_columns(connection)


def _look_at_revision(revision: str, revisions: Sequence[str]) -> tuple[Finding, ...]:
    if revision not in revisions:
        return (
            Finding(
                "unknown_revision",
                revision,
                f"the catalog is at revision {revision}; known are {', '.join(revisions)}",
                "it was upgraded by a newer version of this project: use that version",
            ),
        )
    if revision == revisions[-1]:
        return (
            Finding(
                "at_head",
                revision,
                f"the catalog is at revision {revision}, the last one: nothing is left to rehearse",
                "rehearse an installation that was not upgraded yet",
            ),
        )
    return ()


def _look_for_numbers(connection: Connection) -> tuple[Finding, ...]:
    """A captured row is known by its number through all revisions, and one of a buffer made at 0012 has none."""
    return tuple(
        Finding(
            "rows_without_number",
            f"pgtrickle_changes.{name}",
            f"pgtrickle_changes.{name} was made at the chain's end: its captured rows have no number to be followed by",
            "harness migrate down 0005 gives them one, once released sources are refreshed and stream tables over"
            " reference tables dropped; or rehearse an installation that was never at the chain's end",
        )
        for (name,) in connection.execute(_WITHOUT_NUMBER)
    )


def _compare_columns(connection: Connection) -> tuple[Finding, ...]:
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(_COLUMNS):
        found.setdefault(table, set()).add(column)
    findings = []
    for table in CATALOG_TABLES:
        columns = found.get(table, set())
        missing, extra = sorted(BASELINE_COLUMNS[table] - columns), sorted(columns - BASELINE_COLUMNS[table])
        subject = f"pgtrickle.{table}"
        if not columns:
            findings.append(
                Finding(
                    "half_catalog",
                    subject,
                    "the table is missing: half a catalog",
                    "restore the catalog from a backup; a half one cannot be upgraded",
                )
            )
        elif missing:
            findings.append(
                Finding(
                    "half_catalog",
                    subject,
                    f"columns are missing: {', '.join(missing)}",
                    "restore the catalog from a backup; a half one cannot be upgraded",
                )
            )
        elif extra:
            findings.append(
                Finding(
                    "newer_catalog",
                    subject,
                    f"columns that 0.2 does not have: {', '.join(extra)}",
                    "an update of the extension got this far and stopped, or it is newer: restore 0.2's",
                )
            )
    return tuple(findings)
