"""Is a stream table equal to its query, as a multiset, both ways? Compared in the database, by hashes first."""

from __future__ import annotations

from psycopg import sql

from harness.rehearsal.contents import Fingerprint, hashes_of, image_of
from harness.rehearsal.tables import Connection, SourceTable

# A float's last digits depend on the order of a sum. Ten digits are compared; text has no smaller unit that is safe.
_FLOATS = ("real", "double precision")


def describe_difference(
    conn: Connection, storage: SourceTable, query: str, *, topk: tuple[str, int] | None = None
) -> str | None:
    """Ask the query, look into the table, and compare the two as multisets of rows; changes nothing.

    Args:
        conn: where both are; on Citus the coordinator.
        storage: the stream table; its columns named ``__pgt_*`` are its own affair and left out.
        query: what defines it, its columns in the table's order.
        topk: an ORDER BY and a LIMIT that are kept beside the query.

    Returns:
        How many rows differ and the first of them, each way; None where there is no difference.

    Raises:
        psycopg.Error: the query cannot be asked.
    """
    columns = [column for column in storage.columns if not column.name.startswith("__pgt_")]

    def value(column_name: str, type_name: str) -> sql.Composable:
        name = sql.Identifier(column_name)
        return sql.SQL("to_char({}::float8, '9.999999999EEEE')").format(name) if type_name in _FLOATS else name

    image = image_of([value(column.name, column.base_type) for column in columns])
    # the defining query is SQL by what it is; a comment at its end must not swallow what follows
    text = query.rstrip().rstrip(";")
    if topk is not None:
        text += f"\nORDER BY {topk[0]} LIMIT {int(topk[1])}"
    names = sql.SQL(", ").join([sql.Identifier(column.name) for column in columns])
    asked = sql.SQL("SELECT {} AS image FROM ({}\n) q ({})").format(image, sql.SQL(text), names)
    stored = sql.SQL("SELECT {} AS image FROM {}").format(image, storage.table.identifier)

    def fingerprint(rows: sql.Composed) -> Fingerprint:
        row = conn.execute(
            sql.SQL("SELECT count(*), sum(h1), sum(h2) FROM (SELECT {} FROM ({}) r) h").format(
                hashes_of(sql.Identifier("image")), rows
            )
        ).fetchone()
        return Fingerprint.of(row) if row is not None else Fingerprint()

    if fingerprint(asked) == fingerprint(stored):
        return None
    row = conn.execute(
        sql.SQL("""
SELECT coalesce(sum(net) FILTER (WHERE net > 0), 0), min(left(image, 80)) FILTER (WHERE net > 0),
       coalesce(-sum(net) FILTER (WHERE net < 0), 0), min(left(image, 80)) FILTER (WHERE net < 0)
  FROM (SELECT sum(w) AS net, image FROM (SELECT 1 AS w, image FROM ({}) a UNION ALL SELECT -1, image FROM ({}) b) c
         GROUP BY image HAVING sum(w) <> 0) d
""").format(asked, stored)
    ).fetchone()
    missing, missing_image, extra, extra_image = row if row is not None else (0, None, 0, None)
    return (
        f"{missing} rows of its query are not in it, such as {missing_image};"
        f" {extra} rows in it are not its query's, such as {extra_image}"
    )
