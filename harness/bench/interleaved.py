"""Runs contestants by turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.bench.model import Better, Measurement, Ratio
from harness.bench.statistics import ratio_interval


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Contestant:
    """One of the ways that are compared.

    Attributes:
        name: unique among the contestants of a group.
        run: what is timed; what it returns, in ``unit``, takes the place of the seconds it took, if it is a number.
        before: run each time before it, not timed.
        after: run each time after it, not timed.
        work: rows, statements or refreshes of one run.
        unit, better: of what is measured.
    """

    name: str
    run: Callable[[], float | None]
    before: Callable[[], None] = _nothing
    after: Callable[[], None] = _nothing
    work: int = 1
    unit: str = "s"
    better: Better = Better.LOWER


def measure(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    warmups: int = 1,
    deadline: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> list[Measurement]:
    """Time every contestant once a round, in an order that changes from round to round.

    Args:
        contestants: at least one, with different names.
        rounds: how many count.
        warmups: how many rounds before them do not.
        deadline: asked after each counted round from the third on: true ends the measurement early.
        seed: of the orders.

    Returns:
        One measurement a contestant, in their order, all with the same rounds.

    Raises:
        ValueError: two contestants have one name.
    """
    names = [each.name for each in contestants]
    if len(set(names)) != len(names):
        raise ValueError(f"two contestants have one name: {names}")
    samples: dict[str, list[float]] = {name: [] for name in names}
    shuffled = random.Random(seed)  # noqa: S311 - spreads the order, guards nothing
    for number in range(-warmups, rounds):
        for each in shuffled.sample(list(contestants), len(contestants)):
            each.before()
            begun = time.perf_counter()
            found = each.run()
            took_s = time.perf_counter() - begun
            each.after()
            if number >= 0:
                samples[each.name].append(took_s if found is None else found)
        if number >= 2 and deadline():
            break
    return [
        Measurement(each.name, each.unit, tuple(samples[each.name]), work=each.work, better=each.better)
        for each in contestants
    ]


def ratio(of: Measurement, to: Measurement, *, name: str | None = None, better: Better | None = None) -> Ratio:
    """One measurement divided by another of the same rounds; better as the numerator is, unless said otherwise."""
    return Ratio(
        name=name or f"{of.name} : {to.name}",
        of=of.name,
        to=to.name,
        interval=ratio_interval(of.samples, to.samples),
        better=better or of.better,
    )
