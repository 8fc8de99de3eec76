"""What a refresh would do, without doing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from harness.trickle import costs
from harness.trickle.catalog import StreamTable
from harness.trickle.plans import Plan, empty_cut, make_window, stage
from harness.trickle.pushdown import fetch_plans
from harness.trickle.session import Statements
from harness.trickle.surroundings import is_of_the_surroundings


@dataclass(frozen=True)
class Explanation:
    """How a stream table is refreshed.

    Attributes:
        stream_table: its name as SQL writes it.
        mode: DIFFERENTIAL or FULL: what a refresh of a few changes would choose.
        reason: why.
        strategy: how a delta gets in.
        statements: what each is for, and its SQL.
        pushdown: what Citus makes of each.
        notes: what its owner should know.
    """

    stream_table: str
    mode: str
    reason: str
    strategy: str
    statements: tuple[tuple[str, str], ...]
    pushdown: tuple[str, ...]
    notes: tuple[str, ...]


def explain(
    connection: psycopg.Connection[Any], stream_table: StreamTable, plan: Plan, *, has_citus: bool
) -> Explanation:
    """Write down the statements of a refresh, and ask Citus for its plans of them.

    Args:
        connection: to the coordinator, idle.
        stream_table: which one.
        plan: how it follows its query.
        has_citus: whether there is a cluster.

    Returns:
        The explanation. What was tried is rolled back.
    """
    target = plan.analysis.target
    statements = Statements(connection, is_dry=True)
    old = {source.relid: stream_table.cut(source.stable_name) or empty_cut() for source in plan.sources}
    window = make_window(plan, old=old, new=dict.fromkeys(old, empty_cut()), changed=dict.fromkeys(old))
    if plan.is_incremental:
        window = stage(statements, plan, window)
        target.apply(statements, plan.place, window)
        reason = "its query has an incremental form"
        if stream_table.last_full_ms is not None and stream_table.us_per_change:
            most = int(stream_table.last_full_ms * 1000 / stream_table.us_per_change)
            reason += f"; from about {max(most, costs.FEWEST_TO_MEASURE)} changes on, AUTO recomputes it"
    else:
        statements.run(
            "the query, recomputed", lambda: sql.SQL("{}").format(target.full_query(plan.full_moment, window))
        )
        reason = plan.reason
    pushdown = _pushdown(connection, statements.seen) if has_citus else ()
    return Explanation(
        stream_table.qualified,
        "DIFFERENTIAL" if plan.is_incremental else "FULL",
        reason,
        plan.strategy,
        tuple((purpose, query.as_string(connection)) for purpose, query in statements.seen),
        pushdown,
        plan.analysis.notes,
    )


def _pushdown(connection: psycopg.Connection[Any], statements: list[tuple[str, sql.Composed]]) -> tuple[str, ...]:
    found = []
    for place, (purpose, _query) in enumerate(statements):
        try:
            plans = [plan for _place, plan in fetch_plans(connection, statements, only={place})]
        except psycopg.Error as error:
            if is_of_the_surroundings(error, connection):
                raise
            found.append(f"{purpose}: no plan: {error.diag.message_primary}")
            continue
        found.append(f"{purpose}: {_describe(plans)}")
    return tuple(found)


def _describe(plan: Any) -> str:
    text = json.dumps(plan)
    if "Citus" not in text:
        return "runs on the coordinator"
    if "MERGE INTO ... method" in text or '"Custom Plan Provider": "Citus MERGE' in text:
        return "Citus MERGE through the coordinator"
    tasks = sum(_numbers(plan, "Task Count"))
    how = (
        "pushed down"
        if '"Distributed Subplan"' not in text and '"Subplans"' not in text
        else "pushed down after subplans"
    )
    if "INSERT ... SELECT method" in text or "INSERT/SELECT method" in text:
        how += ", rows by way of the coordinator"
    return f"{how}, {tasks} tasks"


def _numbers(plan: Any, key: str) -> list[int]:
    if isinstance(plan, dict):
        own = [int(plan[key])] if isinstance(plan.get(key), int) else []
        return own + [number for value in plan.values() for number in _numbers(value, key)]
    if isinstance(plan, list):
        return [number for value in plan for number in _numbers(value, key)]
    return []
