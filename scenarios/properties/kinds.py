"""The types that random tables have, with few values each, so that rows meet, repeat and collide."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString

from hypothesis import strategies as st
from psycopg import sql


@dataclass(frozen=True, eq=False)
class Kind:
    """A type; equal to itself alone.

    Attributes:
        written: as SQL writes it.
        values: what a column of it may hold, besides NULL.
        is_number: whether it can be added up.
        has_order: whether PostgreSQL has min and max of it.
    """

    written: LiteralString
    values: tuple[Any, ...]
    is_number: bool = False
    has_order: bool = True

    def literal(self, value: Any) -> sql.Composed:
        """A value of it in a statement."""
        return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(self.written))


INTEGER = Kind("integer", (0, 1, 2, 3, -1, 7), is_number=True)
BIGINT = Kind("bigint", (0, 1, 2, 10**15, -(10**15)), is_number=True)
# Equal values of other scales, and one that no sum gets rid of by subtraction.
MONEY = Kind("numeric(10,2)", (Decimal("0.00"), Decimal("1.00"), Decimal("-2.50"), Decimal("99999.99")), is_number=True)
NUMERIC = Kind(
    "numeric",
    (Decimal("1"), Decimal("1.0"), Decimal("1.000"), Decimal("-0.125"), Decimal("1e-20"), Decimal("NaN")),
    is_number=True,
)
TEXT = Kind("text", ("", "a", "A", "b ", "it's", "ß%", "NULL"))
BOOLEAN = Kind("boolean", (True, False), has_order=False)
DATE = Kind("date", (dt.date(2026, 1, 1), dt.date(2026, 2, 28), dt.date(1999, 12, 31)))
TIMESTAMP = Kind(
    "timestamp",
    (dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, 12, 30), dt.datetime(1970, 1, 1)),  # noqa: DTZ001
)
# Sums of these are exact in any order; the oracle rounds in any case.
FLOAT = Kind("double precision", (0.0, -0.0, 0.5, 1.25, -3.5, 1024.0, float("nan"), float("inf")), is_number=True)
UUID = Kind("uuid", (uuid.UUID(int=0), uuid.UUID(int=7), uuid.UUID(int=2**128 - 1)), has_order=False)
MOOD = Kind("public.mood", ("sad", "ok", "happy"))

KINDS = (INTEGER, BIGINT, MONEY, NUMERIC, TEXT, BOOLEAN, DATE, TIMESTAMP, FLOAT, UUID, MOOD)
MAKE_MOOD = "CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy')"


def values(kind: Kind, *, nullable: bool = True) -> st.SearchStrategy[Any]:
    """A value for a column; NULL about once in five where it may be."""
    found = st.sampled_from(kind.values)
    return st.one_of(found, found, found, found, st.none()) if nullable else found
