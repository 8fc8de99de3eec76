"""A line through what was measured along an axis: whether it is flat, and where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A cost that over the whole axis grows by no more than this is called flat: two cores shared with others differ by as
# much from one minute to the next.
FLAT_WITHIN = 0.25
# Where a cost has grown by half it is said to bend.
BENDS_AT = 1.5


@dataclass(frozen=True)
class Line:
    """A straight line, and the power of x that fits best.

    Attributes:
        intercept, slope: of ``y = intercept + slope * x``, by least relative squares.
        exponent: of ``y ~ x ** exponent``: 0 is flat, 1 grows as x does.
        r_squared: how much of the differences the straight line explains; 1 where there are none.
    """

    intercept: float
    slope: float
    exponent: float
    r_squared: float

    def at(self, x: float) -> float:
        """What the line says."""
        return self.intercept + self.slope * x


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The line through points; each counts by its relative distance, so that the largest do not decide alone.

    Raises:
        ValueError: fewer than two places, or a y that is not positive.
    """
    x, y = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
    if len(x) != len(y) or len(set(xs)) < 2 or (y <= 0).any() or (x <= 0).any():
        raise ValueError(f"no line goes through {list(xs)}, {list(ys)}")
    weights = 1 / y
    design = np.stack([np.ones_like(x), x], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(design * weights[:, None], y * weights, rcond=None)
    exponent = np.polyfit(np.log(x), np.log(y), 1)[0]
    spread = float(((y - y.mean()) ** 2).sum())
    missed = float(((y - (intercept + slope * x)) ** 2).sum())
    return Line(float(intercept), float(slope), float(exponent), 1.0 if spread == 0 else max(0.0, 1 - missed / spread))


def is_flat(ys: Sequence[float]) -> bool:
    """Whether a cost stays what it is."""
    return max(ys) <= min(ys) * (1 + FLAT_WITHIN)


def bends_at(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The first x from which on the cost is more than `BENDS_AT` times the first; None: nowhere."""
    for number, x in enumerate(xs):
        if all(y > BENDS_AT * ys[0] for y in ys[number:]):
            return x
    return None


def describe(axis: str, cost: str, xs: Sequence[float], ys: Sequence[float]) -> str:
    """A sentence: flat or not, from what to what, by which line, and from where on.

    Args:
        axis: what was varied, plural.
        cost: what it costs, with its unit in parentheses at the end.
        xs, ys: what was measured, in order of x.
    """
    line = fit_line(xs, ys)
    measured = f"{cost}: {ys[0]:.3g} at {xs[0]:,.0f} {axis}, {ys[-1]:.3g} at {xs[-1]:,.0f}"
    if is_flat(ys):
        return f"{measured}: flat."
    if ys[-1] * (1 + FLAT_WITHIN) < ys[0]:
        return f"{measured}: falls."
    bend = bends_at(xs, ys)
    grows = f"{line.intercept:.3g} + {line.slope:.3g} for each of the {axis} (exponent {line.exponent:.2f}"
    grows += f", r² {line.r_squared:.2f})"
    if bend is None:
        return f"{measured}: not quite flat, {grows}, and nowhere half as much again."
    return f"{measured}: {grows}, half as much again from {bend:,.0f} on."
