"""What a person asks for when a stream table is made or changed, checked before anything is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from harness.errors import BadInputError, MissingPrivilegeError, QueryRefusedError
from harness.trickle.analysis import Analysis, analyze
from harness.trickle.canonical import plain_query
from harness.trickle.plans import kept_distribution
from harness.trickle.schedules import is_span, read_schedule
from harness.trickle.storage import REFERENCE_BELOW_ROWS
from harness.trickle.targets.shape import RESERVED_PREFIX, ROW_ID
from harness.trickle.targets.whole import WholeTarget

MODES = ("AUTO", "DIFFERENTIAL", "FULL")
PLACEMENTS = ("auto", "local", "reference", "distributed")
_SCHEDULE = re.compile(r"(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?")
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Home:
    """Where a stream table is to be.

    Attributes:
        placement: local, reference or distributed.
        distribution_column: of a distributed one.
        colocate_with: OID of the source with whose shards its own are kept; None: none.
        row_count: how many rows it begins with, at least; 0 where nobody asked.
    """

    placement: str
    distribution_column: str | None = None
    colocate_with: int | None = None
    row_count: int = 0


def schedule_s(schedule: str) -> int:
    """How many seconds a schedule such as ``30s``, ``5m`` or ``1h30m`` is.

    Raises:
        BadInputError: it is no schedule.
    """
    text = schedule.strip()
    total = sum(int(number) * _UNITS_S[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))
    if not _SCHEDULE.fullmatch(text) or total < 1:
        raise BadInputError(
            f"schedule {schedule!r} is no span of time",
            hint="write 30s, 5m, 1h30m or 1d, cron ('*/5 * * * *', @hourly), or after its sources; none: by hand",
        )
    return total


def check_words(schedule: str | None, mode: str, placement: str) -> tuple[str | None, str, str]:
    """Schedule, mode and placement as the catalog keeps them; looked at here, and on no node.

    Args:
        schedule: a span such as ``30s`` or ``1h30m``, cron, or ``after``; None: refreshed by hand.
        mode: AUTO, DIFFERENTIAL or FULL, in any case.
        placement: auto, local, reference or distributed, in any case.

    Raises:
        BadInputError: one of them is no such word.
    """
    if schedule is not None:
        if is_span(schedule):
            schedule_s(schedule)
        else:
            read_schedule(schedule)
    if mode.upper() == "IMMEDIATE":
        raise BadInputError(
            "mode IMMEDIATE is not offered: it makes every writer of a source wait for the stream table",
            hint="use DIFFERENTIAL with a short schedule",
        )
    if mode.upper() not in MODES:
        raise BadInputError(f"there is no mode {mode!r}", hint=f"one of {', '.join(MODES)}")
    if placement.lower() not in PLACEMENTS:
        raise BadInputError(f"there is no placement {placement!r}", hint=f"one of {', '.join(PLACEMENTS)}")
    return schedule.strip() if schedule is not None else None, mode.upper(), placement.lower()


def check_query(connection: psycopg.Connection[Any], query: str, mode: str) -> Analysis:
    """What the query is, if it can be kept in this mode.

    Args:
        connection: to the coordinator, idle.
        query: as it was written.
        mode: AUTO, DIFFERENTIAL or FULL.

    Raises:
        BadInputError, QueryRefusedError, MissingPrivilegeError: it cannot; says why.
    """
    analysis = analyze(connection, plain_query(query))
    _check_columns(analysis)
    _check_sources(connection, analysis)
    if analysis.volatile and mode != "FULL":
        raise QueryRefusedError(
            f"the query calls {', '.join(analysis.volatile)}, which gives another result each time",
            hint="in mode FULL it is evaluated at each refresh; in the others its result would never be right",
        )
    if mode == "DIFFERENTIAL" and not analysis.is_incremental:
        raise QueryRefusedError(
            f"the query has no incremental form: {analysis.reason}", hint="use mode AUTO or FULL, which recompute it"
        )
    return recomputed(analysis) if mode == "FULL" else analysis


def recomputed(analysis: Analysis, reason: str = "mode FULL") -> Analysis:
    """The same query, to be recomputed each time.

    Args:
        analysis: of the query; one that is recomputed anyway stays as it is.
        reason: why, for people.
    """
    if not analysis.is_incremental:
        return analysis
    target = WholeTarget(plain_query(analysis.canonical.text), analysis.canonical.columns)
    return replace(analysis, target=target, reason=reason)


def _check_columns(analysis: Analysis) -> None:
    if not analysis.canonical.columns:
        raise QueryRefusedError("the query has no columns", hint="select at least one")
    for column in analysis.canonical.columns:
        if column.name.startswith(RESERVED_PREFIX):
            raise QueryRefusedError(
                f"column {column.name!r} has a name that stream tables keep for themselves",
                hint="name the columns instead of writing *, or give it an alias",
            )
        if column.name in {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}:
            raise QueryRefusedError(
                f"column {column.name!r} has the name of a system column", hint="give it another with AS"
            )
    if RESERVED_PREFIX + "place_" in analysis.canonical.text:
        raise QueryRefusedError(
            f"the query has a name that begins with {RESERVED_PREFIX}place_", hint="these are this project's own"
        )


def _check_sources(connection: psycopg.Connection[Any], analysis: Analysis) -> None:
    for source in analysis.sources:
        if source.schema.startswith("pg_temp") or source.schema.startswith("pg_toast"):
            raise QueryRefusedError(
                f"{source.name} is a temporary table, which others cannot see", hint="read from a permanent one"
            )
        if source.schema in {"pgtrickle", "pgtrickle_changes", "information_schema", "pg_catalog"}:
            raise QueryRefusedError(
                f"{source.qualified} is a catalog: its changes cannot be followed", hint="read from a table of yours"
            )
        if not analysis.is_incremental or not source.is_table:
            continue
        row = connection.execute(
            "SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = %s", [source.relid]
        ).fetchone()
        if row is None or not row[0]:
            raise MissingPrivilegeError(
                f"capture needs triggers on {source.qualified}, which belongs to somebody else",
                hint="become a member of its owner's role, or a superuser",
            )


def check_access_method(connection: psycopg.Connection[Any]) -> None:
    """Refuse where a table would be made columnar, as the session asks for: such a table takes no UPDATE and no DELETE.

    Raises:
        QueryRefusedError: it would be.
    """
    row = connection.execute("SELECT current_setting('default_table_access_method')").fetchone()
    if row is not None and row[0] != "heap":
        raise QueryRefusedError(
            f"a stream table cannot be {row[0]}: its rows are updated and deleted, which {row[0]} tables do not know",
            hint="SET default_table_access_method = heap",
        )


def choose_home(connection: psycopg.Connection[Any], analysis: Analysis, placement: str, *, has_citus: bool) -> Home:
    """Where a stream table goes: the plan's table (P5.1), beside its source wherever the query keeps its distribution.


    Args:
        connection: to the coordinator.
        analysis: of the query.
        placement: what was asked for.
        has_citus: whether there is a cluster.

    Raises:
        BadInputError: the placement needs Citus.
    """
    if placement in {"reference", "distributed"} and not has_citus:
        raise BadInputError(
            f"placement {placement} needs Citus, which database {connection.info.dbname!r} is without",
            hint="use local or auto, or CREATE EXTENSION citus",
        )
    distributed = [source for source in analysis.sources if source.is_distributed]
    if placement == "local" or (placement == "auto" and not distributed):
        return Home("local")
    if placement == "reference":
        return Home("reference")
    row_count = bounded_row_count(connection, analysis)
    if placement == "auto" and row_count < REFERENCE_BELOW_ROWS:
        return Home("reference", row_count=row_count)
    kept = kept_distribution(analysis)
    if kept is not None:
        return Home("distributed", kept[0], kept[1].relid, row_count)
    return Home("distributed", ROW_ID, None, row_count)


def bounded_row_count(connection: psycopg.Connection[Any], analysis: Analysis) -> int:
    """How many rows the query has, counted up to where it no longer matters.

    Better than an estimate, which for distributed tables the planner has none of (F6).

    Args:
        connection: to the coordinator; the query runs there, and nothing stays behind.
        analysis: of the query.

    Returns:
        Their number, at most 50 times what a reference table may have.
    """
    most = REFERENCE_BELOW_ROWS * 50
    with connection.transaction():
        if analysis.sources and any(source.is_distributed for source in analysis.sources):
            connection.execute("SET LOCAL citus.enable_repartition_joins = on")
        query = psycopg.sql.SQL("SELECT count(*) FROM (SELECT 1 FROM ({}\n) AS __pgt_q LIMIT {}) AS __pgt_r").format(
            plain_query(analysis.canonical.text), psycopg.sql.Literal(most)
        )
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
