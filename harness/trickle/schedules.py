"""When a stream table is due: every so often, by cron, or ``after`` its sources; the server's clock says when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from harness.errors import BadInputError

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
# Spans as 0.2 reads them too (pgtrickle.parse_duration_seconds): a plain number is seconds, and there are weeks.
_SPAN = re.compile(r"(\d+[smhdw])+|\+?\d+")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
AFTER = "after"
# Longer than this no span is taken: a datetime has an end.
_LONGEST_S = 10 * 366 * 86_400


@dataclass(frozen=True)
class Every:
    """Due when its rows are so old, in seconds."""

    seconds: int


@dataclass(frozen=True)
class Cron:
    """Due at the moments of a cron expression, in UTC."""

    expression: str


@dataclass(frozen=True)
class After:
    """Due when a stream table that it reads was refreshed."""


Schedule = Every | Cron | After


def is_span(text: str) -> bool:
    """Whether a schedule is written as a span of time, rightly or not: neither as cron nor ``after``."""
    return not text.strip().startswith("@") and len(text.split()) < 5 and text.strip().lower() != AFTER


def is_after(text: str | None) -> bool:
    """Whether a schedule is ``after``."""
    return text is not None and text.strip().lower() == AFTER


def read_schedule(text: str) -> Schedule:
    """A schedule as the catalog has it.

    Args:
        text: ``30s``, ``1h30m``, ``*/5 * * * *``, ``@hourly``, ``after``.

    Raises:
        BadInputError: it can't be read; names it.
    """
    word = text.strip()
    if word.lower() == AFTER:
        return After()
    if is_span(word):
        seconds = sum(int(number) * _UNITS_S[unit] for number, unit in re.findall(r"(\d+)([smhdw])", word))
        if not _SPAN.fullmatch(word) or not 1 <= (seconds or int(re.sub(r"\D", "", word) or 0)) <= _LONGEST_S:
            raise _unreadable(text, "it is no span of time")
        return Every(seconds or int(word))
    expression = _MACROS.get(word.lower(), word)
    try:
        # One that never comes, such as the 30th of February, ends the search after some years.
        next(CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise _unreadable(text, f"it is no cron expression ({error})") from None
    except StopIteration:
        raise _unreadable(text, "its moment never comes") from None
    return Cron(expression)


def _unreadable(text: str, why: str) -> BadInputError:
    return BadInputError(
        f"schedule {text!r} can't be read: {why}",
        hint="write a span (30s, 5m, 1h30m), cron in UTC ('*/5 * * * *', @hourly), or after: harness st alter NAME"
        " --schedule 5m",
    )


def due_at(schedule: Schedule, fresh_at: datetime | None) -> datetime | None:
    """From when on a stream table is due.

    Args:
        schedule: its own.
        fresh_at: as of when its rows are, by the server's clock; None: it was never filled.

    Returns:
        The moment; None for ``after``, which follows its sources and no clock. What was never filled is due at once.
    """
    if isinstance(schedule, After):
        return None
    if fresh_at is None:
        return datetime(2000, 1, 1, tzinfo=UTC)
    if isinstance(schedule, Every):
        return fresh_at + timedelta(seconds=schedule.seconds)
    return next(CronSim(schedule.expression, fresh_at.astimezone(UTC)))
