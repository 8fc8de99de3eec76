"""What a rehearsal proves of sources and their captured rows: nothing lost, nothing twice, nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg import sql

from harness.rehearsal.contents import Fingerprint, change_rows_query, changes_query, later_condition, rows_query
from harness.rehearsal.model import CheckResult, Verdict
from harness.rehearsal.tables import Connection, SourceTable, TableName, fetch_buffers

CONTENTS_CHECK = "contents_equal_first_plus_changes"
CAPTURED_CHECK = "captured_rows_kept"
ROW_COUNT_CHECK = "row_count_as_writers_counted"

# What a source's check found wrong, in one line; None where all is right.
Examination = Callable[[SourceTable, TableName], str | None]


def check_contents(conn: Connection, sources: Sequence[SourceTable], *, phase: str) -> tuple[CheckResult, ...]:
    """Is each source its first contents plus what was captured since, as a multiset, both ways?

    Rows that came count +1, rows that went -1; after the last TRUNCATE everything before it is dropped. Runs while no
    writer runs.

    Args:
        conn: the copy, in autocommit, after ``take_first``.
        sources: the captured tables.
        phase: for the results.

    Returns:
        One result a source; a difference shows how many rows and the first of them.
    """

    def examine(source: SourceTable, buffer: TableName) -> str | None:
        first = conn.execute(
            "SELECT row_count, sum_1, sum_2 FROM harness_rehearsal.first_contents WHERE source = %s", [source.relid]
        ).fetchone()
        if first is None:
            return "its first contents were not taken"
        truncated_at = conn.execute(
            sql.SQL("SELECT max(b.change_id) FROM {} b WHERE b.action = 'T' AND {}").format(
                buffer.identifier, later_condition(source)
            )
        ).fetchone()
        cut = truncated_at[0] if truncated_at else None
        chosen = later_condition(source)
        if cut is not None:
            chosen += sql.SQL(" AND b.change_id > {}").format(sql.Literal(cut))
        expected = (Fingerprint() if cut is not None else Fingerprint.of(first)) + _changed(
            conn, source, buffer, chosen
        )
        found = conn.execute(
            sql.SQL("SELECT count(*), sum(h1), sum(h2) FROM ({}) r").format(rows_query(source))
        ).fetchone()
        if found is not None and Fingerprint.of(found) == expected:
            return None
        return _difference(conn, source, buffer, chosen, with_first=cut is None)

    return _examine_all(conn, sources, CONTENTS_CHECK, phase, examine)


def check_captured(conn: Connection, sources: Sequence[SourceTable], *, phase: str) -> tuple[CheckResult, ...]:
    """Is each captured row that was noted still there, once and unchanged, and none there twice?

    A row is known by its ``change_id``, which no migration changes, and compared over the columns that a buffer has in
    every revision: lsn, action, the images, and pk_hash unless it had none when it was noted.

    Args:
        conn: the copy, in autocommit, after ``take_first``.
        sources: the captured tables.
        phase: for the results.

    Returns:
        One result a source; a difference counts the lost, changed and doubled rows and names the first.
    """

    def examine(source: SourceTable, buffer: TableName) -> str | None:
        row = conn.execute(
            sql.SQL("""
WITH there AS MATERIALIZED ({changes}),
     noted AS (SELECT * FROM harness_rehearsal.noted_changes WHERE source = {source})
SELECT (SELECT count(*) FROM noted n WHERE NOT EXISTS (SELECT FROM there t WHERE t.change_id = n.change_id)),
       (SELECT min(change_id) FROM noted n WHERE NOT EXISTS (SELECT FROM there t WHERE t.change_id = n.change_id)),
       changed.n, changed.first, twice.n, twice.first
  FROM (SELECT count(*) AS n, min(change_id) AS first FROM noted n JOIN there t USING (change_id)
         WHERE (t.h1, t.h2) <> (n.h1, n.h2) OR t.pk_hash IS DISTINCT FROM coalesce(n.pk_hash, t.pk_hash)) changed,
       (SELECT count(*) AS n, min(change_id) AS first
          FROM (SELECT change_id FROM there GROUP BY change_id HAVING count(*) > 1) d) twice
""").format(changes=change_rows_query(buffer, source.captured), source=sql.Literal(source.relid))
        ).fetchone()
        if row is None:
            return "the buffer could not be read"
        words = ("lost", "changed", "there twice")
        found = [
            f"{count} captured row{'s' if count > 1 else ''} {word}, the first is change_id {first}"
            for word, count, first in zip(words, row[0::2], row[1::2], strict=True)
            if count
        ]
        return "; ".join(found) or None

    return _examine_all(conn, sources, CAPTURED_CHECK, phase, examine)


def check_row_counts(
    conn: Connection, sources: Sequence[SourceTable], net_rows: Mapping[str, tuple[int, int]], *, phase: str
) -> tuple[CheckResult, ...]:
    """Has each source as many rows as the writers, by their own count, left in it? Needs no capture to be right.

    Args:
        conn: the copy, in autocommit, after ``take_first``; no writer runs.
        sources: the captured tables.
        net_rows: by label, the least and the most rows that the writers added since ``take_first``; the two differ
            where a commit's outcome is unknown. A source that is missing here is skipped.
        phase: for the results.
    """
    results = []
    for source in sources:
        if source.label not in net_rows:
            detail = "triggers or cascades may write to it, so the writers cannot count"
            results.append(CheckResult(ROW_COUNT_CHECK, phase, source.label, Verdict.SKIPPED, detail))
            continue
        low, high = net_rows[source.label]
        row = conn.execute(
            sql.SQL(
                "SELECT (SELECT count(*) FROM {}), (SELECT row_count FROM harness_rehearsal.first_contents"
                " WHERE source = {})"
            ).format(source.rows_from, sql.Literal(source.relid))
        ).fetchone()
        now, first = row if row is not None else (0, 0)
        good = first is not None and first + low <= now <= first + high
        span = f"{first + low}" if low == high else f"{first + low} to {first + high}"
        detail = f"{now} rows" if good else f"{now} rows, the writers' own count says {span}"
        results.append(
            CheckResult(ROW_COUNT_CHECK, phase, source.label, Verdict.PASSED if good else Verdict.FAILED, detail)
        )
    return tuple(results)


def _examine_all(
    conn: Connection, sources: Sequence[SourceTable], name: str, phase: str, examine: Examination
) -> tuple[CheckResult, ...]:
    """One result a source; each is examined in one snapshot, and a server that says no is a failed check."""
    buffers = fetch_buffers(conn, sources)
    results = []
    for source in sources:
        there = buffers[source.relid]
        if len(there) != 1:
            detail = (
                "it has no change buffer"
                if not there
                else f"it has {len(there)} change buffers: " + ", ".join(buffer.label for buffer in there)
            )
        else:
            try:
                with conn.transaction():
                    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    conn.execute("SET LOCAL row_security = off")
                    detail = examine(source, there[0]) or ""
            except psycopg.DatabaseError as error:
                # a column or table that is gone is what a migration may have broken; a server that is gone is not
                if isinstance(error, psycopg.OperationalError):
                    raise
                detail = f"{error.sqlstate}: {error.diag.message_primary}"
        verdict = Verdict.FAILED if detail else Verdict.PASSED
        results.append(CheckResult(name, phase, source.label, verdict, detail))
    return tuple(results)


def _changed(conn: Connection, source: SourceTable, buffer: TableName, chosen: sql.Composable) -> Fingerprint:
    """The net of the chosen captured rows."""
    net = Fingerprint()
    for weight, *sums in conn.execute(
        sql.SQL("SELECT weight, count(*), sum(h1), sum(h2) FROM ({}) c GROUP BY weight").format(
            changes_query(source, buffer, chosen)
        )
    ):
        side = Fingerprint.of(tuple(sums))
        net = net + side if weight > 0 else net - side
    return net


def _difference(
    conn: Connection, source: SourceTable, buffer: TableName, chosen: sql.Composable, *, with_first: bool
) -> str:
    """Which rows differ, by their hashes: those that should be there and are not, and those that should not."""
    first = sql.SQL(
        "SELECT 1 AS weight, h1, h2, image FROM harness_rehearsal.first_rows WHERE source = {} AND {}"
    ).format(sql.Literal(source.relid), sql.Literal(with_first))
    row = conn.execute(
        sql.SQL("""
WITH different AS (
    SELECT sum(weight) AS net, min(left(image, 80)) AS image
      FROM ({first} UNION ALL {changes} UNION ALL SELECT -1, h1, h2, image FROM ({rows}) r) w
     GROUP BY h1, h2 HAVING sum(weight) <> 0)
SELECT coalesce(sum(net) FILTER (WHERE net > 0), 0), min(image) FILTER (WHERE net > 0),
       coalesce(-sum(net) FILTER (WHERE net < 0), 0), min(image) FILTER (WHERE net < 0) FROM different
""").format(first=first, changes=changes_query(source, buffer, chosen), rows=rows_query(source))
    ).fetchone()
    missing, missing_image, extra, extra_image = row if row is not None else (0, None, 0, None)
    found = []
    if missing:
        found.append(f"{missing} rows missing from the table, such as {missing_image}")
    if extra:
        found.append(f"{extra} rows in the table that nothing accounts for, such as {extra_image}")
    return "; ".join(found) or "the hashes differ and the rows do not"
