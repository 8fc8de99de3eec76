"""What the groups about capture work with: a connection, a budget of time, names by place, and where findings go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.bench.interleaved import Contestant, measure, ratio
from harness.bench.model import Gathered, Measurement, Ratio, Tell
from harness.bench.places import BenchPlace
from harness.bench.tables import Connection
from harness.bench.triggers.making import Captured
from harness.bench.writes import Write, Writer

# With fewer an interval says nothing, more are not needed where nothing disturbs.
_MOST_ROUNDS = 15
# What making tables and checking answers leaves of the time.
_TIMED_SHARE = 0.8


class Budget:
    """Gives each part of a group a deadline: what one part leaves over, those after it have.

    Args:
        seconds: of the whole group.
        parts: how many there are.
        now: a monotonic clock, in seconds.
    """

    def __init__(self, seconds: float, *, parts: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends = now() + seconds * _TIMED_SHARE
        self._parts_left = parts
        self.rounds = _MOST_ROUNDS

    def next_part(self) -> Callable[[], bool]:
        """Whether the part that begins now has had its share of what is left; for `measure`."""
        begun = self._now()
        ends = begun + max(self._ends - begun, 0.0) / max(self._parts_left, 1)
        self._parts_left -= 1
        return lambda: self._now() >= ends


@dataclass
class Workbench:
    """One place of a group at work.

    Attributes:
        connection: to the coordinator or the one server, autocommit; its statements are prepared.
        gathered: where findings go.
        budget: of the group.
        tell: reports progress.
        is_plain: whether this is one server; its names begin with ``plain/``.
    """

    connection: Connection
    gathered: Gathered
    budget: Budget
    tell: Tell
    is_plain: bool
    _made: int = field(default=0)

    def name(self, words: str) -> str:
        """A name of a finding here."""
        return f"plain/{words}" if self.is_plain else words

    def shards(self, wanted: int) -> int | None:
        """So many, or None where there are no shards."""
        return None if self.is_plain else wanted

    def next_table(self) -> str:
        """A name for a table that no other has."""
        self._made += 1
        return f"t{self._made}"

    def time(self, contestants: Sequence[Contestant]) -> dict[str, Measurement]:
        """Time them by turns for the next part of the budget; keep and answer what was measured, by name."""
        measured = measure(contestants, rounds=self.budget.rounds, deadline=self.budget.next_part())
        self.gathered.measurements += measured
        return {each.name: each for each in measured}

    def compare(
        self, ways: Mapping[str, Captured], write: Write, *, filtered: frozenset[str] = frozenset()
    ) -> list[Ratio]:
        """Time one write to several tables, each against the first; then check what was captured, and empty them.

        Args:
            ways: the tables by the words of their names.
            write: what is written to each.
            filtered: the words of those that leave out rows that an UPDATE did not change.

        Returns:
            The ratios, in the order of the ways.
        """
        names = {words: self.name(words) for words in ways}
        self.tell(next(iter(names.values())))
        writers = {
            words: Writer(self.connection, captured, write, is_filtered=words in filtered)
            for words, captured in ways.items()
        }
        measured = self.time([writer.contestant(names[words]) for words, writer in writers.items()])
        first, *others = (measured[name] for name in names.values())
        found = [ratio(each, first) for each in others]
        self.gathered.ratios += found
        for words, captured in ways.items():
            if captured.buffer is not None:
                self.gathered.checks.append(writers[words].check(names[words]))
            captured.clear(self.connection)
        return found


@contextmanager
def workbench(place: BenchPlace, gathered: Gathered, budget: Budget, tell: Tell) -> Iterator[Workbench]:
    """A place at work; its connection is closed after the block."""
    with place.connect() as connection:
        connection.prepare_threshold = 0
        yield Workbench(connection, gathered, budget, tell, is_plain=not place.site.has_citus)
