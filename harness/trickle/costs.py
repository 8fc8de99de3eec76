"""When recomputing is cheaper: what both have cost on this stream table, by the catalog's measures of each refresh."""

from __future__ import annotations

from harness.trickle.catalog import StreamTable

# Below so many changes a refresh costs what its statements cost, whatever their number: no measure of a single change.
FEWEST_TO_MEASURE = 100
# What a refresh takes whatever it does; counted with the changes, a small refresh would make a change look dear.
FIXED_MS = 5.0
# A refresh is never held to be more than nine tenths fixed: what a change costs is not nothing.
LEAST_SHARE = 0.1
# How much of the last measure a new one replaces: one slow refresh on a busy machine must not decide for long.
NEW_SHARE = 0.5
# After recomputing, what a change is held to cost shrinks a little, so that the delta is tried again some time.
FORGET = 0.9


def predicted_ms(stream_table: StreamTable, change_count: int) -> float | None:
    """What a delta of so many changes would cost, in milliseconds; None: not known yet."""
    if stream_table.us_per_change is None:
        return None
    return stream_table.us_per_change * change_count / 1000


def reason_to_recompute(stream_table: StreamTable, change_count: int) -> str:
    """Why AUTO recomputes; empty if it does not.

    Args:
        stream_table: with what both have cost, as the catalog has it.
        change_count: captured rows that a delta would take.
    """
    expected_ms = predicted_ms(stream_table, change_count)
    if expected_ms is None or stream_table.last_full_ms is None or change_count < FEWEST_TO_MEASURE:
        return ""
    if expected_ms <= stream_table.last_full_ms:
        return ""
    return (
        f"{change_count} changes at {stream_table.us_per_change:.0f} us would take {expected_ms:.0f} ms,"
        f" recomputing took {stream_table.last_full_ms:.0f} ms"
    )


def reason_for_delta(stream_table: StreamTable, change_count: int) -> str:
    """Why the delta is taken."""
    expected_ms = predicted_ms(stream_table, change_count)
    if expected_ms is None or stream_table.last_full_ms is None:
        return f"{change_count} changes"
    return f"{change_count} changes, about {expected_ms:.0f} ms; recomputing took {stream_table.last_full_ms:.0f} ms"


def measured(stream_table: StreamTable, change_count: int, elapsed_ms: float, *, is_full: bool) -> float | None:
    """What a change is now held to cost, in microseconds; None: as before.

    Args:
        stream_table: as the catalog had it before this refresh.
        change_count: captured rows that the refresh took.
        elapsed_ms: how long it took, in milliseconds.
        is_full: whether it computed all rows anew, and so says nothing of a change.
    """
    known = stream_table.us_per_change
    if is_full:
        return None if known is None else known * FORGET
    if change_count < FEWEST_TO_MEASURE:
        return None
    now = max(elapsed_ms - FIXED_MS, elapsed_ms * LEAST_SHARE) * 1000 / change_count
    return now if known is None else known * (1 - NEW_SHARE) + now * NEW_SHARE
