"""Bounds of range partitions, from the text that ``pg_get_expr`` gives, and how much of the time ahead they cover."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

INTERVALS = ("hour", "day", "week", "month", "quarter", "year")
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_DELTAS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}
# A bound is a word, a number or a quoted literal, where '' is one quote.
_VALUE = r"(MINVALUE|MAXVALUE|'(?:[^']|'')*'|[^()', ]+)"
_RANGE = re.compile(rf"FOR VALUES FROM \({_VALUE}\) TO \({_VALUE}\)", re.DOTALL)
# ISO, as DateStyle=ISO and TimeZone=UTC of the session make it; years may have more than four digits.
_MOMENT = re.compile(r"(\d+)-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d(?:\.\d+)?))?(\+00)?( BC)?")
# No interval fills a horizon of ten years in more steps than hours have.
_MOST_STEPS = 10 * 366 * 24
SortKey = tuple[int, tuple[Any, ...]]


@dataclass(frozen=True)
class Bound:
    """What one partition takes: from ``lower``, up to but without ``upper``; both None for DEFAULT.

    Attributes:
        sort_key: by the lower bound as a value, not as text: MINVALUE first, DEFAULT last.
        start, end: as moments in UTC; None where they are none that Python has (no bound, infinity, BC, year 10000).
    """

    lower: str | None
    upper: str | None
    is_default: bool
    sort_key: SortKey
    start: datetime | None = None
    end: datetime | None = None

    def covers(self, moment: datetime) -> bool:
        """Whether a row of this moment belongs here."""
        from_it = self.lower in ("MINVALUE", "-infinity") or (self.start is not None and self.start <= moment)
        up_to_it = self.upper in ("MAXVALUE", "infinity") or (self.end is not None and moment < self.end)
        # An end without a moment is far ahead (the year 10000), a start without one far behind (BC).
        is_far = self.end is None and self.upper not in ("MINVALUE", "-infinity", None) and not _is_bc(self.upper)
        is_old = self.start is None and _is_bc(self.lower)
        return (from_it or is_old) and (up_to_it or is_far)


def _is_bc(value: str | None) -> bool:
    return value is not None and value.endswith(" BC")


def _literal(text: str) -> str:
    return text[1:-1].replace("''", "'") if text.startswith("'") else text


def _iso(text: str) -> str:
    """``2026-01-01 00:00:00+00`` as ``2026-01-01T00:00:00Z``; what is no such moment as it is."""
    match = _MOMENT.fullmatch(text)
    if match is None or match[8]:
        return text
    return text.replace(" ", "T").replace("+00", "Z")


def _moment(text: str) -> datetime | None:
    match = _MOMENT.fullmatch(text)
    if match is None or match[8] or not 1 <= int(match[1]) <= 9999:
        return None
    seconds = float(match[6] or 0)
    base = datetime(int(match[1]), int(match[2]), int(match[3]), int(match[4] or 0), int(match[5] or 0))  # noqa: DTZ001 - all in UTC
    return base + timedelta(seconds=seconds)


def _sort_key(text: str, *, is_time: bool) -> SortKey:
    if text in ("MINVALUE", "-infinity"):
        return 0 if text == "MINVALUE" else 1, ()
    if text in ("MAXVALUE", "infinity"):
        return 4 if text == "MAXVALUE" else 3, ()
    match = _MOMENT.fullmatch(text) if is_time else None
    if match is not None:
        year = 1 - int(match[1]) if match[8] else int(match[1])
        clock = (int(match[4] or 0), int(match[5] or 0), float(match[6] or 0))
        return 2, (0, year, int(match[2]), int(match[3]), *clock)
    try:
        return 2, (0, float(text))
    except ValueError:
        return 2, (1, text)


def read_bounds(expression: str | None, *, is_time: bool) -> Bound:
    """The bounds of one partition.

    Args:
        expression: as ``pg_get_expr(relpartbound, 0)`` has it under DateStyle ISO and TimeZone UTC; None for no
            partition at all.
        is_time: whether it is a date or a timestamp.
    """
    if expression is None:
        return Bound(None, None, False, (5, ()))
    match = _RANGE.fullmatch(expression)
    if match is None:
        return Bound(None, None, expression == "DEFAULT", (5, ()))
    lower, upper = _literal(match[1]), _literal(match[2])
    key = _sort_key(lower, is_time=is_time)
    if not is_time:
        return Bound(lower, upper, False, key)
    return Bound(_iso(lower), _iso(upper), False, key, _moment(lower), _moment(upper))


def _add_months(moment: datetime, months: int) -> datetime:
    at = moment.year * 12 + moment.month - 1 + months
    # Partitions by month begin on a day that every month has.
    return moment.replace(year=at // 12, month=at % 12 + 1, day=min(moment.day, 28))


def _width(bounds: Sequence[Bound], interval: str) -> tuple[int, timedelta]:
    """Of one partition, as (months, rest); auto: of the last one that has both bounds. (0, 0): it cannot be told."""
    if interval in _MONTHS:
        return _MONTHS[interval], timedelta()
    if interval in _DELTAS:
        return 0, _DELTAS[interval]
    for each in reversed(bounds):
        if each.start is not None and each.end is not None:
            months = (each.end.year - each.start.year) * 12 + each.end.month - each.start.month
            is_months = (
                months > 0
                and each.start.day <= 28
                and each.start.replace(year=2000, month=1) == (each.end.replace(year=2000, month=1))
            )
            return (months, timedelta()) if is_months else (0, each.end - each.start)
    return 0, timedelta()


def _end_of_step(bounds: Sequence[Bound], at: datetime, months: int, rest: timedelta) -> datetime:
    """Where the missing partition that ``at`` would belong to ends: steps go on from the last end before it."""
    start = max((each.end for each in bounds if each.end is not None and each.end <= at), default=at)
    if rest:
        return start + rest * ((at - start) // rest + 1)
    steps = max(0, ((at.year - start.year) * 12 + at.month - start.month) // months - 1)
    while _add_months(start, steps * months) <= at:
        steps += 1
    return _add_months(start, steps * months)


def count_missing(bounds: Sequence[Bound], now: datetime, horizon_days: int, interval: str) -> int | None:
    """How many partitions of this interval are missing from now to the horizon.

    Args:
        bounds: of all partitions but DEFAULT, by their lower bounds.
        now: in UTC.
        horizon_days: how far ahead, in days.
        interval: one of `INTERVALS`, or ``auto``: as wide as the last partition.

    Returns:
        0 if every moment until then is covered; None if no interval can be told.
    """
    try:
        horizon = now + timedelta(days=horizon_days)
    except OverflowError:
        return None
    months, rest = _width(bounds, interval)
    at, missing = now, 0
    for _ in range(_MOST_STEPS):
        covering = next((each for each in bounds if each.covers(at)), None)
        if covering is not None:
            if covering.end is None or covering.end > horizon:
                return missing
            at = covering.end
            continue
        if at >= horizon:
            return missing
        if not months and not rest:
            return None
        missing += 1
        ahead = _end_of_step(bounds, at, months, rest)
        # A partition that is there ends the missing one before it.
        starts = [each.start for each in bounds if each.start is not None and at < each.start < ahead]
        at = min([ahead, *starts])
    return missing
