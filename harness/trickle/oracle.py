"""The oracle: a stream table equals its query as a multiset, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from harness.errors import CheckFailedError, StreamTableNotFoundError

# How many differing rows of each side are shown: enough to see what they have in common.
EXAMPLE_COUNT = 5
_KEPT, _WANTED = sql.Identifier("__pgt_oracle_kept"), sql.Identifier("__pgt_oracle_wanted")

_CITUS_QUERY = "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition')"
_STREAM_TABLE_QUERY = """
SELECT n.nspname, c.relname, t.defining_query FROM pgtrickle.pgt_stream_tables t
JOIN pg_catalog.pg_class c ON c.oid = t.pgt_relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.pgt_relid = pg_catalog.to_regclass(%s)"""

# How values of each visible column are told apart: by their type's equality, as text where the type has none (json,
# xml, point: no B-tree class), rounded where the type is a float. A domain compares as the type below it.
_COLUMNS_QUERY = """
WITH RECURSIVE below (attnum, type) AS (
    SELECT a.attnum, a.atttypid FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum, t.typbasetype FROM below b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT a.attname, CASE
    WHEN t.oid = 'pg_catalog.float8'::regtype THEN 'float8'
    WHEN t.oid = 'pg_catalog.float4'::regtype THEN 'float4'
    WHEN t.oid = 'pg_catalog.varchar'::regtype OR t.typtype IN ('e', 'r', 'm') THEN 'equality'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod
                 WHERE o.opcdefault AND m.amname = 'btree'
                   AND o.opcintype = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END)
        THEN 'equality'
    ELSE 'text' END
FROM pg_catalog.pg_attribute a JOIN below b ON b.attnum = a.attnum
JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype <> 'd'
WHERE a.attrelid = pg_catalog.to_regclass(%s) AND NOT pg_catalog.starts_with(a.attname, '__pgt_') ORDER BY a.attnum"""

# The sum of floats depends on the order of addition, and an incremental sum adds in another order than recomputing.
# So float8 (15 digits) is compared by 9 significant digits, float4 (6 digits) by 5. Adding zero makes one of 0 and -0.
_COMPARED = {
    "equality": sql.SQL("{0}"),
    "text": sql.SQL("{0}::pg_catalog.text"),
    "float8": sql.SQL(
        "CASE WHEN {0} IN ('NaN', 'Infinity', '-Infinity') THEN {0}::pg_catalog.text"
        " ELSE pg_catalog.to_char({0}::pg_catalog.float8 + 0, '9.99999999EEEE') END"
    ),
    "float4": sql.SQL(
        "CASE WHEN {0} IN ('NaN', 'Infinity', '-Infinity') THEN {0}::pg_catalog.text"
        " ELSE pg_catalog.to_char({0}::pg_catalog.float8 + 0, '9.9999EEEE') END"
    ),
}
_DIFFERENCE = sql.SQL("""
WITH kept AS MATERIALIZED (SELECT {columns} FROM {kept}), wanted AS MATERIALIZED (SELECT {columns} FROM {wanted}),
    missing AS MATERIALIZED (SELECT * FROM wanted EXCEPT ALL SELECT * FROM kept),
    extra AS MATERIALIZED (SELECT * FROM kept EXCEPT ALL SELECT * FROM wanted)
SELECT (SELECT pg_catalog.count(*) FROM missing), (SELECT pg_catalog.count(*) FROM extra),
       ARRAY(SELECT __pgt_m::pg_catalog.text FROM missing __pgt_m ORDER BY 1 LIMIT {examples}),
       ARRAY(SELECT __pgt_e::pg_catalog.text FROM extra __pgt_e ORDER BY 1 LIMIT {examples})""")


@dataclass(frozen=True)
class Difference:
    """How a stream table differs from its query.

    Attributes:
        missing: rows that the query returns and the stream table lacks; equal rows count each.
        extra: rows that the stream table has and the query does not return.
        examples: some of both, as PostgreSQL writes a row, each with ``missing`` or ``extra`` before it.
    """

    missing: int
    extra: int
    examples: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether there is no difference."""
        return self.missing == 0 and self.extra == 0

    def __str__(self) -> str:
        shown = "".join(f"\n  {example}" for example in self.examples)
        return f"{self.missing} rows missing, {self.extra} extra{shown}"


def compare(
    connection: psycopg.Connection[Any], name: str, *, as_text: bool = False, query: sql.SQL | None = None
) -> Difference:
    """Compare a stream table's visible columns with its query, as multisets, both ways.

    Columns whose names begin with ``__pgt_`` are left out. Types without equality are compared as text; float8 by 9
    significant digits and float4 by 5, since a sum of floats depends on the order of addition. Nothing is left behind.

    Args:
        connection: to the coordinator. Outside a transaction both sides are read in one snapshot of it (REPEATABLE
            READ); on Citus each worker has its own snapshots: nobody may write meanwhile.
        name: ``schema.table`` or ``table``, as SQL writes it.
        as_text: compare every column as text, so that 1.0 and 1.00 differ, which SQL holds for equal. For queries that
            hand values on as they are; a group's or an aggregate's value may be written either way.
        query: what it is compared with; None: the query that the catalog has. Another engine may write it anew.

    Returns:
        How many rows differ, and some of them.

    Raises:
        StreamTableNotFoundError: there is no stream table of that name.
        CheckFailedError: the stream table's columns are not as many as its query's.
        psycopg.Error: the query cannot be run.
    """
    is_idle = connection.info.transaction_status == TransactionStatus.IDLE
    with connection.transaction(force_rollback=True):
        if is_idle:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = connection.execute(_STREAM_TABLE_QUERY, [name]).fetchone()
        if found is None:
            raise StreamTableNotFoundError(
                f"there is no stream table {name}", hint="pgtrickle.pgt_stream_tables lists them"
            )
        is_citus = connection.execute(_CITUS_QUERY).fetchone() != (None,)
        if is_citus:  # joins that are not colocated (F23)
            connection.execute("SELECT pg_catalog.set_config('citus.enable_repartition_joins', 'on', true)")
        columns = [
            (str(column), "text" if as_text else str(how))
            for column, how in connection.execute(_COLUMNS_QUERY, [name, name])
        ]
        # The catalog holds it as PostgreSQL wrote it back, so it is one query and nothing else.
        query = query or sql.SQL(cast("LiteralString", found[2].strip().rstrip(";")))
        _require_as_many(connection, name, query, len(columns))
        table = sql.Identifier(str(found[0]), str(found[1]))
        wanted = sql.SQL("({}\n) AS __pgt_q({})").format(query, _names(columns))
        return _difference(connection, table, wanted, columns, is_citus=is_citus)


def assert_equal(connection: psycopg.Connection[Any], name: str) -> None:
    """Compare, and complain (arguments and errors: see `compare`).

    Raises:
        AssertionError: the stream table is not what its query returns; shows how they differ.
    """
    difference = compare(connection, name)
    if not difference.is_equal:
        raise AssertionError(f"stream table {name} is not what its query returns: {difference}")


def _names(columns: Sequence[tuple[str, str]]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column) for column, _ in columns)


def _require_as_many(connection: psycopg.Connection[Any], name: str, query: sql.Composable, count: int) -> None:
    described = connection.execute(sql.SQL("SELECT * FROM ({}\n) AS __pgt_q LIMIT 0").format(query)).description or []
    if len(described) != count:
        raise CheckFailedError(
            f"stream table {name} shows {count} columns, its query returns {len(described)}",
            hint="the table or the catalog was changed by hand",
        )


def _difference(
    connection: psycopg.Connection[Any],
    kept: sql.Composable,
    wanted: sql.Composable,
    columns: Sequence[tuple[str, str]],
    *,
    is_citus: bool,
) -> Difference:
    # On Citus EXCEPT between distributed and local rows would be planned across nodes: both sides come here first.
    if is_citus:
        for target, source in ((_KEPT, kept), (_WANTED, wanted)):
            connection.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {}").format(
                    target, _names(columns), source
                )
            )
        kept, wanted = _KEPT, _WANTED
    compared = [
        sql.SQL("{} AS {}").format(_COMPARED[how].format(sql.Identifier(column)), sql.Identifier(column))
        for column, how in columns
    ]
    statement = _DIFFERENCE.format(
        columns=sql.SQL(", ").join(compared), kept=kept, wanted=wanted, examples=sql.Literal(EXAMPLE_COUNT)
    )
    row = connection.execute(statement).fetchone()
    if row is None:  # an aggregate answers one row
        raise CheckFailedError("the comparison returned nothing", hint="report this")
    missing, extra, missing_rows, extra_rows = row
    examples = (*(f"missing {each}" for each in missing_rows), *(f"extra {each}" for each in extra_rows))
    return Difference(int(missing), int(extra), examples)
