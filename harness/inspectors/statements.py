"""`citus_top_statements`: which statements Citus ran, how often, how long, and over how many tenants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Found, Inspector, Reason, Source, Unavailable
from harness.inspectors.inputs import Listing, choice, integer
from harness.inspectors.live import DATABASES, HIDDEN, SCHEMAS, STATEMENT_CHARACTERS, statement_mode
from harness.inspectors.redaction import StatementMode
from harness.inspectors.session import Session

TRACK = "citus.stat_statements_track"
_PGSS_QUERY: LiteralString = """
    SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'pg_stat_statements'
"""
# pg_stat_monitor and the like need no line of their own: without pg_stat_statements Citus counts nothing.
_PRELOADED_QUERY: LiteralString = """
    SELECT 'pg_stat_statements' = ANY (pg_catalog.string_to_array(
               pg_catalog.replace(pg_catalog.current_setting('shared_preload_libraries'), ' ', ''), ','))
"""
_RIGHTS_QUERY: LiteralString = """
    SELECT pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE'), pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
"""
# Citus joins its counts to pg_stat_statements by query, user and database, and so has each twice where that counts
# statements inside functions apart (toplevel). Here its counts are summed over the tenants first, and the other's over
# toplevel. What pg_stat_statements has forgotten has no times and no text. The view citus_stat_statements finds
# pg_stat_statements by the search path, and fails without it there.
_QUERY = sql.SQL("""
    WITH c AS (
        SELECT s.queryid, s.userid, s.dbid, pg_catalog.sum(s.calls)::bigint AS calls,
               pg_catalog.count(DISTINCT s.partition_key) AS partition_keys,
               pg_catalog.array_agg(DISTINCT pg_catalog.citus_executor_name(s.executor::integer)) AS executors
        FROM pg_catalog.citus_query_stats() s GROUP BY 1, 2, 3),
    p AS (
        SELECT s.queryid, s.userid, s.dbid, pg_catalog.sum(s.calls)::bigint AS calls,
               pg_catalog.sum(s.total_exec_time) AS total_ms, pg_catalog.sum(s.rows)::bigint AS rows,
               pg_catalog.min(pg_catalog.left(s.query, {characters})) AS query
        FROM {pgss}.pg_stat_statements(true) s GROUP BY 1, 2, 3)
    SELECT c.queryid, r.rolname, d.datname, c.userid::bigint, c.dbid::bigint, c.executors, c.partition_keys, c.calls,
           p.calls, p.total_ms, p.rows, p.query
    FROM c
    LEFT JOIN p ON (p.queryid, p.userid, p.dbid) = (c.queryid, c.userid, c.dbid)
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = c.userid
    LEFT JOIN pg_catalog.pg_database d ON d.oid = c.dbid
""")


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which statements come first, and how much of them is shown."""

    order_by: str = choice("total_ms", ("calls", "total_ms", "mean_ms", "rows"), "what the first ones have most of")
    min_calls: int = integer(1, 1, 2_000_000_000, "leave out statements that Citus ran less often")
    statements: str = statement_mode()


@dataclass(frozen=True)
class Row:
    """A statement of one user in one database, as this coordinator ran it for its clients.

    Attributes:
        rank: by ``order_by``; 1 is first.
        queryid: pg_stat_statements' number.
        user, database: whose and where; None where they were dropped.
        executors: how Citus ran it: adaptive, insert-select. One shard or many is not told apart.
        distinct_partition_keys: for how many values of a distribution column; 0 where none was in the statement.
        citus_calls: how often Citus ran it.
        calls, total_ms, mean_ms, rows: of pg_stat_statements; None where it has forgotten the statement.
        query: its command, or its text without literals.
    """

    rank: int
    queryid: int
    user: str | None
    database: str | None
    executors: tuple[str, ...]
    distinct_partition_keys: int
    citus_calls: int
    calls: int | None
    total_ms: float | None
    mean_ms: float | None
    rows: int | None
    query: str | None


def _require(session: Session, *, sees_settings: bool) -> str:
    """The schema of pg_stat_statements.

    Raises:
        Unavailable: it is not there, not loaded, or Citus counts nothing.
    """
    found = session.rows(_PGSS_QUERY)
    if not found:
        raise Unavailable(
            Reason.PGSS_MISSING, f"{session.database} has no pg_stat_statements: it needs CREATE EXTENSION"
        )
    # Where the setting may not be read, the function says the same (55000).
    if sees_settings and not session.rows(_PRELOADED_QUERY)[0][0]:
        raise Unavailable(
            Reason.NOT_PRELOADED, "shared_preload_libraries has no pg_stat_statements: add it after citus and restart"
        )
    track = session.settings(TRACK)[TRACK]
    if track != "all":
        raise Unavailable(Reason.GUC_OFF, f"{TRACK} is {track}: a superuser sets it to all, and reloads")
    return str(found[0][0])


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    sees_settings, sees_all = session.rows(_RIGHTS_QUERY)[0]
    schema = _require(session, sees_settings=sees_settings)
    found = session.rows(_QUERY.format(pgss=sql.Identifier(schema), characters=sql.Literal(STATEMENT_CHARACTERS)))
    mode: StatementMode = "truncated" if inputs.statements == "truncated" else "fingerprint"
    measured = []
    for queryid, user, database, userid, dbid, executors, keys, citus_calls, calls, total_ms, rows, query in found:
        if queryid is None or citus_calls < inputs.min_calls:
            continue
        row = Row(
            rank=0,
            queryid=queryid,
            user=user,
            database=database,
            executors=tuple(executors),
            distinct_partition_keys=keys,
            citus_calls=citus_calls,
            calls=calls,
            total_ms=None if total_ms is None else round(total_ms, 3),
            mean_ms=None if not calls else round(total_ms / calls, 3),
            rows=rows,
            query=None if query in {None, HIDDEN} else session.redactor.statement(query, mode),
        )
        heat = row.citus_calls if inputs.order_by == "calls" else getattr(row, inputs.order_by)
        measured.append((-(heat or 0), queryid, userid, dbid, row))
    ranked = [each[-1] for each in sorted(measured, key=lambda each: each[:4])]
    return Found(
        [Row(**(vars(row) | {"rank": at})) for at, row in enumerate(ranked, 1)],
        reason=None if sees_all else Reason.INSUFFICIENT_PRIVILEGE,
        message="" if sees_all else "only this role's own statements are here: grant it pg_monitor",
        facts={
            "statements": len(ranked),
            "citus_calls": sum(row.citus_calls for row in ranked),
            "forgotten_by_pg_stat_statements": sum(row.calls is None for row in ranked),
        },
    )


INSPECTOR = Inspector(
    name="citus_top_statements",
    summary="The statements that Citus ran: how often, how long, over how many tenants",
    cost=Cost.CATALOG,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    # The rank is by the metric, then by queryid, user and database.
    ordering=("rank",),
    volatile=frozenset(
        {
            "rank",
            "citus_calls",
            "calls",
            "total_ms",
            "mean_ms",
            "rows",
            "statements",
            "forgotten_by_pg_stat_statements",
        }
    ),
    sources=(
        Source(
            "citus_query_stats",
            (
                ("queryid", "bigint"),
                ("userid", "oid"),
                ("dbid", "oid"),
                ("executor", "bigint"),
                ("partition_key", "text"),
                ("calls", "bigint"),
            ),
            "function",
            note="of this node; of other roles' statements only with pg_read_all_stats",
        ),
        Source("citus_executor_name", (("returns", "text"),), "function"),
        Source(
            "pg_stat_statements",
            (
                ("userid", "oid"),
                ("dbid", "oid"),
                ("queryid", "bigint"),
                ("query", "text"),
                ("calls", "bigint"),
                ("total_exec_time", "double precision"),
                ("rows", "bigint"),
            ),
            "function",
            schema="",
            note="in its extension's schema",
        ),
        Source("citus.stat_statements_track", kind="setting"),
        Source("shared_preload_libraries", kind="setting"),
        Source("pg_extension", (("extname", "name"), ("extnamespace", "oid"))),
        Source("pg_roles", (("oid", "oid"), ("rolname", "name"))),
        SCHEMAS,
        DATABASES,
    ),
    look=_look,
)
