"""From a seed to the plan: which fault, change or move, when, and for how long. Nothing else decides it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.chaos.model import Lane, Plan, Step


@dataclass(frozen=True)
class Kind:
    """How often a kind is drawn beside the others of its lane, and how long it lasts, in seconds."""

    weight: float
    least_s: float = 0.0
    most_s: float = 0.0
    needs_citus: bool = False


# Names of `harness.faults.FAULTS`, and of harness/chaos/clients.py. A refresh takes 0.05 to 0.3 s, so a second of a
# fault is several of them; 5 s, after which a prepared transaction stops a refresh (D9), is reached now and then.
FAULT_KINDS: Mapping[str, Kind] = {
    "coordinator_killed": Kind(3, 0.1, 1.0),
    "worker_killed": Kind(4, 0.1, 1.5, needs_citus=True),
    "coordinator_frozen": Kind(2, 0.2, 1.5),
    "worker_frozen": Kind(3, 0.2, 2.0, needs_citus=True),
    "all_restarted": Kind(1.5),
    "backend_killed": Kind(2, 0.1, 0.5),
    "backend_terminated": Kind(5),
    "backend_frozen": Kind(4, 0.2, 2.0),
    "link_cut": Kind(2, 0.1, 1.5, needs_citus=True),
    "link_refused": Kind(2, 0.1, 1.5, needs_citus=True),
    "link_half_open": Kind(2, 0.2, 2.0, needs_citus=True),
    "link_black_hole": Kind(2, 0.2, 2.0, needs_citus=True),
    "link_one_way": Kind(2, 0.2, 2.0, needs_citus=True),
    "link_slow": Kind(2, 0.5, 2.0, needs_citus=True),
    "disk_full": Kind(1.5, 0.3, 1.5),
    "prepared_foreign": Kind(1.5, 0.5, 6.0),
    "prepared_citus": Kind(1.5, 0.5, 6.0, needs_citus=True),
    "commits_held": Kind(2.5, 0.2, 1.5),
    "lease_expired": Kind(3, 0.1, 1.0, needs_citus=True),
    "connections_used_up": Kind(1.5, 0.2, 1.0),
    "client_cut": Kind(4, 0.0, 0.5),
    "client_half_open": Kind(2, 0.2, 1.0),
    "client_black_hole": Kind(2, 0.2, 1.5),
}
SHAPE_KINDS: Mapping[str, Kind] = {
    "shard_moved": Kind(5, 0.2, 2.0, needs_citus=True),
    "rebalanced": Kind(3, needs_citus=True),
    # Each moves every shard, twice: half a minute behind writers on two cores.
    "worker_drained": Kind(0.4, 0.2, 1.0, needs_citus=True),
    "worker_added": Kind(0.4, 0.2, 1.0, needs_citus=True),
    "worker_removed": Kind(0.4, 0.2, 1.0, needs_citus=True),
}
DDL_KINDS: Mapping[str, Kind] = {
    "column_added": Kind(3, 0.1, 1.0),
    "column_renamed": Kind(3, 0.1, 0.6),
    "type_changed": Kind(1),
    "index_made": Kind(2, 0.1, 0.6),
    "truncated": Kind(3),
    "stream_table_made": Kind(3, 0.1, 0.8),
    "stream_table_altered": Kind(2),
}
SCHEDULER_KINDS: Mapping[str, Kind] = {
    "scheduler_stopped": Kind(2, 0.0, 0.5),
    "scheduler_killed": Kind(3, 0.0, 0.5),
    "scheduler_frozen": Kind(2, 0.3, 2.5),
}
# Least and longest pause between two steps of a lane, in seconds: a 10 s run has some six faults, four changes,
# two moves and two turns of the scheduler.
_LANES: Mapping[Lane, tuple[Mapping[str, Kind], float, float]] = {
    Lane.FAULT: (FAULT_KINDS, 0.3, 1.4),
    Lane.SHAPE: (SHAPE_KINDS, 1.5, 5.0),
    Lane.DDL: (DDL_KINDS, 0.4, 2.0),
    Lane.SCHEDULER: (SCHEDULER_KINDS, 1.5, 5.0),
}


def make_plan(seed: int, seconds: float, *, has_citus: bool) -> Plan:
    """The plan of a seed: the same for the same arguments, on every machine and in every process.

    Args:
        seed: what determines it.
        seconds: how long the actors work.
        has_citus: for a cluster, or for one server, where some kinds do not exist.
    """
    steps = [
        step
        for lane in _LANES
        # A generator of its own for each lane: a kind more in one of them leaves the others as they were.
        for step in _lane(lane, random.Random(f"chaos {seed} {seconds:g} {has_citus} {lane}"), seconds, has_citus)  # noqa: S311
    ]
    steps.sort(key=lambda step: (step.at_s, step.lane))
    chance = random.Random(f"chaos {seed} {seconds:g} {has_citus} links")  # noqa: S311 - no secret
    # A worker that comes back has another number, under which no link knows it.
    may_link = has_citus and not any(step.kind == "worker_removed" for step in steps)
    return Plan(seed, seconds, has_citus, tuple(steps), may_link and chance.random() < 0.6)


def _lane(lane: Lane, chance: random.Random, seconds: float, has_citus: bool) -> Iterator[Step]:
    kinds, least_s, most_s = _LANES[lane]
    names = [name for name, kind in kinds.items() if has_citus or not kind.needs_citus]
    if not names:
        return
    at_s = chance.uniform(0.2, least_s + 0.8)
    while at_s < seconds:
        name = chance.choices(names, [kinds[each].weight for each in names])[0]
        lasts_s = min(chance.uniform(kinds[name].least_s, kinds[name].most_s), max(0.1, seconds - at_s))
        yield Step(lane, round(at_s, 3), name, round(lasts_s, 3), chance.getrandbits(32))
        at_s += lasts_s + chance.uniform(least_s, most_s)
