"""What every operator answers: its rows at a moment, and how they changed over a window, as weighted sets (D6, F21)."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.window import WEIGHT, WEIGHT_NAME, Moment, Window

ONE = sql.SQL("1::bigint")
# Any number but 0; this one is that of stable names (D1), read as a signed number.
HASH_SEED = 0x517C_C1B7_2722_0A95


@dataclass(frozen=True)
class Rows(abc.ABC):
    """A query with named columns.

    Attributes:
        columns: their names, in order.
    """

    columns: tuple[str, ...]

    @abc.abstractmethod
    def sources(self) -> frozenset[int]:
        """OIDs of the tables that it reads."""

    @abc.abstractmethod
    def at_query(self, moment: Moment, window: Window) -> sql.Composed:
        """Its rows at one end of the window, with weights: those of equal rows add up to how often it is there.

        Args:
            moment: which end.
            window: what each source's buffer has between the two.

        Raises:
            ValueError: a source has no old end, and that was asked for.
        """

    def at_parts(self, moment: Moment, window: Window) -> list[sql.Composed]:
        """`at_query` in parts, whose rows together are its own: a join with each is planned by itself."""
        return [self.at_query(moment, window)]

    @abc.abstractmethod
    def delta_query(self, window: Window) -> sql.Composed | None:
        """How its rows changed, with weights; None: none of its sources changed."""

    @abc.abstractmethod
    def is_plain(self, moment: Moment, window: Window) -> bool:
        """Whether each row of `at_query` has the weight 1."""

    def is_unique(self) -> bool:
        """Whether no two of its rows can be equal."""
        return False


def names(columns: Sequence[str]) -> list[sql.Composable]:
    """Columns by name."""
    return [sql.Identifier(column) for column in columns]


def select(
    items: Sequence[sql.Composable],
    source: sql.Composable,
    *,
    where: sql.Composable | None = None,
    group_by: Sequence[sql.Composable] = (),
    having: sql.Composable | None = None,
) -> sql.Composed:
    """One SELECT."""
    parts: list[sql.Composable] = [sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(items), source)]
    if where is not None:
        parts.append(sql.SQL("WHERE {}").format(where))
    if group_by:
        parts.append(sql.SQL("GROUP BY {}").format(sql.SQL(", ").join(group_by)))
    if having is not None:
        parts.append(sql.SQL("HAVING {}").format(having))
    return sql.SQL(" ").join(parts)


def derived(query: sql.Composable, alias: str) -> sql.Composed:
    """A query in FROM."""
    return sql.SQL("({}) AS {}").format(query, sql.Identifier(alias))


def union_all(queries: Sequence[sql.Composed]) -> sql.Composed:
    """Queries after one another."""
    return sql.SQL(" UNION ALL ").join(queries)


def as_column(expression: sql.Composable, name: str) -> sql.Composed:
    """An expression with a name."""
    return sql.SQL("{} AS {}").format(expression, sql.Identifier(name))


def row_hash(values: Sequence[sql.Composable]) -> sql.Composed:
    """PostgreSQL's own hash of a row, in 64 bits; equal for rows that are equal.

    Seeded: without a seed, a NULL and the number 0.0 have one hash, 0 (hashfunc.c, rowtypes.c; found by the property
        test).
    """
    return sql.SQL("hash_record_extended(ROW({}), {})").format(sql.SQL(", ").join(values), sql.Literal(HASH_SEED))


def settled(query: sql.Composable, columns: Sequence[str]) -> sql.Composed:
    """Rows of which each is there once for itself: weights of equal ones added up, none left that are zero."""
    listed = names(columns)
    total = sql.SQL("sum({})").format(WEIGHT)
    return select(
        [*listed, as_column(sql.SQL("{}::bigint").format(total), WEIGHT_NAME)],
        derived(query, "__pgt_s"),
        group_by=listed or (sql.SQL("()"),),
        having=sql.SQL("{} <> 0").format(total),
    )
