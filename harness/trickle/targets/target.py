"""What keeps a query's result in a table: how it is filled, and how it follows the changes (D7)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from psycopg import sql

from harness.trickle.delta.rows import Rows
from harness.trickle.delta.window import Moment, Window
from harness.trickle.targets.shape import Shape, listed


class Way(Enum):
    """How a delta gets into the table; what Citus allows where is in facts.md, *Applying a delta*."""

    MERGE = "merge"  # one MERGE straight from the buffers: local, or all colocated and so pushed down (F33)
    STAGED_MERGE = "staged_merge"  # the delta in a temporary table, then MERGE: a local table of distributed sources
    STAGED = "staged"  # the delta in a temporary table, then INSERT .. ON CONFLICT and DELETE: reference, distributed


@dataclass(frozen=True)
class Place:
    """Where a stream table is.

    Attributes:
        table: its name as a part of a statement.
        way: how a delta gets into it.
        distribution_column: of a distributed one.
    """

    table: sql.Identifier
    way: Way
    distribution_column: str | None = None


@dataclass(frozen=True)
class Applied:
    """What a delta did.

    Attributes:
        inserted, deleted: rows; a row that changed counts as both.
    """

    inserted: int = 0
    deleted: int = 0


# A statement is composed where it is not known yet: to put it together costs as much as to run a small one.
Making = Callable[[], sql.Composed]


class Runner(Protocol):
    """Who runs a target's statements, or only writes them down.

    Within one window, a purpose and a variant name one statement.
    """

    def run(self, purpose: str, make: Making, *, variant: str = "") -> int:
        """Run a statement; how many rows it was about."""

    def fetch(self, purpose: str, make: Making, *, variant: str = "") -> list[tuple[Any, ...]]:
        """Run a query; its rows."""

    @property
    def is_dry(self) -> bool:
        """Whether statements are written down and not run."""


class Target(abc.ABC):
    """A query's result, kept in a table."""

    #: One or two words for how it works, for history and explain.
    strategy: str
    rows: Rows | None

    @property
    @abc.abstractmethod
    def shape(self) -> Shape:
        """What the table looks like."""

    @abc.abstractmethod
    def full_query(self, moment: Moment, window: Window) -> sql.Composed:
        """All rows that the table has to hold, its columns in order.

        Args:
            moment: at which end of the window; NOW: as the reader's snapshot has the sources.
            window: of the sources.
        """

    @abc.abstractmethod
    def apply(self, runner: Runner, place: Place, window: Window) -> Applied:
        """Bring the table from the window's old end to its new one, in the caller's transaction, on the coordinator.

        Args:
            runner: who runs the statements, or only writes them down.
            place: where the table is.
            window: from where to where.

        Returns:
            What was done. Temporary tables go with the transaction.

        Raises:
            OutOfStepError: the table is not what it was at the old end.
            psycopg.Error: PostgreSQL refused a statement.
        """


def run_merge(runner: Runner, purpose: str, place: Place, merge: Making, *, variant: str = "") -> Applied:
    """Run a MERGE and count what it did.

    Args:
        runner: who runs it.
        purpose: what it is for, as `explain` shows it.
        place: the table; of a distributed one Citus returns no rows, so each row that it touched counts as both.
        merge: makes the statement, without RETURNING.
        variant: which of several of this purpose.

    Returns:
        What it did. Nothing stays behind but that, in the caller's transaction, on the coordinator.
    """
    if place.distribution_column is not None:
        count = runner.run(purpose, merge, variant=variant)
        return Applied(count, count)
    counted = sql.SQL(
        "WITH __pgt_m AS ({} RETURNING merge_action() AS action) SELECT count(*) FILTER (WHERE action <> 'DELETE'),"
        " count(*) FILTER (WHERE action <> 'INSERT') FROM __pgt_m"
    )
    rows = runner.fetch(purpose, lambda: counted.format(merge()), variant=variant)
    return Applied(*rows[0]) if rows else Applied()


def insert_query(place: Place, target: Target, rows: sql.Composable) -> sql.Composed:
    """INSERT of complete rows."""
    return sql.SQL("INSERT INTO {} ({}) {}").format(place.table, listed(target.shape.names), rows)


def stage_query(name: str, query: sql.Composable) -> sql.Composed:
    """A query's rows in a temporary table that goes with the transaction."""
    return sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS {}").format(sql.Identifier(name), query)


def staged(name: str) -> sql.Identifier:
    """A temporary table."""
    return sql.Identifier("pg_temp", name)
