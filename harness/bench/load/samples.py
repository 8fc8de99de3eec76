"""What a client measured: how many statements, how long each took, exact from all samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# By name, as in columns and thresholds.
PERCENTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class LoadResult:
    """What one client measured of one strategy in one slice of time.

    Attributes:
        count: statements that were answered.
        elapsed_s: in so many seconds.
        latencies_ms: of each, in no order; empty where only the rate was asked for. In an open loop from the moment
            at which the statement was due, so that a server that stalls pays for all who waited meanwhile.
        failures: statements that were refused, by the error.
    """

    count: int
    elapsed_s: float
    latencies_ms: Sequence[float] = ()
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Statements a second."""
        return self.count / self.elapsed_s if self.elapsed_s > 0 else 0.0


def percentile(latencies_ms: Sequence[float], share: float) -> float:
    """The latency that a share of all statements did not exceed: one that was measured, nothing in between.

    Raises:
        ValueError: there is no sample.
    """
    if not len(latencies_ms):
        raise ValueError("no sample")
    return float(np.quantile(np.asarray(latencies_ms, dtype=float), share, method="inverted_cdf"))


def percentiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    """All of `PERCENTILES`; none without a sample."""
    if not len(latencies_ms):
        return {}
    values = np.sort(np.asarray(latencies_ms, dtype=float))
    return {name: percentile(values.tolist(), share) for name, share in PERCENTILES.items()}


def together(results: Sequence[LoadResult]) -> LoadResult:
    """Several slices as one."""
    failures: dict[str, int] = {}
    for result in results:
        for error, count in result.failures.items():
            failures[error] = failures.get(error, 0) + count
    return LoadResult(
        sum(result.count for result in results),
        sum(result.elapsed_s for result in results),
        [each for result in results for each in result.latencies_ms],
        failures,
    )
