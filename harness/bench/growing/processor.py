"""Whose processor time a refresh takes: the coordinator's or the workers'."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from harness.bench.growing.model import Split
from harness.bench.places import BenchPlace

# Processor time is counted in hundredths of a second: below this a share says nothing.
_LEAST_S = 0.1


def measure_split(place: BenchPlace, work: Callable[[], object], times: int) -> Split | None:
    """The coordinator's share of the servers' processor time.

    Args:
        place: a cluster of local processes.
        work: what is done, through connections that are open.
        times: how often.

    Returns:
        The share; None where the nodes are no processes of this machine, or it took too little to tell.
    """
    site = place.site
    if not site.is_local:
        return None
    pids = [site.local(node).pid for node in site.nodes]
    if None in pids:
        return None
    before = [_spent_s(pid) for pid in pids if pid is not None]
    for _ in range(times):
        work()
    spent = [
        after - known for after, known in zip([_spent_s(pid) for pid in pids if pid is not None], before, strict=True)
    ]
    return Split(spent[0] / sum(spent)) if sum(spent) >= _LEAST_S else None


def _spent_s(pid: int) -> float:
    total = 0.0
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
