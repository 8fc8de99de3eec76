"""What a stream table's row consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NodeLag:
    """What waits on a node.

    Attributes:
        node: its address.
        rows: captured there and not taken yet.
        bytes: of the buffers there, with what was taken and is not vacuumed.
        lag_s: how long ago it was taken from, in seconds, at most: as old as the stream table, 0 where nothing waits.
    """

    node: str
    rows: int
    bytes: int
    lag_s: int | None


@dataclass(frozen=True)
class Shard:
    """A shard of a source, with its buffer's.

    Attributes:
        shardid: of the source; None for a local source, and the coordinator's replica of a reference source.
        node: where it is.
        rows: captured there and not taken by this stream table yet; None for a node that did not answer.
        bytes: of its buffer.
        triggers: capture triggers that fire.
        missing: the kinds that do not, of those that should: ins, upd, del, row, truncate.
    """

    shardid: int | None
    node: str
    rows: int | None
    bytes: int | None
    triggers: int | None
    missing: tuple[str, ...]


@dataclass(frozen=True)
class SourceState:
    """A source.

    Attributes:
        schema, table: its name; None where it is gone.
        stable_name: as its buffer and triggers have it.
        placement: local, reference or distributed.
        is_captured: whether its changes are captured, for this stream table.
        rows, bytes: of its buffer, all nodes together.
        shards: where it is captured; empty with ``include_shards=false``.
    """

    schema: str | None
    table: str | None
    stable_name: str
    placement: str
    is_captured: bool
    rows: int
    bytes: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Lease:
    """Who may refresh it now.

    Attributes:
        holder: program, machine and process.
        pid: of its session on the coordinator.
        since, deadline: in UTC; None for the advisory lock of a server without Citus.
        fencing_token: grows with each lease.
        is_stale: whether it ran out, or its session is gone: the next refresh takes it over.
    """

    holder: str
    pid: int
    since: str | None
    deadline: str | None
    fencing_token: int | None
    is_stale: bool


@dataclass(frozen=True)
class Holder:
    """A transaction that captured something and has not committed: a refresh cannot take it yet.

    Attributes:
        node, pid: of its backend there; no pid: a prepared transaction, which stops refreshes at all.
        gid: of what is prepared.
        age_s: how long it has been open.
        user, app, state, query: of the session.
    """

    node: str
    pid: int | None
    gid: str | None
    age_s: int
    user: str | None
    app: str | None
    state: str | None
    query: str | None


@dataclass(frozen=True)
class Refresh:
    """A refresh that was; ``error`` without values."""

    started_at: str
    elapsed_ms: int | None
    action: str
    status: str
    reason: str | None
    rows_inserted: int | None
    rows_deleted: int | None
    changes: int | None
    initiated_by: str | None
    error: str


@dataclass(frozen=True)
class Row:
    """A stream table.

    Attributes:
        schema, table: its name.
        placement, distribution_column: where its rows are.
        mode, status, schedule: as `harness st show` has them.
        is_populated: whether it was ever filled.
        needs_reinit, reinit_reason: whether it has to be filled anew, and why.
        suspended_reason, consecutive_errors: why it is not refreshed, and how many refreshes failed in a row.
        last_refresh_at: in UTC.
        lag_s: how old its rows are, in whole seconds.
        pending_rows: captured and not taken yet.
        pending_source: ``exact``; ``at_least`` where a shard's buffer has more than is counted (``counted_up_to`` of
            the facts); ``estimate`` where this role may not read a buffer; ``none`` where nothing is
            captured or no node answered.
        nodes: the same by node.
        sources: what it reads.
        lease: who may refresh it; None: nobody does.
        held_by: whose open transactions its next refresh cannot take, the oldest first.
        refreshes: the last ones, the latest first.
        repair: what is wrong with it or with the capture of its sources: `harness st repair` mends it.
    """

    schema: str
    table: str
    placement: str
    distribution_column: str | None
    mode: str
    status: str
    schedule: str | None
    is_populated: bool
    needs_reinit: bool
    reinit_reason: str | None
    suspended_reason: str | None
    consecutive_errors: int
    last_refresh_at: str | None
    lag_s: int | None
    pending_rows: int
    pending_source: str
    nodes: tuple[NodeLag, ...]
    sources: tuple[SourceState, ...]
    lease: Lease | None
    held_by: tuple[Holder, ...]
    refreshes: tuple[Refresh, ...]
    repair: tuple[str, ...]
