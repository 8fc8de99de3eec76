"""What is looked at after each step: stream tables, functions, the catalog beside a fresh one, a new stream table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psycopg import sql

from harness.errors import CheckFailedError
from harness.rehearsal.extension import demonstration
from harness.rehearsal.extension.catalog import differences_from_fresh, snapshot_extension
from harness.rehearsal.extension.functions import KnownValues, run_functions
from harness.rehearsal.extension.model import (
    CATALOG_CHECK,
    FUNCTION_CHECK,
    NEW_CHECK,
    REFRESH_CHECK,
    Fresh,
    FunctionState,
    VersionFindings,
)
from harness.rehearsal.extension.place import Place, install
from harness.rehearsal.extension.verbs import fetch_extension_tables, refresh_and_compare, try_new_stream_table
from harness.rehearsal.model import CheckResult, Verdict
from harness.rehearsal.tables import Connection, fetch_tables

_FRESH = "harness_fresh"
INSTALLS = "installs"
NO_SCRIPT = "no script"


def look_at_version(
    place: Place, version: str, number: int, before: VersionFindings | None = None
) -> tuple[VersionFindings, tuple[CheckResult, ...]]:
    """Everything that is checked at one version, while no writer runs.

    Args:
        place: the updated database; refreshed by this, a probe's tables come and go.
        version: at which its extension is.
        number: which version this is, for the probe's names.
        before: what was found at the version before it.

    Returns:
        The line of the table of versions, and the checks. A function that fails in a fresh installation of the same
        version as well, or that failed before where there is no fresh one, is told and does not fail the check: the
        step is not to blame.
    """
    with contextlib.closing(place.connect()) as conn:
        refreshed = _refresh_all(conn, version)
        new = try_new_stream_table(conn, number)
        updated = snapshot_extension(conn)
        known = known_values(conn)
    functions = run_functions(place.connect, known)
    fresh = _look_at_fresh(place, version)
    differences = None if fresh.catalog is None else differences_from_fresh(fresh.catalog, updated)
    findings = VersionFindings(
        version=version,
        fresh=fresh.told,
        differences=differences,
        functions=functions,
        failing_in_fresh=fresh.in_state(FunctionState.FAILS),
        running_in_fresh=fresh.in_state(FunctionState.RUNS),
        new_stream_table=new,
        refreshed=sum(check.verdict is Verdict.PASSED for check in refreshed),
        stream_tables=len(refreshed),
    )
    failing_before = frozenset(one.identity for one in before.failing) if before is not None else frozenset()
    return findings, (
        *refreshed,
        *_judge(findings, failing_before if differences is None else findings.failing_in_fresh),
    )


def _judge(found: VersionFindings, excused: frozenset[str]) -> Iterator[CheckResult]:
    new = Verdict.FAILED if found.new_stream_table else Verdict.PASSED
    yield CheckResult(NEW_CHECK, found.version, "a stream table made for this", new, found.new_stream_table)
    if found.differences is None:
        yield CheckResult(CATALOG_CHECK, found.version, "catalog", Verdict.SKIPPED, f"no fresh one: {found.fresh}")
    else:
        told = f"{len(found.differences)} differences, the first: {found.differences[0]}" if found.differences else ""
        verdict = Verdict.FAILED if found.differences else Verdict.PASSED
        yield CheckResult(CATALOG_CHECK, found.version, "catalog", verdict, told)
    failing = {one.identity for one in found.failing}
    for one in found.functions:
        is_broken = one.identity in failing
        is_excused = is_broken and one.identity in excused
        verdict = Verdict.FAILED if is_broken and not is_excused else Verdict.PASSED
        if one.state is FunctionState.NOT_CALLED:
            verdict = Verdict.SKIPPED
        where = "before the step" if found.differences is None else "in a fresh one"
        told = f"{one.sqlstate} {one.message}".strip() + (f" ({where} as well)" if is_excused else "")
        yield CheckResult(FUNCTION_CHECK, found.version, one.identity, verdict, told, is_excused)


def _refresh_all(conn: Connection, version: str) -> list[CheckResult]:
    results = []
    for stream_table in fetch_extension_tables(conn):
        wrong = refresh_and_compare(conn, stream_table)
        verdict = Verdict.FAILED if wrong else Verdict.PASSED
        results.append(CheckResult(REFRESH_CHECK, version, stream_table.table.label, verdict, wrong or ""))
    return results


def known_values(conn: Connection) -> KnownValues | None:
    """A stream table of the database with a source of its, to call functions with; None where there is none."""
    for stream_table in fetch_extension_tables(conn):
        row = conn.execute(
            "SELECT source_relid::bigint FROM pgtrickle.pgt_dependencies"
            " WHERE pgt_id = %s AND source_type = 'TABLE' ORDER BY 1 LIMIT 1",
            [stream_table.pgt_id],
        ).fetchone()
        sources = fetch_tables(conn, [row[0]]) if row else ()
        if sources:
            source = sources[0]
            query = sql.SQL("SELECT * FROM {}").format(source.table.identifier).as_string(conn)
            return KnownValues(
                stream_table.table, source.table, stream_table.pgt_id, stream_table.relid, source.relid, query
            )
    return None


def _look_at_fresh(place: Place, version: str) -> Fresh:
    """A fresh installation of one version beside the updated one: its catalog, and what becomes of functions there."""
    if version not in place.fresh:
        place.fresh[version] = _make_fresh(place, version)
    return place.fresh[version]


def _make_fresh(place: Place, version: str) -> Fresh:
    if version not in place.scripts.installable:
        return Fresh(NO_SCRIPT)
    server = place.server
    server.create_database(_FRESH)
    try:
        with contextlib.closing(server.connect(_FRESH)) as conn:
            try:
                install(conn, version)
            except CheckFailedError as error:
                return Fresh(error.message)
            demonstration.build(conn)
            snapshot = snapshot_extension(conn)
            known = known_values(conn)
        return Fresh(INSTALLS, snapshot, run_functions(lambda: server.connect(_FRESH), known))
    finally:
        # Its own workers may be connected to it.
        with contextlib.closing(server.connect("postgres")) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(_FRESH)))
