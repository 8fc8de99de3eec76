"""What is due and what may begin now: pure functions of what was seen, with no server and no clock of their own."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from harness.errors import BadInputError
from harness.scheduler.entries import Entry, Look
from harness.trickle.schedules import After, due_at, read_schedule

# Who has just made a stream table fills it; after this long without that it is left to the scheduler, in seconds.
LEFT_UNFILLED_AFTER_S = 60.0


@dataclass
class Memory:
    """What a scheduler remembers of a stream table between two looks; the catalog has the rest.

    Attributes:
        failures: refreshes that failed since the last good one.
        not_before: the moment of the next try, by the monotonic clock; 0: at once.
        followed: of one with ``after``: the newest refresh of what it reads that it has followed.
    """

    failures: int = 0
    not_before: float = 0.0
    followed: datetime | None = None


@dataclass(frozen=True)
class Due:
    """A stream table that is to be refreshed.

    Attributes:
        entry: it.
        since: from when on it was due, by the server's clock.
        follows: of one with ``after``: the refresh that it follows.
    """

    entry: Entry
    since: datetime
    follows: datetime | None = None


@dataclass
class Plan:
    """What is due at one look, and what cannot be.

    Attributes:
        due: the oldest first.
        refused: why a stream table is left alone that asks to be refreshed, by number.
        next_at: when the next one will be due, by the server's clock; None: none by a clock.
    """

    due: list[Due] = field(default_factory=list)
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    next_at: datetime | None = None


def find_cycles(entries: Mapping[int, Entry]) -> list[list[int]]:
    """Stream tables that read each other in a circle.

    Args:
        entries: all of them.

    Returns:
        One list of numbers a circle, each read by the one after it, the first one by the last.
    """
    left = dict(entries)
    found: list[list[int]] = []
    while True:
        sorter = graphlib.TopologicalSorter({number: entry.reads & left.keys() for number, entry in left.items()})
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            cycle: list[int] = list(error.args[1][:-1])
            found.append(cycle)
            for number in cycle:
                del left[number]
        else:
            return found


def describe_cycle(entries: Mapping[int, Entry], cycle: list[int]) -> tuple[str, str]:
    """What is wrong with a circle, and what to do."""
    names = [entries[number].name for number in cycle]
    return (
        f"stream tables read each other in a circle: {' -> '.join([*names, names[0]])}",
        f"none of them can be refreshed after what it reads; drop one: harness st drop {names[-1]}",
    )


def plan(seen: Look, memories: Mapping[int, Memory], monotonic: float, *, errors_until_error: int) -> Plan:
    """What is due.

    Args:
        seen: the catalog.
        memories: what is remembered, by number.
        monotonic: the client's monotonic clock, in seconds, for pauses after failures alone.
        errors_until_error: see `StreamTables`.
    """
    made = Plan()
    for cycle in find_cycles(seen.entries):
        for number in cycle:
            made.refused[number] = describe_cycle(seen.entries, cycle)
    for number, entry in seen.entries.items():
        if number in made.refused or entry.schedule is None:
            continue
        if not entry.has_table:
            made.refused[number] = (
                f"{entry.name} has no table any more",
                "harness st repair takes what is left of it away",
            )
            continue
        try:
            found = _due(entry, seen, memories.get(number, Memory()), errors_until_error)
        except BadInputError as error:
            made.refused[number] = (f"{entry.name}: {error.message}", error.hint)
            continue
        if found is None:
            continue
        if found.since > seen.now:
            made.next_at = min(found.since, made.next_at or found.since)
        elif memories.get(number, Memory()).not_before <= monotonic:
            made.due.append(found)
    made.due.sort(key=lambda due: due.since)
    return made


def _due(entry: Entry, seen: Look, memory: Memory, errors_until_error: int) -> Due | None:
    """When it is due, be it to come; None: never by what is known now."""
    if entry.schedule is None or entry.status == "SUSPENDED":
        return None
    schedule = read_schedule(entry.schedule)
    if entry.status == "ERROR":
        # A change of a source put it there, not its own failures: filling it anew mends it.
        is_mendable = entry.needs_reinit and entry.failures < errors_until_error
        return Due(entry, entry.updated_at) if is_mendable else None
    if entry.status == "INITIALIZING":
        left_since = entry.updated_at + timedelta(seconds=LEFT_UNFILLED_AFTER_S)
        return Due(entry, left_since)
    if entry.needs_reinit:
        return Due(entry, entry.updated_at)
    if isinstance(schedule, After):
        return _due_after(entry, seen, memory)
    moment = due_at(schedule, entry.fresh_at)
    return None if moment is None else Due(entry, moment)


def _due_after(entry: Entry, seen: Look, memory: Memory) -> Due | None:
    read = [seen.entries[number] for number in entry.reads if number in seen.entries]
    if not read:
        raise BadInputError(
            "it is to be refreshed after its sources, and reads no stream table",
            hint=f"give it a schedule of its own: harness st alter {entry.name} --schedule 30s",
        )
    # What is seen in the catalog is committed: a refresh that begins now has it.
    newest = max((one.refreshed_at for one in read if one.refreshed_at is not None), default=None)
    followed = memory.followed or entry.fresh_at
    if newest is None or (followed is not None and newest <= followed):
        return None
    return Due(entry, newest, follows=newest)


def ready(made: Plan, seen: Look, running: Collection[int]) -> list[Due]:
    """What of a plan may begin now, in order: after what it reads, and not beside it.

    Args:
        made: the plan.
        seen: the same look.
        running: numbers of those being refreshed.
    """
    due_since = {due.entry.pgt_id: due.since for due in made.due}
    found: list[Due] = []
    busy = set(running)
    for due in made.due:
        number = due.entry.pgt_id
        if number in busy:
            continue
        above = _all_read(seen.entries, number)
        # What it reads goes first, if that was not refreshed since this one is due: so none waits for ever for a source
        # that is always due.
        waits_for = any(
            other in due_since and _is_older(seen.entries[other], due.since) and other not in made.refused
            for other in above
        )
        neighbours = {other for other in busy if other in due.entry.reads or number in _reads(seen.entries, other)}
        if waits_for or neighbours or above & busy:
            continue
        found.append(due)
        busy.add(number)
    return found


def _is_older(entry: Entry, moment: datetime) -> bool:
    return entry.fresh_at is None or entry.fresh_at < moment


def _reads(entries: Mapping[int, Entry], number: int) -> frozenset[int]:
    return entries[number].reads if number in entries else frozenset()


def _all_read(entries: Mapping[int, Entry], number: int) -> set[int]:
    found: set[int] = set()
    todo = list(_reads(entries, number))
    while todo:
        other = todo.pop()
        if other not in found:
            found.add(other)
            todo.extend(_reads(entries, other))
    return found - {number}
