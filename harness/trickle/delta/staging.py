"""Joins that Citus cannot plan as they are: their parts come to the coordinator, cut down to what a change can meet.

Citus joins distributed tables on their distribution columns only (F23), and a table with what has to be taken back from
it (F21) is a union, which it joins with even less. A change is small, and so is what it meets: the rows of the other
tables that are equal in the columns of the join. Those are read shard by shard, one table a statement, into temporary
tables, which then join in any way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from psycopg import sql

from harness.trickle.delta.aggregate import Aggregate
from harness.trickle.delta.derived import Derived
from harness.trickle.delta.join import Join
from harness.trickle.delta.project import Project
from harness.trickle.delta.rows import Rows, derived, names, select
from harness.trickle.delta.union_all import UnionAll
from harness.trickle.delta.window import WEIGHT, Window

_X = "__pgt_x"


class Stage(Protocol):
    """Who makes a temporary table from a query."""

    def __call__(self, purpose: str, name: str, query: Callable[[], sql.Composed]) -> None:
        """Make it."""


def joins_of(rows: Rows | None) -> Iterator[Join]:
    """Every join of more than one item, those below others first."""
    if isinstance(rows, Derived):
        yield from joins_of(rows.rows)
    elif isinstance(rows, UnionAll):
        for part in rows.parts:
            yield from joins_of(part)
    elif isinstance(rows, (Project, Aggregate)):
        for item in rows.rows.items:
            yield from joins_of(item.rows)
        if len(rows.rows.items) > 1:
            yield rows.rows.join


def stage_joins(stage: Stage, rows: Rows | None, window: Window) -> Window:
    """Stage every join that reads a distributed table.

    Args:
        stage: makes the temporary tables, in the refresh's transaction.
        rows: the query's operators.
        window: of the refresh.

    Returns:
        The window, with what was staged.
    """
    for join in joins_of(rows):
        if any(window.sources[relid].source.is_distributed for relid in join.sources()):
            window = replace(window, staged={**window.staged, **_stage_join(stage, join, window)})
    return window


def _stage_join(stage: Stage, join: Join, window: Window) -> Mapping[tuple[int, int, int], sql.Identifier]:
    found: dict[tuple[int, int, int], sql.Identifier] = {}
    for changed, item in enumerate(join.items):
        if not window.has_changes(item.rows.sources()):
            continue
        staged: dict[str, sql.Identifier] = {}
        for place in _order(join, changed):
            other = join.items[place]
            purpose = (
                f"the changes of {item.alias}"
                if place == changed
                else f"the rows of {other.alias} that a change of {item.alias} can meet"
            )
            name = f"__pgt_join_{join.number}_{changed}_{place}"
            stage(purpose, name, partial(_staged_query, join, changed, place, dict(staged), window))
            staged[other.alias] = found[join.number, changed, place] = sql.Identifier("pg_temp", name)
    return found


def _staged_query(
    join: Join, changed: int, place: int, staged: Mapping[str, sql.Identifier], window: Window
) -> sql.Composed:
    rows = join.items[place].rows
    if place == changed:
        query = rows.delta_query(window)
        if query is None:
            raise AssertionError("a source changed, and no row did")
    else:
        query = _reduced(join, place, staged, join.other_query(changed, place, window))
    return select([*names(rows.columns), WEIGHT], derived(query, _X))


def _order(join: Join, changed: int) -> list[int]:
    """The item that changed, then each one that is linked to one before, then the others."""
    order = [changed]
    left = [place for place in range(len(join.items)) if place != changed]
    while left:
        there = frozenset(join.items[place].alias for place in order)
        linked = next((place for place in left if _link(join, place, there) is not None), left[0])
        left.remove(linked)
        order.append(linked)
    return order


def _link(join: Join, place: int, there: frozenset[str]) -> tuple[str, tuple[str, str]] | None:
    alias = join.items[place].alias
    for link in join.links:
        found = link.between(alias, there)
        if found is not None:
            return found
    return None


def _reduced(join: Join, place: int, staged: Mapping[str, sql.Identifier], query: sql.Composed) -> sql.Composed:
    link = _link(join, place, frozenset(staged))
    rows = join.items[place].rows
    if link is None:
        return query
    column, (alias, other) = link
    return select(
        [*names(rows.columns), WEIGHT],
        derived(query, _X),
        where=sql.SQL("{} IN (SELECT {} FROM {})").format(
            sql.Identifier(_X, column), sql.Identifier(other), staged[alias]
        ),
    )
