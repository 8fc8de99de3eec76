"""Medians, quartiles and bootstrap intervals; contestants of one round are resampled together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.bench.model import Interval

_RESAMPLES = 2_000
# The same samples give the same interval, in every run and on every machine.
_SEED = 20261121


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile.

    Raises:
        ValueError: there is no sample.
    """
    first, middle, third = np.quantile(_array(samples), [0.25, 0.5, 0.75])
    return float(first), float(middle), float(third)


def median_interval(samples: Sequence[float]) -> Interval:
    """The median with its 95 % bootstrap interval.

    Raises:
        ValueError: there is no sample.
    """
    values = _array(samples)
    resampled = np.median(values[_picks(len(values))], axis=1)
    return _interval(float(np.median(values)), resampled)


def ratio_interval(of: Sequence[float], to: Sequence[float]) -> Interval:
    """The ratio of two medians with its 95 % bootstrap interval, rounds resampled as pairs.

    Args:
        of: the numerator's samples, one a round.
        to: the denominator's, of the same rounds.

    Raises:
        ValueError: they are not of the same rounds, there is none, or the denominator's median is 0.
    """
    upper, lower = _array(of), _array(to)
    if len(upper) != len(lower):
        raise ValueError(f"{len(upper)} samples beside {len(lower)}: they are not of the same rounds")
    if np.median(lower) == 0:
        raise ValueError("the denominator's median is 0")
    picks = _picks(len(upper))
    below = np.median(lower[picks], axis=1)
    below[below == 0] = np.median(lower)
    return _interval(float(np.median(upper) / np.median(lower)), np.median(upper[picks], axis=1) / below)


def _array(samples: Sequence[float]) -> np.ndarray:
    if not samples:
        raise ValueError("no sample")
    return np.asarray(samples, dtype=float)


def _picks(rounds: int) -> np.ndarray:
    return np.random.default_rng(_SEED).integers(0, rounds, size=(_RESAMPLES, rounds))


def _interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    # A median of resamples can lie on one side of the figure itself.
    return Interval(value, min(float(low), value), max(float(high), value))
