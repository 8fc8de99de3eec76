"""Whether two clients that share no code measured the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.bench.load.samples import LoadResult, percentiles
from harness.bench.load.tables import Strategy

# What two clients may differ by before the report says so.
MARGIN = 0.10


@dataclass(frozen=True)
class Agreement:
    """A figure of both clients.

    Attributes:
        what: such as ``capture: statements a second``.
        locust, pgbench: what each measured.
    """

    what: str
    locust: float
    pgbench: float

    @property
    def difference(self) -> float:
        """By how much of pgbench's figure they differ."""
        return abs(self.locust - self.pgbench) / self.pgbench if self.pgbench else math.inf

    @property
    def is_close(self) -> bool:
        """Whether they differ by no more than `MARGIN`."""
        return self.difference <= MARGIN

    def __str__(self) -> str:
        verdict = "they agree" if self.is_close else f"THEY DIFFER by more than {MARGIN:.0%}"
        return f"{self.what}: locust {self.locust:,.2f}, pgbench {self.pgbench:,.2f}: {self.difference:.0%}, {verdict}"


def compare_clients(
    locust: Mapping[Strategy, LoadResult], pgbench: Mapping[Strategy, LoadResult], *, is_open: bool = False
) -> tuple[Agreement, ...]:
    """A figure of each strategy, and each strategy's against none: what both of them measured.

    Args:
        locust, pgbench: of all slices of each strategy.
        is_open: whether the rate was given: then the figure is the median latency, since how many statements pgbench
            sends is a matter of chance; else the rate.
    """
    what = "median latency, ms" if is_open else "statements a second"
    figures = {
        strategy: (_figure(locust[strategy], is_open=is_open), _figure(pgbench[strategy], is_open=is_open))
        for strategy in locust
        if strategy in pgbench
    }
    found = [Agreement(f"{strategy}: {what}", *both) for strategy, both in figures.items()]
    base = figures.get(Strategy.NONE)
    if base is not None and all(base):
        found += [
            Agreement(f"{strategy} against none", both[0] / base[0], both[1] / base[1])
            for strategy, both in figures.items()
            if strategy is not Strategy.NONE
        ]
    return tuple(found)


def _figure(result: LoadResult, *, is_open: bool) -> float:
    return percentiles(result.latencies_ms).get("p50", 0.0) if is_open else result.rate
