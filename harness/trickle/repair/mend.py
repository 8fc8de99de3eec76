"""How each thing that a look can find is mended: in a transaction of its own, on the node where it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from harness.errors import HarnessError
from harness.trickle import catalog
from harness.trickle.making import install_captures, remove_captures
from harness.trickle.repair.findings import COORDINATOR, Finding
from harness.trickle.repair.look import Look, identifier_of, stable_name_in
from harness.trickle.session import LOCK_TIMEOUT_MS
from harness.trickle.sources import has_citus, raw_expression
from harness.trickle.storage import drop_query, guard


def mend(connection: psycopg.Connection[Any], found: Look, finding: Finding) -> Finding:
    """Mend one thing.

    Args:
        connection: to the coordinator, in autocommit, idle.
        found: the look that it is from.
        finding: what.

    Returns:
        The same, with what was done, or why it could not be.
    """
    if finding.code == "lost_source":
        return replace(finding, error="somebody has to give it another query (harness st alter) or drop it")
    if finding.error:
        return finding
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
            if has_citus(connection):
                connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
                connection.execute("SET LOCAL citus.enable_unsafe_triggers = on")
            action = _mend(connection, found, finding)
    except (psycopg.Error, HarnessError) as error:
        if connection.closed:
            raise
        return replace(finding, error=(str(error).strip().splitlines() or [type(error).__name__])[0])
    return replace(finding, action=action, is_mended=True)


def _mend(connection: psycopg.Connection[Any], found: Look, finding: Finding) -> str:
    if finding.code in {"orphan_history", "lost_storage", "unfinished_drop", "unguarded", "uncaptured"}:
        number = next(row[3] for row in found.rows if (row[0], row[1]) == (finding.code, finding.subject))
        return _mend_row(connection, finding.code, number)
    if finding.code in {"lost_table", "unread_capture", "broken_capture"}:
        source = next(each for each in found.sources.values() if each.name == finding.subject)
        return _mend_source(connection, finding.code, source.relid, source.stable_name)
    if finding.code in {"orphan_function", "orphan_buffer"}:
        # Nobody begins to capture it meanwhile.
        connection.execute("LOCK TABLE pgtrickle.pgt_change_tracking IN SHARE MODE")
        tracked = connection.execute(
            "SELECT FROM pgtrickle.pgt_change_tracking WHERE source_stable_name = %s", [stable_name_in(finding.subject)]
        ).fetchone()
        if tracked is not None:
            return "it is in use by now, and stays"
    if finding.node == COORDINATOR:
        return _drop_here(connection, finding)
    return _drop_there(connection, finding)


def _mend_row(connection: psycopg.Connection[Any], code: str, number: int) -> str:
    if code == "orphan_history":
        connection.execute("DELETE FROM pgtrickle.pgt_refresh_history WHERE pgt_id = %s", [number])
        return "removed"
    if code == "lost_storage":
        connection.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s", [number])
        return "forgotten"
    if code == "uncaptured":
        uncaptured = connection.execute(
            "SELECT d.source_relid::bigint FROM pgtrickle.pgt_dependencies d"
            " JOIN pg_class c ON c.oid = d.source_relid WHERE d.pgt_id = %s AND d.is_captured",
            [number],
        ).fetchall()
        install_captures(connection, (int(row[0]) for row in uncaptured))
        connection.execute("SELECT pgtrickle._mark(ARRAY[%s::bigint], 'its sources are captured again')", [number])
        return "captured again; its next refresh fills it anew"
    row = connection.execute(
        "SELECT t.pgt_relid::bigint FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = %s", [number]
    ).fetchone()
    known = None if row is None else catalog.fetch_by_relid(connection, int(row[0]))
    if known is None:
        return "gone by itself"
    if code == "unguarded":
        for trigger in ("pgt_guard", "pgt_guard_truncate"):
            connection.execute(
                sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger), known.identifier)
            )
        guard(connection, known.identifier, known.placement)
        connection.execute("SELECT pgtrickle._mark(ARRAY[%s::bigint], 'anybody could write it')", [number])
        return "guarded again; its next refresh fills it anew"
    connection.execute(drop_query(known.identifier, cascade=False))
    connection.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s", [number])
    remove_captures(connection, [dependency.relid for dependency in known.dependencies])
    return "dropped"


def _mend_source(connection: psycopg.Connection[Any], code: str, relid: int, stable_name: str) -> str:
    if code == "lost_table":
        connection.execute("DELETE FROM pgtrickle.pgt_change_tracking WHERE source_relid = %s", [relid])
        connection.execute("SELECT pgtrickle._sweep_capture(%s::oid, %s)", [relid, stable_name])
        return "its capture was removed"
    if code == "unread_capture":
        remove_captures(connection, [relid])
        return "its capture was removed"
    connection.execute("SELECT pgtrickle.rebuild_capture(%s::oid)", [relid])
    return "its capture was made anew; its readers' next refreshes fill them anew"


def _drop(finding: Finding) -> sql.Composed:
    if finding.code == "orphan_function":
        return sql.SQL("DROP FUNCTION IF EXISTS {}() CASCADE").format(identifier_of(finding.subject))
    if finding.code == "orphan_buffer":
        return sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(identifier_of(finding.subject))
    if finding.code == "orphan_publication":
        return sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(finding.subject))
    # As regclass wrote it.
    return sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(raw_expression(finding.subject))


def _drop_here(connection: psycopg.Connection[Any], finding: Finding) -> str:
    connection.execute(_drop(finding))
    return "dropped"


def _drop_there(connection: psycopg.Connection[Any], finding: Finding) -> str:
    host, _, port = finding.node.rpartition(":")
    # A block is one statement and one transaction on the worker, and what it drops is that worker's own affair.
    block = (
        sql.SQL("DO {}")
        .format(
            sql.Literal(
                sql.SQL(
                    "BEGIN PERFORM pg_catalog.set_config('citus.enable_ddl_propagation', 'off', true);"
                    " PERFORM pg_catalog.set_config('lock_timeout', {}, true); EXECUTE {}; END"
                )
                .format(sql.Literal(str(LOCK_TIMEOUT_MS)), sql.Literal(_drop(finding).as_string(connection)))
                .as_string(connection)
            )
        )
        .as_string(connection)
    )
    row = connection.execute(
        "SELECT success, result FROM pg_catalog.run_command_on_workers(%s) WHERE nodename = %s AND nodeport = %s",
        [block, host, int(port)],
    ).fetchone()
    if row is None or not row[0]:
        raise HarnessError(f"the worker refused it: {row[1] if row else 'it left the cluster'}")
    return "dropped"
