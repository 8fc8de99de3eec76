"""What is varied, one function an axis: all sizes measured by turns, their stream tables checked afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

import psycopg

from harness.bench.growing.axis import Axis, Pace, gather_axis, measure_axis, refreshing, timed_ms, writing
from harness.bench.growing.model import Observed
from harness.bench.growing.sources import Grown, grow, make_source, totals_query
from harness.bench.interleaved import Contestant
from harness.bench.model import Gathered, Measurement, Tell
from harness.bench.places import BenchPlace
from harness.bench.statistics import quartiles
from harness.trickle import StreamTables

# Changed rows of a refresh where they are not what is varied.
ROWS = 500
# Shards where they are not what is varied: one for each worker of 1+8.
SHARDS = 8
# Of the sources or stream tables that were added last, how many are looked at.
_LAST = 20

OpenPlace = Callable[[], AbstractContextManager[BenchPlace]]


def _start(stack: ExitStack, place: BenchPlace, name: str = "grown", *, shards: int = SHARDS) -> Grown:
    """A source and a stream table on a connection of their own."""
    connection = stack.enter_context(place.connect())
    stream_tables = stack.enter_context(StreamTables(connection))
    return grow(connection, stream_tables, place, name, shards=shards)


def sources(
    gathered: Gathered, open_place: OpenPlace, sizes: Sequence[int], pace: Pace, *, prefix: str, tell: Tell
) -> None:
    """A database for each size with so many captured sources: what one of them costs to add, to write, to refresh."""
    with ExitStack() as stack:
        grown: dict[int, Grown] = {}
        added: dict[int, Measurement] = {}
        adding = Axis(f"{prefix}sources/add", "captured sources", "ms to begin to capture one more")
        for size in sizes:
            tell(f"{prefix}{size:,} captured sources")
            place = stack.enter_context(open_place())
            grown[size] = _start(stack, place, shards=4)
            took = [_capture_one(grown[size].connection, place, f"source_{number}") for number in range(2, size + 1)]
            if len(took) >= 2:
                added[size] = Measurement(adding.name(size), "ms", tuple(took[-_LAST:]))
        gather_axis(adding, added, gathered)
        _write_and_refresh(gathered, grown, pace, word=f"{prefix}sources", plural="captured sources")
        gathered.checks.extend(each.check() for each in grown.values())


def _capture_one(connection: psycopg.Connection[tuple[object, ...]], place: BenchPlace, name: str) -> float:
    make_source(connection, place, name, shards=4)
    return timed_ms(lambda: connection.execute("SELECT pgtrickle.install_capture(%s::regclass)", [name]))


def _write_and_refresh(gathered: Gathered, grown: Mapping[int, Grown], pace: Pace, *, word: str, plural: str) -> None:
    refresh = Axis(f"{word}/refresh", plural, f"ms to refresh {ROWS} rows of one of them")
    measure_axis(
        refresh, {size: refreshing(refresh.name(size), one, ROWS) for size, one in grown.items()}, pace, gathered
    )
    write = Axis(f"{word}/write", plural, f"ms to write {ROWS} rows into one of them")
    measure_axis(write, {size: writing(write.name(size), one, ROWS) for size, one in grown.items()}, pace, gathered)


def stream_tables(
    gathered: Gathered, open_place: OpenPlace, sizes: Sequence[int], pace: Pace, *, prefix: str, tell: Tell
) -> None:
    """A database for each size with so many stream tables over one source: what each costs to refresh."""
    plural = "stream tables over one source"
    every = Axis(f"{prefix}stream_tables/refresh", plural, f"ms to refresh each of them after {ROWS} rows")
    write = Axis(f"{prefix}stream_tables/write", plural, f"ms to write {ROWS} rows into their source")
    with ExitStack() as stack:
        grown: dict[int, Grown] = {}
        names: dict[int, list[str]] = {}
        for size in sizes:
            tell(f"{prefix}{size:,} stream tables")
            place = stack.enter_context(open_place())
            first = grown[size] = _start(stack, place, shards=4)
            names[size] = [first.totals]
            placement = "distributed" if place.site.has_citus else "local"
            for number in range(2, size + 1):
                made = first.stream_tables.create(
                    f"totals_{number}", totals_query(first.source), None, "AUTO", placement
                )
                names[size].append(made.qualified)

        def all_of(size: int) -> None:
            for name in names[size]:
                grown[size].stream_tables.refresh(name, mode="DIFFERENTIAL")

        def contestant(size: int) -> Contestant:
            return Contestant(
                every.name(size),
                lambda: timed_ms(lambda: all_of(size)) / size,
                before=lambda: grown[size].change(ROWS),
                work=size,
                unit="ms",
            )

        measure_axis(every, {size: contestant(size) for size in sizes}, pace, gathered)
        measure_axis(write, {size: writing(write.name(size), one, ROWS) for size, one in grown.items()}, pace, gathered)
        gathered.checks.extend(each.check() for each in grown.values())


def shards(
    gathered: Gathered, place: BenchPlace, sizes: Sequence[int], pace: Pace, *, tell: Tell
) -> tuple[list[Observed], list[Observed]]:
    """A source, its buffer and its stream table of more and more shards, all colocated.

    Returns:
        Refreshes with rows and without, for the model.
    """
    with ExitStack() as stack:
        grown = {}
        for size in sizes:
            tell(f"{size} shards")
            grown[size] = _start(stack, place, f"shards_{size}", shards=size)
        found = _observe(gathered, grown, pace, "shards", "shards")
        workers = len(place.site.workers)
        return (
            [Observed(workers, size, ROWS, ms) for size, ms in found[0].items()],
            [Observed(workers, size, 0, ms) for size, ms in found[1].items()],
        )


def workers(
    gathered: Gathered, places: Mapping[int, BenchPlace], pace: Pace, *, tell: Tell
) -> tuple[list[Observed], list[Observed]]:
    """The same tables on clusters of more and more workers, all on this machine.

    Returns:
        Refreshes with rows and without, for the model.
    """
    with ExitStack() as stack:
        grown = {}
        for size, place in places.items():
            tell(f"{size} workers")
            grown[size] = _start(stack, place, "by_workers")
        found = _observe(gathered, grown, pace, "workers", "workers")
        return (
            [Observed(size, SHARDS, ROWS, ms) for size, ms in found[0].items()],
            [Observed(size, SHARDS, 0, ms) for size, ms in found[1].items()],
        )


def _observe(
    gathered: Gathered, grown: Mapping[int, Grown], pace: Pace, word: str, plural: str
) -> tuple[dict[int, float], dict[int, float]]:
    busy = Axis(f"{word}/refresh", plural, f"ms to refresh {ROWS} rows")
    idle = Axis(f"{word}/nothing_to_do", plural, "ms to refresh nothing")
    write = Axis(f"{word}/write", plural, f"ms to write {ROWS} rows")
    found = (
        measure_axis(
            busy, {size: refreshing(busy.name(size), one, ROWS) for size, one in grown.items()}, pace, gathered
        ),
        measure_axis(idle, {size: refreshing(idle.name(size), one, 0) for size, one in grown.items()}, pace, gathered),
    )
    measure_axis(write, {size: writing(write.name(size), one, ROWS) for size, one in grown.items()}, pace, gathered)
    gathered.checks.extend(each.check() for each in grown.values())
    return _medians(found[0]), _medians(found[1])


def _medians(found: Mapping[int, Measurement]) -> dict[int, float]:
    return {size: quartiles(each.samples)[1] for size, each in found.items()}


def buffer_rows(
    gathered: Gathered, place: BenchPlace, sizes: Sequence[int], pace: Pace, *, prefix: str, tell: Tell
) -> list[Observed]:
    """More and more captured rows that one refresh takes.

    Returns:
        The refreshes, for the model; none without workers.
    """
    axis = Axis(f"{prefix}buffer_rows/refresh", "captured rows", "ms to refresh them")
    each = Axis(f"{prefix}buffer_rows/each", "captured rows", "microseconds a row")
    with ExitStack() as stack:
        grown = {size: _start(stack, place, f"rows_{size}") for size in sizes}
        tell(f"{prefix}up to {max(sizes):,} captured rows")
        found = measure_axis(
            axis, {size: refreshing(axis.name(size), one, size) for size, one in grown.items()}, pace, gathered
        )
        by_row = {
            size: Measurement(each.name(size), "us", tuple(ms * 1000 / size for ms in one.samples), work=size)
            for size, one in found.items()
        }
        gather_axis(each, by_row, gathered)
        gathered.checks.extend(one.check() for one in grown.values())
        count = len(place.site.workers)
        return [Observed(count, SHARDS, size, ms) for size, ms in _medians(found).items()] if count else []
