"""What a source held first and what was captured then, kept in a schema of the copy's own so that it survives a crash.

Rows are compared by two 64-bit hashes of their text, added up: two multisets are equal when their counts and both sums
are. No sort, one pass. Text is the strictest equality there is (1.0 is not 1.00), exists for every type (json and point
have no other), and is exact here, since a captured value is the very value that was stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.rows import TupleRow

from harness.rehearsal.tables import Column, Connection, SourceTable, TableName, fetch_buffers

KEPT_SCHEMA = "harness_rehearsal"
# How much of a row's text is kept to show a person which row differs; the hashes are of all of it.
IMAGE_CHARS = 120

_KEPT_TABLES = """
CREATE SCHEMA harness_rehearsal;
CREATE TABLE harness_rehearsal.first_contents (source bigint PRIMARY KEY, row_count bigint NOT NULL, sum_1 numeric NOT NULL, sum_2 numeric NOT NULL);
CREATE TABLE harness_rehearsal.first_rows (source bigint NOT NULL, h1 bigint NOT NULL, h2 bigint NOT NULL, image text NOT NULL);
CREATE TABLE harness_rehearsal.noted_changes (source bigint NOT NULL, change_id bigint NOT NULL, at_first boolean NOT NULL,
    h1 bigint NOT NULL, h2 bigint NOT NULL, pk_hash bigint, PRIMARY KEY (source, change_id));
"""  # noqa: E501


@dataclass(frozen=True)
class Fingerprint:
    """A multiset of rows: how many, and the sums of their two hashes. Adds and subtracts as the multisets do."""

    row_count: int = 0
    sum_1: int = 0
    sum_2: int = 0

    @classmethod
    def of(cls, row: TupleRow) -> Fingerprint:
        """From a row (count, sum, sum); nulls are nothing."""
        return cls(int(row[0] or 0), int(row[1] or 0), int(row[2] or 0))

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(self.row_count + other.row_count, self.sum_1 + other.sum_1, self.sum_2 + other.sum_2)

    def __sub__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(self.row_count - other.row_count, self.sum_1 - other.sum_1, self.sum_2 - other.sum_2)


def image_of(columns: Sequence[sql.Composable]) -> sql.Composed:
    """The text of a row of these columns."""
    return sql.SQL("ROW({})::text").format(sql.SQL(", ").join(columns))


def hashes_of(image: sql.Composable) -> sql.Composed:
    """Both hashes of a text, as columns ``h1`` and ``h2``; the collation says that bytes count."""
    return sql.SQL(
        'pg_catalog.hashtextextended({image} COLLATE "C", 1) AS h1,'
        ' pg_catalog.hashtextextended({image} COLLATE "C", 2) AS h2'
    ).format(image=image)


def rows_query(source: SourceTable) -> sql.Composed:
    """``h1, h2, image`` of each row that a source holds now."""
    image = image_of([sql.Identifier(column.name) for column in source.captured])
    return sql.SQL("SELECT {}, image FROM (SELECT {} AS image FROM {}) r").format(
        hashes_of(sql.Identifier("image")), image, source.rows_from
    )


def changes_query(source: SourceTable, buffer: TableName, chosen: sql.Composable) -> sql.Composed:
    """``weight, h1, h2, image`` of each row that came (+1) or went (-1) in the chosen buffer rows.

    Args:
        source: the captured table.
        buffer: its change buffer.
        chosen: a condition on the buffer's row ``b``.
    """

    def side(weight: int, actions: sql.SQL, columns: Sequence[str]) -> sql.Composed:
        image = image_of([sql.Identifier("b", column) for column in columns])
        return sql.SQL("SELECT {} AS weight, {} AS image FROM {} b WHERE b.action IN {} AND {}").format(
            sql.Literal(weight), image, buffer.identifier, actions, chosen
        )

    came = side(1, sql.SQL("('I', 'U')"), [column.new_name for column in source.captured])
    went = side(-1, sql.SQL("('D', 'U')"), [column.old_name for column in source.captured])
    return sql.SQL("SELECT weight, {}, image FROM ({} UNION ALL {}) c").format(
        hashes_of(sql.Identifier("image")), came, went
    )


def change_rows_query(buffer: TableName, columns: Sequence[Column]) -> sql.Composed:
    """``change_id, pk_hash, h1, h2`` of each buffer row; the hashes are over what it has in every revision.

    ``pk_hash`` stands apart: from 0006 on it is not written, and the downgrade computes it afterwards.
    """
    names = ["lsn", "action", *(name for column in columns for name in (column.new_name, column.old_name))]
    return sql.SQL(
        "SELECT change_id, pk_hash, {} FROM (SELECT b.change_id, b.pk_hash, {} AS image FROM {} b) r"
    ).format(
        hashes_of(sql.Identifier("image")), image_of([sql.Identifier("b", name) for name in names]), buffer.identifier
    )


def later_condition(source: SourceTable) -> sql.Composed:
    """Holds for a buffer row ``b`` that was not there yet when the first contents were taken."""
    return sql.SQL(
        "NOT EXISTS (SELECT FROM harness_rehearsal.noted_changes n"
        " WHERE n.at_first AND n.source = {} AND n.change_id = b.change_id)"
    ).format(sql.Literal(source.relid))


@dataclass(frozen=True)
class FirstContents:
    """What was taken: how many sources, rows and captured rows."""

    source_count: int
    row_count: int
    change_count: int


def take_first(conn: Connection, sources: Sequence[SourceTable]) -> FirstContents:
    """Keep what each source holds, and which rows its buffer has, as they are at one moment for that source.

    Writers may run: source and buffer are read in one snapshot, and a captured row commits with its change. What an
    earlier call kept is thrown away.

    Args:
        conn: the copy, in autocommit; a role that row security does not stop and that may create a schema.
        sources: the captured tables, each with its buffer.

    Returns:
        How much it was. Leaves the schema ``harness_rehearsal`` behind; ``drop_kept`` removes it.
    """
    drop_kept(conn)
    conn.execute(_KEPT_TABLES)
    buffers = fetch_buffers(conn, sources)
    for source in sources:
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            conn.execute("SET LOCAL row_security = off")
            conn.execute(_keep_rows_query(source))
            for buffer in buffers[source.relid]:
                conn.execute(_note_query(source, buffer, at_first=True))
    conn.execute("ANALYZE harness_rehearsal.noted_changes, harness_rehearsal.first_rows")
    row = conn.execute(
        "SELECT (SELECT count(*) FROM harness_rehearsal.first_contents),"
        " (SELECT coalesce(sum(row_count), 0) FROM harness_rehearsal.first_contents)::bigint,"
        " (SELECT count(*) FROM harness_rehearsal.noted_changes)"
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return FirstContents(*row)


def _keep_rows_query(source: SourceTable) -> sql.Composed:
    return sql.SQL("""
WITH kept AS (
    INSERT INTO harness_rehearsal.first_rows (source, h1, h2, image)
    SELECT {source}, r.h1, r.h2, left(r.image, {chars}) FROM ({rows}) r RETURNING h1, h2)
INSERT INTO harness_rehearsal.first_contents (source, row_count, sum_1, sum_2)
SELECT {source}, count(*), coalesce(sum(h1), 0), coalesce(sum(h2), 0) FROM kept
""").format(source=sql.Literal(source.relid), chars=sql.Literal(IMAGE_CHARS), rows=rows_query(source))


def _note_query(source: SourceTable, buffer: TableName, *, at_first: bool) -> sql.Composed:
    return sql.SQL("""
INSERT INTO harness_rehearsal.noted_changes (source, change_id, at_first, h1, h2, pk_hash)
SELECT {source}, c.change_id, {at_first}, c.h1, c.h2, c.pk_hash FROM ({changes}) c
ON CONFLICT (source, change_id) DO NOTHING
""").format(
        source=sql.Literal(source.relid),
        at_first=sql.Literal(at_first),
        changes=change_rows_query(buffer, source.captured),
    )


def note_captured(conn: Connection, sources: Sequence[SourceTable]) -> int:
    """Note the captured rows that were not noted yet, so that a later check misses them if they go.

    Args:
        conn: the copy, in autocommit, after ``take_first``.
        sources: the captured tables.

    Returns:
        How many were new.
    """
    buffers = fetch_buffers(conn, sources)
    noted = 0
    for source in sources:
        for buffer in buffers[source.relid]:
            noted += max(0, conn.execute(_note_query(source, buffer, at_first=False)).rowcount)
    return noted


def drop_kept(conn: Connection) -> None:
    """Remove what ``take_first`` and ``note_captured`` left."""
    conn.execute("DROP SCHEMA IF EXISTS harness_rehearsal CASCADE")
