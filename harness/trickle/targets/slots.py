"""The numbers that a group keeps for its aggregates, and how a change moves them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from harness.trickle.delta.functions import Call
from harness.trickle.delta.window import WEIGHT
from harness.trickle.sources import raw_expression
from harness.trickle.targets.shape import COUNT


@dataclass(frozen=True)
class Slot:
    """A number that is kept for an aggregate.

    Attributes:
        call: whose.
        kind: ``count`` (of the rows that it counts), ``sum`` or ``extremum``.
        column: where it is kept; the column of the result itself where that is the same number.
        type_text: of the column.
    """

    call: Call
    kind: str
    column: str
    type_text: str

    def delta(self) -> sql.Composed:
        """Its change, over weighted rows."""
        if self.kind == "count":
            return self.call.count()
        if self.kind == "sum":
            return self.call.total()
        came = sql.SQL("{} > 0").format(WEIGHT)
        call = sql.SQL("{}({})").format(raw_expression(self.call.function), self.call.value)
        return self.call.restricted(call, came)

    def lost(self) -> sql.Composed:
        """Of an extremum: the extreme one among the values that went."""
        went = sql.SQL("{} < 0").format(WEIGHT)
        call = sql.SQL("{}({})").format(raw_expression(self.call.function), self.call.value)
        return self.call.restricted(call, went)

    @property
    def lost_column(self) -> str:
        """Where the delta has `lost`."""
        return f"__pgt_lost_{self.call.place}"

    @property
    def may_be_infinite(self) -> bool:
        """Whether it can hold a NaN or an infinity, from which nothing can be taken away."""
        return self.kind == "sum" and self.call.base_type == "numeric"

    def moved(self) -> sql.Composed:
        """A condition over weighted rows: the number may have changed."""
        if self.kind == "extremum":
            return sql.SQL("({}) IS NOT NULL OR ({}) IS NOT NULL").format(self.delta(), self.lost())
        if self.kind == "sum":
            return sql.SQL("coalesce({}, 0) <> 0").format(self.delta())
        return sql.SQL("{} <> 0").format(self.delta())


def slots_of(call: Call, shown: str | None) -> Iterator[Slot]:
    """The numbers that are kept for an aggregate.

    Args:
        call: the aggregate.
        shown: the column of the result that is this aggregate and nothing else; None: there is none.

    Returns:
        One or two, a sum after its count.
    """
    if call.function == "count":
        if call.argument is None and call.condition is None:
            yield Slot(call, "count", COUNT, "bigint")
        else:
            yield Slot(call, "count", shown or f"__pgt_n_{call.place}", "bigint")
        return
    if call.is_extremum:
        yield Slot(call, "extremum", shown or f"__pgt_v_{call.place}", call.result_type)
        return
    yield Slot(call, "count", f"__pgt_n_{call.place}", "bigint")
    # What avg adds up is as wide as sum's own result for the type.
    kept = shown if call.function == "sum" and shown else f"__pgt_s_{call.place}"
    yield Slot(call, "sum", kept, call.result_type if call.function == "sum" else "numeric")
