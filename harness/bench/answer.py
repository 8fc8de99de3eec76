"""The plan's first risk, answered in one paragraph from the figures of a run: is nextval() across nodes slow?"""

from __future__ import annotations

from collections.abc import Mapping

from harness.bench.model import BenchResult, GroupResult, Interval, Profile

GROUP = "positions"
QUESTION = 'The plan\'s first risk: "if nextval() across nodes is slow, trigger overhead explodes".'
# A position that costs twice what another one costs is what the plan calls an explosion.
_SLOW = 2.0
# The names of measurements (harness/bench/triggers/positions.py), as a person reads them.
_REMOTE = {
    "coordinator/dblink": "a value a row, by dblink over a kept connection",
    "coordinator/default": "a value a row, by a default, row by row through the shell table",
}
_LOCAL = {
    "nextval/cache_1": "nextval, CACHE 1",
    "nextval/cache_100": "CACHE 100",
    "nextval/cache_10000": "CACHE 10,000",
    "nextval/once": "one value a statement, which is what the engine does",
}
_BESIDE = {
    "empty_trigger": "a trigger that does nothing",
    "wal_lsn": "the WAL position",
    "xid": "the transaction's id alone, by which the frontier cuts",
    "cluster_clock": "Citus' cluster clock",
}


def answer_plan(result: BenchResult) -> str:
    """The answer, with the figures that it rests on; what was not measured is not answered.

    Args:
        result: of one run, with or without the group ``positions``.
    """
    group = next((each for each in result.groups if each.name == GROUP), None)
    if group is None or group.skipped:
        why = f": {group.skipped}" if group is not None else f" (harness bench run {GROUP})"
        return f"{QUESTION} Not answered by this run: the group {GROUP} did not run{why}."
    costs, single = _costs(group), _costs(group, "single/")
    local = {words: costs[name] for name, words in _LOCAL.items() if name in costs}
    remote = {words: costs[name] for name, words in _REMOTE.items() if name in costs}
    if not remote or not local:
        said = "Not answered by this run: positions drawn on several nodes were not measured."
        return f"{QUESTION} {said} {_beside(costs)}".rstrip()
    worst, best = max(remote.values(), key=_value), min(local.values(), key=_value)
    verdict = _judge(worst, best)
    sentences = [
        f"{QUESTION} {verdict}: a bulk insert took {_listed(remote)} as long as without capture.",
        f"Drawn from the worker's own part of the sequence it took {_listed(local)}: unique across nodes, in no order.",
        _beside(costs),
        _singles(single),
        "(A smoke run: few rounds.)" if result.profile is Profile.SMOKE else "",
    ]
    return " ".join(filter(None, sentences))


def _judge(worst: Interval, best: Interval) -> str:
    """What the dearest way to ask the coordinator says beside the cheapest way to draw on the worker."""
    if worst.low > best.high * _SLOW:
        return "Yes, where a worker fetches each value from the coordinator"
    if worst.value > best.value * _SLOW:
        return "By the medians yes, where a worker fetches each value from the coordinator, but this run was too noisy"
    return "Not here: what a worker fetches from the coordinator costs about what it draws from a sequence of its own"


def _costs(group: GroupResult, prefix: str = "") -> Mapping[str, Interval]:
    """By position, how many times as long as without capture."""
    return {
        ratio.of.removeprefix(prefix): ratio.interval
        for ratio in group.ratios
        if ratio.to == f"{prefix}none" and ratio.of.startswith(prefix)
    }


def _beside(costs: Mapping[str, Interval]) -> str:
    known = {words: costs[name] for name, words in _BESIDE.items() if name in costs}
    return f"Beside them: {_listed(known)}." if known else ""


def _singles(costs: Mapping[str, Interval]) -> str:
    """Where each statement has one row, a round trip more is beside several that there are anyway."""
    named = {**_REMOTE, **_LOCAL}
    known = {words: costs[name] for name, words in named.items() if name in costs}
    return f"Statements of one row: {_listed(known)}." if known else ""


def _listed(costs: Mapping[str, Interval]) -> str:
    return ", ".join(f"{show(interval)} ({words})" for words, interval in costs.items())


def show(interval: Interval) -> str:
    """A ratio with its interval, such as ``2.05x [1.98 to 2.11]``."""
    return f"{interval.value:.3g}x [{interval.low:.3g} to {interval.high:.3g}]"


def _value(interval: Interval) -> float:
    return interval.value
