"""What a load measured, as a file that its parts hand on: each slice, its rate, its latencies; and as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bench.load.samples import PERCENTILES, LoadResult, percentiles, together
from harness.bench.load.tables import Strategy


@dataclass(frozen=True)
class SliceResult:
    """What a client measured in one slice.

    Attributes:
        client: ``locust`` or ``pgbench``.
        users: how many.
        strategy, round: of the slice.
        result: what was measured.
    """

    client: str
    users: int
    strategy: Strategy
    round: int
    result: LoadResult


def by_strategy(slices: Iterable[SliceResult]) -> dict[Strategy, LoadResult]:
    """All slices of each strategy as one."""
    found: dict[Strategy, list[LoadResult]] = {}
    for each in slices:
        found.setdefault(each.strategy, []).append(each.result)
    return {strategy: together(results) for strategy, results in found.items()}


def write_slices(path: Path, slices: Sequence[SliceResult]) -> None:
    """Write slices for `read_slices`, every sample of theirs."""
    found = [
        {
            "client": each.client,
            "users": each.users,
            "strategy": str(each.strategy),
            "round": each.round,
            "count": each.result.count,
            "elapsed_s": each.result.elapsed_s,
            "failures": dict(each.result.failures),
            "latencies_ms": [round(one, 4) for one in each.result.latencies_ms],
        }
        for each in slices
    ]
    path.write_text(json.dumps(found), encoding="utf-8")


def read_slices(path: Path) -> list[SliceResult]:
    """What `write_slices` wrote."""
    return [
        SliceResult(
            str(each["client"]),
            int(each["users"]),
            Strategy(each["strategy"]),
            int(each["round"]),
            LoadResult(int(each["count"]), float(each["elapsed_s"]), each["latencies_ms"], each["failures"]),
        )
        for each in json.loads(path.read_text(encoding="utf-8"))
    ]


COLUMNS = ("client", "users", "strategy", "statements", "per_second", *(f"{name}_ms" for name in PERCENTILES), "failed")


def summary_rows(slices: Sequence[SliceResult]) -> list[tuple[str, ...]]:
    """A row of `COLUMNS` for each client, number of users and strategy, in order of appearance."""
    groups: dict[tuple[str, int], list[SliceResult]] = {}
    for each in slices:
        groups.setdefault((each.client, each.users), []).append(each)
    return [
        (client, str(users), str(strategy), *_figures(result))
        for (client, users), found in groups.items()
        for strategy, result in by_strategy(found).items()
    ]


def _figures(result: LoadResult) -> tuple[str, ...]:
    known: Mapping[str, float] = percentiles(result.latencies_ms)
    return (
        str(result.count),
        f"{result.rate:.1f}",
        *(f"{known[name]:.3f}" if name in known else "" for name in PERCENTILES),
        str(sum(result.failures.values())),
    )


def to_csv(slices: Sequence[SliceResult]) -> str:
    """`summary_rows` as CSV, with its header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(summary_rows(slices))
    return text.getvalue()
