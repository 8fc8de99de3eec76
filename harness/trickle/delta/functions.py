"""The aggregate functions that have an incremental form: count, sum, avg, min, max."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.window import WEIGHT
from harness.trickle.sources import raw_expression

# Types whose sums are exact and add up: what came minus what went is what a new sum would be.
EXACT = ("smallint", "integer", "bigint", "numeric")
INEXACT = ("real", "double precision")


@dataclass(frozen=True)
class Call:
    """One aggregate of a SELECT list.

    Attributes:
        function: count, sum, avg, min or max.
        place: its name in templates and in the columns of the rows below: ``a0``, ``a1``, ...
        argument: what it is over; None: count(*).
        condition: of FILTER.
        is_distinct: whether equal arguments count once.
        argument_type: type of the argument, as SQL writes it.
        result_type: type of the result.
    """

    function: str
    place: str
    argument: sql.Composable | None
    condition: sql.Composable | None
    is_distinct: bool = False
    argument_type: str = ""
    result_type: str = ""

    @property
    def base_type(self) -> str:
        """The argument's type without its modifier."""
        return self.argument_type.partition("(")[0]

    @property
    def is_linear(self) -> bool:
        """Whether its value follows from the old one and the changes alone, exactly.

        An avg of numeric values whose scale is not declared has as many digits as its most exact row, so a row that
        goes may change them (numeric.c, select_div_scale): such groups are looked at again.
        """
        if self.is_distinct:
            return False
        if self.function == "count":
            return True
        if self.function == "sum":
            return self.base_type in EXACT
        return self.function == "avg" and self.base_type in EXACT and self.argument_type != "numeric"

    @property
    def is_extremum(self) -> bool:
        """Whether it is min or max: what comes can be compared, what goes may need another look."""
        return self.function in {"min", "max"}

    @property
    def needs_settled_rows(self) -> bool:
        """Whether a row with a negative weight must have met its counterpart before."""
        return not self.is_linear

    @property
    def value(self) -> sql.Identifier:
        """The column of the rows below that holds its argument."""
        return sql.Identifier(f"__pgt_x_{self.place}")

    @property
    def chosen(self) -> sql.Identifier:
        """The column of the rows below that holds FILTER's answer."""
        return sql.Identifier(f"__pgt_f_{self.place}")

    def inputs(self) -> list[sql.Composable]:
        """What the rows below compute for it."""
        found: list[sql.Composable] = []
        if self.argument is not None:
            found.append(sql.SQL("{} AS {}").format(self.argument, self.value))
        if self.condition is not None:
            found.append(sql.SQL("({}) AS {}").format(self.condition, self.chosen))
        return found

    def input_names(self) -> list[str]:
        """The names of `inputs`."""
        return [
            *([f"__pgt_x_{self.place}"] if self.argument is not None else []),
            *([f"__pgt_f_{self.place}"] if self.condition is not None else []),
        ]

    def restricted(self, expression: sql.Composable, *more: sql.Composable) -> sql.Composed:
        """An aggregate over the rows that it counts."""
        conditions = [*([self.chosen] if self.condition is not None else []), *more]
        if not conditions:
            return sql.Composed([expression])
        return sql.SQL("{} FILTER (WHERE {})").format(expression, sql.SQL(" AND ").join(conditions))

    def native(self) -> sql.Composed:
        """The aggregate itself, over rows that are there once each."""
        argument: sql.Composable = sql.SQL("*") if self.argument is None else self.value
        distinct = sql.SQL("DISTINCT ") if self.is_distinct else sql.SQL("")
        call = sql.SQL("{}({}{})").format(raw_expression(self.function), distinct, argument)
        return self.restricted(call)

    def count(self) -> sql.Composed:
        """How many rows it counts, by weight."""
        total = sql.SQL("sum({})").format(WEIGHT)
        more = [sql.SQL("{} IS NOT NULL").format(self.value)] if self.argument is not None else []
        return sql.SQL("coalesce({}, 0)::bigint").format(self.restricted(total, *more))

    def total(self) -> sql.Composed:
        """The sum of its arguments, by weight: NULL where there was none."""
        factor = sql.SQL("::double precision") if self.base_type in INEXACT else sql.SQL("")
        product = sql.SQL("{} * {}{}").format(self.value, WEIGHT, factor)
        if self.base_type in {"numeric", "bigint"}:
            # Most weights are 1 and -1, and a product of numerics costs several times as much as a sign. Of bigint, the
            # least number has no counterpart but among numerics.
            product = sql.SQL(
                "CASE {w} WHEN 1 THEN {x}::numeric WHEN -1 THEN - {x}::numeric ELSE {x}::numeric * {w} END"
            ).format(w=WEIGHT, x=self.value)
        return self.restricted(sql.SQL("sum({})").format(product))

    def weighted(self) -> sql.Composed:
        """The aggregate over weighted rows; where `needs_settled_rows`, of settled ones."""
        if self.is_distinct or self.is_extremum:
            return self.native()
        if self.function == "count":
            return self.count()
        if self.function == "sum":
            # Of rows that all met their counterparts the sum is 0, and sum has to be NULL.
            return sql.SQL("(CASE WHEN {} <> 0 THEN {} END)::{}").format(
                self.count(), self.total(), raw_expression(self.result_type)
            )
        return sql.SQL("({})::{}").format(
            quotient(self.total(), self.count(), self.base_type), raw_expression(self.result_type)
        )


def quotient(total: sql.Composable, count: sql.Composable, base_type: str) -> sql.Composed:
    """An average from a sum and a count, computed as PostgreSQL's own avg does it; NULL of nothing."""
    number = sql.SQL("double precision") if base_type in INEXACT else sql.SQL("numeric")
    return sql.SQL("(({})::{} / nullif({}, 0)::{})").format(total, number, count, number)
