"""The model of a refresh: what it costs by workers, shards and rows; fitted, checked, and asked about larger clusters.

``docs/scaling.md`` explains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Observed:
    """A refresh that was measured.

    Attributes:
        workers: of the cluster.
        shards: of the source, its buffer and the stream table.
        rows: that were captured and taken.
        ms: how long it took, a median.
    """

    workers: int
    shards: int
    rows: int
    ms: float


@dataclass(frozen=True)
class Costs:
    """What a refresh costs, all nodes on one machine.

    Attributes:
        fixed_ms: whatever the cluster is.
        worker_ms: for each worker: questions, answers, two-phase commit.
        shard_ms: for each shard: a task of each statement that goes to all of them.
        row_ms: for each captured row.
    """

    fixed_ms: float
    worker_ms: float
    shard_ms: float
    row_ms: float

    def refresh_ms(self, workers: float, shards: float, rows: float) -> float:
        """How long a refresh takes."""
        return self.fixed_ms + self.worker_ms * workers + self.shard_ms * shards + self.row_ms * rows


def fit_costs(observed: Sequence[Observed]) -> Costs:
    """The costs that fit best by relative error; none is below zero.

    Raises:
        ValueError: fewer measurements than costs.
    """
    if len(observed) < 4:
        raise ValueError(f"four costs do not follow from {len(observed)} measurements")
    design = np.array([[1.0, each.workers, each.shards, each.rows] for each in observed])
    y = np.array([each.ms for each in observed])
    weights = 1 / y
    kept = [0, 1, 2, 3]
    while True:
        found, *_ = np.linalg.lstsq(design[:, kept] * weights[:, None], y * weights, rcond=None)
        if (found >= 0).all() or len(kept) == 1:
            break
        # What fits below zero is noise about nothing: without it, once more.
        del kept[int(np.argmin(found * np.abs(design[:, kept]).mean(axis=0)))]
    costs = [0.0] * 4
    for place, value in zip(kept, found, strict=True):
        costs[place] = max(float(value), 0.0)
    return Costs(*costs)


@dataclass(frozen=True)
class Checked:
    """A prediction beside the measurement that it did not know.

    Attributes:
        observed: what was measured.
        predicted_ms: by costs that were fitted without any measurement on so many workers.
    """

    observed: Observed
    predicted_ms: float

    @property
    def error(self) -> float:
        """By how much of the measurement it is off."""
        return abs(self.predicted_ms - self.observed.ms) / self.observed.ms


def check_costs(observed: Sequence[Observed]) -> tuple[Checked, ...]:
    """For each number of workers: fitted on all the others, predicted for this one, beside what was measured.

    The number of workers on which most was measured (where shards and rows were varied) is left in: without it there
    would be nothing to fit.
    """
    counts = [each.workers for each in observed]
    most = max(set(counts), key=counts.count)
    found = []
    for workers in sorted(set(counts) - {most}):
        costs = fit_costs([each for each in observed if each.workers != workers])
        found += [
            Checked(each, costs.refresh_ms(each.workers, each.shards, each.rows))
            for each in observed
            if each.workers == workers
        ]
    return tuple(found)


@dataclass(frozen=True)
class Split:
    """Where a refresh's processor time goes.

    Attributes:
        coordinator: the share of the coordinator, 0 to 1; the workers have the rest.
    """

    coordinator: float


@dataclass(frozen=True)
class Machines:
    """A cluster on machines of its own.

    Attributes:
        round_trip_ms: from the coordinator to a worker and back.
        rounds: how often a refresh waits for the workers, one after the other.
        cores: of each worker that work on one refresh; Citus opens so many connections for it.
    """

    round_trip_ms: float = 0.5
    rounds: int = 8
    cores: int = 4


def on_machines(costs: Costs, split: Split, machines: Machines, workers: int, *, shards: int, rows: int) -> float:
    """How long a refresh takes where each worker has a machine of its own, in milliseconds.

    The coordinator does its share alone. Each worker answers its own messages while the others answer theirs. The work
    on shards is divided among as many cores as have one. The network is waited for once a round: that asks all at once.
    """
    on_workers = 1 - split.coordinator
    spread = max(min(workers * machines.cores, shards), 1)
    return (
        coordinator_ms(costs, split, workers, shards)
        + on_workers * costs.worker_ms
        + (on_workers * costs.shard_ms * shards + costs.row_ms * rows) / spread
        + machines.rounds * machines.round_trip_ms
    )


def coordinator_ms(costs: Costs, split: Split, workers: int, shards: int) -> float:
    """What of a refresh the coordinator does alone, in milliseconds: what no other machine makes faster."""
    return costs.fixed_ms + split.coordinator * (costs.worker_ms * workers + costs.shard_ms * shards)


@dataclass(frozen=True)
class Deployment:
    """What somebody runs, but for the number of workers.

    Attributes:
        stream_tables: how many.
        sources: distributed ones.
        interval_s: each stream table is refreshed so often.
        shards_per_worker: of each source and each stream table.
        rows: captured for each refresh.
        schedulers: sessions that refresh.
        clients: sessions on the coordinator that write.
        client_connections: what Citus opens for one of them on a worker: 1 for single rows.
        pool: ``citus.max_adaptive_executor_pool_size``.
        max_connections: of each node.
        max_prepared: ``max_prepared_transactions`` of each node.
        most_relations: tables and indexes of a worker from which on its catalogue is said to be slow: each session
            keeps what it used in memory, and pg_upgrade, dumps and autovacuum go through all of them.
    """

    stream_tables: int = 100
    sources: int = 100
    interval_s: float = 10.0
    shards_per_worker: int = 4
    rows: int = 1_000
    schedulers: int = 4
    clients: int = 64
    client_connections: int = 1
    pool: int = 4
    max_connections: int = 100
    max_prepared: int = 200
    most_relations: int = 100_000


@dataclass(frozen=True)
class Limit:
    """What may break.

    Attributes:
        name: what.
        demand: what is asked of it.
        capacity: what it can do.
    """

    name: str
    demand: float
    capacity: float

    @property
    def pressure(self) -> float:
        """Of 1 and more it breaks."""
        return self.demand / self.capacity


# Relations that a shard needs: of a source or a stream table itself, its key; of a buffer only itself (D4).
_RELATIONS_OF_TABLE = 2
_RELATIONS_OF_BUFFER = 1
# `seq_id` has a node's group in its highest 16 bits, one of them the sign (F5).
_GROUPS = 32_767


def limits(costs: Costs, split: Split, machines: Machines, deployment: Deployment, workers: int) -> tuple[Limit, ...]:
    """Everything that may break with so many workers, the worst first.

    Args:
        costs, split: measured.
        machines, deployment: assumed.
        workers: how many.
    """
    shards = deployment.shards_per_worker * workers
    refresh_ms = on_machines(costs, split, machines, workers, shards=shards, rows=deployment.rows)
    opened = min(deployment.pool, deployment.shards_per_worker)
    # A session that refreshes asks each worker over a connection of its own, beside those of Citus.
    connections = deployment.clients * deployment.client_connections + deployment.schedulers * (1 + opened)
    tables = deployment.sources + deployment.stream_tables
    relations = (tables * _RELATIONS_OF_TABLE + deployment.sources * _RELATIONS_OF_BUFFER) * shards / workers
    per_second = deployment.stream_tables / deployment.interval_s
    found = (
        Limit(
            "refresh fan-out: time of the sessions that refresh", per_second * refresh_ms / 1000, deployment.schedulers
        ),
        Limit(
            "the coordinator's processor: one core for all refreshes",
            per_second * coordinator_ms(costs, split, workers, shards) / 1000,
            1.0,
        ),
        Limit("max_connections of each worker", connections, deployment.max_connections),
        Limit(
            "max_connections of each worker, were the same clients on every node",
            deployment.clients * deployment.client_connections * workers + deployment.schedulers * (1 + opened),
            deployment.max_connections,
        ),
        Limit("max_prepared_transactions of each worker", deployment.schedulers * opened, deployment.max_prepared),
        Limit("catalog look-ups: relations of each worker", relations, deployment.most_relations),
        Limit(
            "catalog look-ups: shards that every node knows of",
            (tables + deployment.sources) * shards,
            deployment.most_relations,
        ),
        Limit("numbers of groups in seq_id", workers, _GROUPS),
    )
    return tuple(sorted(found, key=lambda limit: limit.pressure, reverse=True))


def breaks_from(
    costs: Costs, split: Split, machines: Machines, deployment: Deployment, *, most: int = 1_000
) -> dict[str, int | None]:
    """The number of workers from which on each limit breaks, the first to break first; None: not up to `most`."""
    found: dict[str, int | None] = {}
    for workers in range(1, most + 1):
        for limit in limits(costs, split, machines, deployment, workers):
            if found.get(limit.name) is None:
                found[limit.name] = workers if limit.pressure > 1 else None
    return dict(sorted(found.items(), key=lambda item: (item[1] is None, item[1] or 0)))
