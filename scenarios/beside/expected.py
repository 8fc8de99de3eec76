"""What pg_trickle 0.67 does instead, one by one: seen in November 2026, each by the words of the failure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from scenarios.fixtures.engines import Expected


def _refused(words: str) -> Expected:
    return Expected("refused", re.escape(f": create stream: {words}"), f"0.67 does not make it: {words}")


def _failed(words: str) -> Expected:
    return Expected("failed", re.escape(f": refresh stream: {words}"), f"0.67 makes it, and cannot refresh it: {words}")


def _wrong(figure: str, why: str) -> Expected:
    return Expected("wrong", f"^after DIFFERENTIAL: {figure}", f"0.67 {why}, without an error: {figure}")


_NO_HASH = "function pgtrickle.pg_trickle_hash(integer) does not exist"
_NO_ARRAYS = "unsupported operator for DIFFERENTIAL mode: Expression type T_A_ArrayExpr is not supported"

INCREMENTAL_CONSTRUCTS: Mapping[str, Expected] = {
    "view": _refused('column "per_region_view.region" must appear in the GROUP BY clause'),
    "using": _failed('column "id" does not exist'),
    "union": _failed('column "note" does not exist'),
    "constants": _failed('syntax error at or near "\' AS "text"'),
    "cte of ctes": _wrong("0 rows missing, 2 extra", "keeps rows whose customer moved"),
    "natural join": _failed('column "orders__id" of relation "stream" does not exist'),
    "names in upper case": _failed("column c.Id does not exist"),
    "casts": _wrong("5 rows missing, 5 extra", "leaves lengths and scales out of casts"),
    "strings": _failed('syntax error at or near "\' AS "z", \'"'),
    "words of sql": _failed("invalid regular expression: quantifier operand invalid"),
    "comparisons": _refused(_NO_ARRAYS),
    "arrays and rows": _refused(_NO_ARRAYS),
    "field of a row": _failed('column "o" does not exist'),
    "operator of one's own": _failed('syntax error at or near "app"'),
    "stored generated column": _failed("column c.b does not exist"),
    "virtual generated column": _failed('column "c" does not exist'),
    "union in from": _failed('column "v" does not exist'),
    "distinct over groups": _refused('column "customer" does not exist'),
}
RECOMPUTED_CONSTRUCTS: Mapping[str, Expected] = {
    "FULL JOIN": _failed("column dr2.customer does not exist"),
    "window function": _failed("column st.customer does not exist"),
    "DISTINCT ON": _wrong("1 rows missing, 1 extra", "keeps another row of a group than its query"),
    "EXCEPT": _refused('column "customer" does not exist'),
    "INTERSECT": _refused('column "customer" does not exist'),
    "recursive CTE": _failed("pg_trickle: operator 'recursive cte' is not supported as a direct join source"),
    "subquery in an expression": _failed(_NO_HASH),
    "EXISTS": _failed(_NO_HASH),
    "LATERAL": _wrong("4 rows missing, 4 extra", "does not look again at rows beside the lateral query"),
    "set-returning": _refused("duplicate key value violates unique constraint"),
    "system column": _failed('missing FROM-clause entry for table "o"'),
    "values alone": _refused("query parse error: Defining query references no tables"),
    "function in from": _failed(_NO_HASH),
    "set-returning in select": _refused("duplicate key value violates unique constraint"),
    "whole row": _failed('column "o" does not exist'),
    "right join": _failed(_NO_HASH),
    "offset": _refused("unsupported operator for DIFFERENTIAL mode: OFFSET is not supported"),
    "window by name": _wrong("292 rows missing, 292 extra", "ranks without the window that has a name"),
    "aggregate as window": _failed('column "amount" does not exist'),
    "grouping sets": _refused("UNION types integer and text cannot be matched"),
    "scalar subquery": _refused('column "orders.id" must appear in the GROUP BY clause'),
    "not in": _failed(_NO_HASH),
    "except all": _refused('column "customer" does not exist'),
    "intersect below": _failed('column "c" does not exist'),
    "no from": _refused("query parse error: Defining query references no tables"),
}
CITEXT: Mapping[str, Expected] = {
    "distinct": _wrong("0 rows missing, 2 extra", "compares citext as text"),
    "union": _wrong("0 rows missing, 2 extra", "compares citext as text"),
    "rows": _wrong("0 rows missing, 1 extra", "compares citext as text"),
}
STORAGE_DDL: Mapping[str, Expected] = {
    "rename": Expected("failed", "stream table not found: public.sums", "0.67 knows a stream table by its first name"),
    "move": Expected("failed", "stream table not found: other.totals", "0.67 knows a stream table by its first schema"),
}
WRITES: Mapping[str, Expected] = {
    "DELETE FROM totals WHERE false": Expected(
        "unlike", "DID NOT RAISE", "0.67 refuses writes row by row: a statement of no rows passes"
    ),
}


def _unwritable(words: str) -> Expected:
    return Expected(
        "failed",
        re.escape(f"a write to the source failed: {words}"),
        f"0.67 makes each UPDATE of the source fail: {words}",
    )


COLUMN_TYPES: Mapping[str, Expected] = {
    name: _unwritable(f"operator does not exist: {name} = {name}") for name in ("json", "point", "polygon")
}
_LARGE = Expected(
    "refused",
    "index row requires 32032 bytes, maximum size is 8191",
    "0.67: a row's values go whole into an index, and 32,000 bytes do not fit",
)
LARGE_VALUES: Mapping[str, Expected] = {"key": _LARGE, "without": _LARGE}
NAMES_OF_TABLES: Mapping[str, Expected] = {
    "Upper case": _failed('syntax error at or near "case_1"'),
    'qu"ote': _failed('syntax error at or near ""ote_1 AS ('),
    "it's": _failed("syntax error at or near \"'s_1 AS ("),
    "%I $1 {}": _failed('syntax error at or near "%"'),
}


def _one_hash(missing: int, extra: int) -> Expected:
    figure = f"{missing} rows missing, {extra} extra"
    return Expected(
        "lost" if missing else "wrong",
        f"^after [A-Z_]+: {figure}",
        f"0.67 takes two keys of one hash for one, without an error: {figure}",
    )


ONE_HASH: Mapping[str, Expected] = {
    "texts, groups, key": _one_hash(1, 0),
    "texts, groups, without": _one_hash(1, 0),
    "texts, distinct, key": _one_hash(1, 0),
    "texts, distinct, without": _one_hash(1, 1),
    "texts, values, key": _one_hash(0, 1),
    "texts, values, without": _one_hash(1, 1),
    "texts, joined, without": _one_hash(0, 1),
    "pairs, pairs, key": _one_hash(1, 0),
    "pairs, pairs, without": _one_hash(1, 0),
    "pairs, values, key": _one_hash(1, 1),
    "pairs, rows, key": _one_hash(1, 0),
    "pairs, joined, without": _one_hash(0, 1),
}
