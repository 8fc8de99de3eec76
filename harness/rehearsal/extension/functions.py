"""Does every function of the extension still run? Its body is validated, and it is called where values are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from harness.engines.installed import EXTENSION
from harness.rehearsal.extension.model import FunctionOutcome, FunctionState
from harness.rehearsal.tables import Connection, TableName

# A function that has nothing to wait for takes milliseconds; one that waits for a scheduler would wait for ever.
_TIMEOUT_MS = 10_000
# What no argument of ours can be the cause of: something that the body names is not there or not of that type
# (42, without 42501 insufficient_privilege and 42710, 42P07 and the like, which say that something exists already),
# a library or its symbol is missing (58, 42883), the catalog's own constraints refuse what the function writes (23),
# a transaction that a function may not leave so (25, 2D, 3B). Not XX000: a library in Rust (pgrx) gives it to every
# refusal of its own, such as 0.2's "is not suspended"; whether one is a defect shows beside a fresh installation.
_DEFECT_CLASSES = ("23", "25", "2D", "3B", "42", "58")
_DEFECTS = frozenset({"XX001", "XX002"})
_NO_DEFECT = frozenset({"42501", "42710", "42P07", "42723"})

_FUNCTIONS = """
SELECT p.oid::bigint, p.oid::pg_catalog.regprocedure::text, n.nspname::text, p.proname::text, p.prokind::text,
       pg_catalog.format_type(p.prorettype, NULL),
       CASE WHEN l.lanvalidator = 0 THEN NULL ELSE v.proname::text END,
       (p.proargnames)[1:p.pronargs], p.pronargs - p.pronargdefaults,
       ARRAY(SELECT pg_catalog.format_type(t, NULL) FROM pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) t)
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = %s
  JOIN pg_catalog.pg_proc p ON p.oid = d.objid AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  LEFT JOIN pg_catalog.pg_proc v ON v.oid = l.lanvalidator
 WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
 ORDER BY 2
"""
_NOT_TO_BE_CALLED = ("trigger", "event_trigger", "internal")
_STREAM_TABLE_WORDS = frozenset(
    {"name", "p_name", "stream_table", "stream_table_name", "st_name", "pgt_name", "p_stream_table"}
)
_SOURCE_WORDS = frozenset({"source", "source_table", "p_source", "table_name", "relation"})
_WORDS: Mapping[str, str] = {
    "channel": "harness",
    "p_channel": "harness",
    "group_name": "harness",
    "interval": "1m",
    "duration": "1m",
    "input": "1m",
}
# How long a function is asked to wait at most, where it can be asked: drain() waits for a scheduler, which a database
# gets within 10 s, else for its 60 s, and heeds no statement_timeout while it does (0.67, src/api/mod.rs).
_PATIENCE: Mapping[tuple[str, str], int] = {("timeout_s", "integer"): 1}


@dataclass(frozen=True)
class KnownValues:
    """What functions are called with.

    Attributes:
        stream_table, source: a stream table of the database, and a table that it reads.
        stream_table_id: its ``pgt_id``.
        relid, source_relid: OIDs of the two.
        query: a query over the source.
    """

    stream_table: TableName
    source: TableName
    stream_table_id: int
    relid: int
    source_relid: int
    query: str

    def value_of(self, name: str, kind: str) -> sql.Composable | None:
        """What to give for a parameter; None where nobody can say."""
        if kind == "text":
            text = self._text_of(name)
            return sql.Literal(text) if text is not None else None
        by_kind: Mapping[str, sql.Composable] = {
            "text[]": sql.SQL("ARRAY[{}]").format(
                sql.Literal(self.source.label if name.startswith("source") else self.stream_table.label)
            ),
            "oid": sql.SQL("{}::oid").format(sql.Literal(self.source_relid if "source" in name else self.relid)),
            "timestamp with time zone": sql.SQL("now()"),
            "boolean": sql.SQL("false"),
        }
        if kind == "bigint" and "pgt_id" in name:
            return sql.SQL("{}::bigint").format(sql.Literal(self.stream_table_id))
        return by_kind.get(kind)

    def _text_of(self, name: str) -> str | None:
        if name in _STREAM_TABLE_WORDS:
            return self.stream_table.label
        if name in _SOURCE_WORDS:
            return self.source.label
        return self.query if name in ("query", "defining_query") else _WORDS.get(name)


@dataclass(frozen=True)
class _Function:
    oid: int
    identity: str
    schema: str
    name: str
    kind: str
    returns: str
    validator: str | None
    parameters: tuple[tuple[str, str], ...]
    required: int


def run_functions(connect: Callable[[], Connection], known: KnownValues | None) -> tuple[FunctionOutcome, ...]:
    """Validate and call each function of the extension; each in a transaction that is rolled back.

    Args:
        connect: a superuser's connection, in autocommit, to a database of a temporary server; called again where a
            function took the server or its session down.
        known: what to call with; None: there is no stream table, so only functions without parameters are called.

    Returns:
        What came of each, by identity. Sequences, notices and what a function does outside the database stay.
    """
    conn = connect()
    try:
        outcomes = []
        for function in _fetch_functions(conn):
            if conn.closed or conn.broken:
                conn = connect()
            outcomes.append(_try(conn, function, known))
        return tuple(outcomes)
    finally:
        conn.close()


def _fetch_functions(conn: Connection) -> list[_Function]:
    found = []
    for row in conn.execute(_FUNCTIONS, [EXTENSION]).fetchall():
        names: Sequence[str] = row[7] or [""] * len(row[9])
        parameters = tuple(zip(names, row[9], strict=False))
        found.append(_Function(row[0], row[1], row[2], row[3], row[4], row[5], row[6], parameters, row[8]))
    return found


def _try(conn: Connection, function: _Function, known: KnownValues | None) -> FunctionOutcome:
    arguments, unknown = _arguments(function, known)
    why = f"no value is known for its parameter {unknown}" if unknown else ""
    if function.returns in _NOT_TO_BE_CALLED or function.kind not in ("f", "p"):
        why = f"returns {function.returns}: only the server calls it"
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(_TIMEOUT_MS)))
            if function.validator is not None:
                conn.execute(
                    sql.SQL("SELECT pg_catalog.{}({}::oid)").format(
                        sql.Identifier(function.validator), sql.Literal(function.oid)
                    )
                )
            if not why:
                conn.execute(_call(function, arguments))
    except psycopg.Error as error:
        return _judge(conn, function.identity, error)
    return FunctionOutcome(function.identity, FunctionState.NOT_CALLED if why else FunctionState.RUNS, message=why)


def _arguments(function: _Function, known: KnownValues | None) -> tuple[list[sql.Composable], str]:
    arguments: list[sql.Composable] = []
    for name, kind in function.parameters[: function.required]:
        value = known.value_of(name, kind) if known is not None else None
        if value is None:
            return [], f"{name} {kind}".strip()
        arguments.append(value)
    for name, kind in function.parameters[function.required :]:
        if (name, kind) in _PATIENCE:
            arguments.append(sql.SQL("{} => {}").format(sql.Identifier(name), sql.Literal(_PATIENCE[name, kind])))
    return arguments, ""


def _call(function: _Function, arguments: Sequence[sql.Composable]) -> sql.Composed:
    text = sql.SQL("CALL {}({})") if function.kind == "p" else sql.SQL("SELECT * FROM {}({})")
    return text.format(sql.Identifier(function.schema, function.name), sql.SQL(", ").join(arguments))


def _judge(conn: Connection, identity: str, error: psycopg.Error) -> FunctionOutcome:
    message = error.diag.message_primary or " ".join(str(error).split())
    if conn.closed or conn.broken:
        return FunctionOutcome(identity, FunctionState.FAILS, error.sqlstate or "", f"the session ended: {message}")
    state = error.sqlstate or ""
    is_defect = state in _DEFECTS or (state[:2] in _DEFECT_CLASSES and state not in _NO_DEFECT)
    return FunctionOutcome(identity, FunctionState.FAILS if is_defect else FunctionState.REFUSES, state, message)
