"""Bounds that a load must keep, as words on a command line: ``capture.p99<=20``, ``capture/none>=0.7``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.bench.load.samples import PERCENTILES, LoadResult, percentiles
from harness.bench.load.tables import Strategy
from harness.errors import BadInputError

_FORM = re.compile(r"\s*(?P<what>[a-z0-9./]+)\s*(?P<sign><=|>=)\s*(?P<bound>[0-9]+(\.[0-9]+)?)\s*")
_HINT = "such as capture.p99<=20 (ms), capture.rate>=1000, capture/none>=0.7 or failures<=0"


@dataclass(frozen=True)
class Threshold:
    """A bound.

    Attributes:
        what: ``<strategy>.<percentile or rate>``, ``<strategy>/<strategy>`` (of their rates), or ``failures``.
        is_highest: whether it is a value's highest; else its lowest.
        bound: milliseconds, statements a second, a ratio, a number.
    """

    what: str
    is_highest: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.what}{'<=' if self.is_highest else '>='}{self.bound:g}"

    def holds(self, value: float) -> bool:
        """Whether a value keeps it; one that was not measured does not."""
        if math.isnan(value):
            return False
        return value <= self.bound if self.is_highest else value >= self.bound


def parse_threshold(text: str) -> Threshold:
    """A threshold from its words.

    Raises:
        BadInputError: it is none.
    """
    found = _FORM.fullmatch(text)
    if found is None or not _is_known(found["what"]):
        raise BadInputError(f"{text!r} is no threshold", hint=_HINT)
    return Threshold(found["what"], found["sign"] == "<=", float(found["bound"]))


def _is_known(what: str) -> bool:
    names = {str(strategy) for strategy in Strategy}
    if what == "failures":
        return True
    if "/" in what:
        return set(what.split("/")) <= names and what.count("/") == 1
    strategy, _, figure = what.partition(".")
    return strategy in names and figure in {*PERCENTILES, "rate"}


def measured(what: str, results: Mapping[Strategy, LoadResult]) -> float:
    """The value that a threshold is about; NaN where it was not measured.

    Args:
        what: of a `Threshold`.
        results: of all slices of each strategy.
    """
    if what == "failures":
        return float(sum(sum(result.failures.values()) for result in results.values()))
    if "/" in what:
        of, to = (_rate(results, name) for name in what.split("/"))
        return of / to if to else math.nan
    name, _, figure = what.partition(".")
    if figure == "rate":
        return _rate(results, name)
    found = results.get(Strategy(name))
    return percentiles(found.latencies_ms).get(figure, math.nan) if found else math.nan


def _rate(results: Mapping[Strategy, LoadResult], name: str) -> float:
    found = results.get(Strategy(name))
    return found.rate if found else math.nan
