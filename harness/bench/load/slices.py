"""Who is under load when: strategies by turns, in slices of time, each round in another order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from harness.bench.load.tables import Strategy

# Between two slices: what one left unanswered is answered, and does not burden the next.
PAUSE_S = 0.1


@dataclass(frozen=True)
class Slice:
    """A stretch of time that belongs to one strategy.

    Attributes:
        round: its number, from 0; every round has each strategy once.
        strategy: whose.
        begin, end: in seconds from the beginning of the load; `end` is no part of it.
    """

    round: int
    strategy: Strategy
    begin: float
    end: float


class Slices:
    """All slices of a load.

    Args:
        strategies: at least one.
        slice_s: of each slice.
        rounds: how many; None: without end.
        pause_s: after each slice, when nothing is sent.
        seed: of the orders.
    """

    def __init__(
        self,
        strategies: Sequence[Strategy],
        *,
        slice_s: float,
        rounds: int | None,
        pause_s: float = PAUSE_S,
        seed: int = 0,
    ) -> None:
        self.strategies = tuple(strategies)
        self.slice_s = slice_s
        self.rounds = rounds
        self._pause_s = pause_s
        self._seed = seed

    def number(self, number: int) -> Slice | None:
        """The slice of a number, from 0; None after the last."""
        turn, place = divmod(number, len(self.strategies))
        if self.rounds is not None and turn >= self.rounds:
            return None
        order = random.Random(self._seed * 1_000_003 + turn).sample(self.strategies, len(self.strategies))  # noqa: S311
        begin = number * (self.slice_s + self._pause_s)
        return Slice(turn, order[place], begin, begin + self.slice_s)

    def at(self, elapsed_s: float) -> Slice | None:
        """The slice of a moment, or in a pause the one that follows; None after the last."""
        number = int(max(elapsed_s, 0.0) // (self.slice_s + self._pause_s))
        found = self.number(number)
        return self.number(number + 1) if found is not None and elapsed_s >= found.end else found


class Due:
    """When statements are due, and in whose slice: at once in a closed loop, at a fixed rate in an open one.

    Args:
        slices: of the load.
        rate: statements a second of all clients, evenly spaced within each slice; None: a closed loop.
    """

    def __init__(self, slices: Slices, rate: float | None) -> None:
        self._slices = slices
        self._rate = rate
        self._slice = 0
        self._given = 0

    def take(self, elapsed_s: float) -> tuple[float, Slice] | None:
        """The next statement: when it is due, in seconds from the beginning, and its slice; None: there is no more.

        What is due may lie in the past: its client was busy, and it counts from then all the same.

        Args:
            elapsed_s: since the beginning, now.
        """
        if self._rate is None:
            found = self._slices.at(elapsed_s)
            return None if found is None else (max(elapsed_s, found.begin), found)
        while (current := self._slices.number(self._slice)) is not None:
            due = current.begin + self._given / self._rate
            # A tenth of a gap: sums of floats must not add a statement at the end.
            if due < current.end - 0.1 / self._rate:
                self._given += 1
                return due, current
            self._slice, self._given = self._slice + 1, 0
        return None
