"""Rows of stream tables, put together of what the catalog says and what the nodes answered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.inspectors.live import shown
from harness.inspectors.stream_tables.model import Holder, Lease, NodeLag, Refresh, Row, Shard, SourceState
from harness.inspectors.stream_tables.question import NodeAnswer
from harness.inspectors.stream_tables.records import HistoryRecord, LeaseRecord, Records, SourceRecord, TableRecord
from harness.trickle.repair.findings import Finding
from harness.trickle.repair.look import read_kept, shard_of

if TYPE_CHECKING:
    from harness.inspectors.redaction import Redactor
    from harness.inspectors.session import Session

_KIND = re.compile(r"pg_trickle_cdc_(ins|upd|del|row|truncate)_")


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class _Nodes:
    """The answers, by what is looked for in them; a node is told by its group, 0 on a plain server."""

    answers: Mapping[int, NodeAnswer]
    # (group, shard or table name) -> kinds of the triggers that fire there.
    kinds: Mapping[tuple[int, int | str], frozenset[str]]


def _read(answers: Sequence[NodeAnswer]) -> _Nodes:
    kinds: dict[tuple[int, int | str], set[str]] = {}
    for each in answers:
        for name, table, is_on in read_kept(each.kept).triggers:
            found = _KIND.match(name)
            if found and is_on:
                for key in {table, shard_of(table)} - {None}:
                    kinds.setdefault((each.node.groupid, key), set()).add(found[1])  # type: ignore[arg-type]
    return _Nodes(
        {each.node.groupid: each for each in answers}, {key: frozenset(value) for key, value in kinds.items()}
    )


def _expected(source: SourceRecord) -> tuple[str, ...]:
    if source.is_partition:
        return ("row",)
    # On a distributed table TRUNCATE fires once, for the shell table (F11).
    return ("ins", "upd", "del") if source.placement == "distributed" else ("ins", "upd", "del", "truncate")


def _sum(told: Sequence[Mapping[str, Any]], field: str, **wanted: Any) -> int:
    return int(sum(each[field] or 0 for each in told if all(each[key] == value for key, value in wanted.items())))


def _shards(session: Session, source: SourceRecord, records: Records, nodes: _Nodes) -> Iterator[Shard]:
    """Where a source is captured: its shards, or the one place on the coordinator."""
    names = {node.groupid: node.name for node in session.nodes if node.role == "primary"}
    wanted = _expected(source)
    placed = records.placed.get(source.relid, ())
    if source.placement == "distributed":
        for place in placed:
            shardid, group, buffer = place.shardid, place.group, place.buffer_shardid
            answer = nodes.answers.get(group)
            if answer is None:
                yield Shard(shardid, names.get(group, f"group {group}"), None, None, None, ())
                continue
            fires = nodes.kinds.get((group, shardid), frozenset())
            yield Shard(
                shardid,
                answer.node.name,
                _sum(answer.pending, "rows", pgt_id=source.pgt_id, stable=source.stable_name, shardid=buffer),
                _sum(answer.buffers, "bytes", stable=source.stable_name, shardid=buffer),
                len(fires),
                tuple(kind for kind in wanted if kind not in fires),
            )
        return
    answer = nodes.answers.get(0)
    if answer is None:
        yield Shard(None, names.get(0, "coordinator"), None, None, None, ())
        return
    # Of a reference table the coordinator's own replica is captured (F10), whose name ends in the shard's number.
    key: int | str = source.qualified
    if source.placement == "reference" and placed:
        key = placed[0].shardid
    fires = nodes.kinds.get((0, key), frozenset())
    yield Shard(
        placed[0].shardid if source.placement == "reference" and placed else None,
        answer.node.name,
        _sum(answer.pending, "rows", pgt_id=source.pgt_id, stable=source.stable_name, shardid=None),
        _sum(answer.buffers, "bytes", stable=source.stable_name, shardid=None),
        len(fires),
        tuple(kind for kind in wanted if kind not in fires),
    )


def assemble(
    session: Session,
    records: Records,
    answers: Sequence[NodeAnswer],
    damages: Sequence[Finding],
    mode: str,
    *,
    with_shards: bool,
) -> Iterator[Row]:
    """A row for each stream table.

    Args:
        session: whose redactor says what is shown.
        records: what the catalog says.
        answers: what the nodes say; who is missing did not answer.
        damages: what `harness st repair` would mend.
        mode: how much of statements is shown.
        with_shards: list the shards of sources.
    """
    nodes = _read(answers)
    for table in records.tables:
        sources = [source for source in records.sources if source.pgt_id == table.pgt_id]
        stables = {source.stable_name for source in sources if source.is_tracked}
        captured = [source for source in sources if source.is_tracked and source.is_wanted]
        shards = {source.relid: tuple(_shards(session, source, records, nodes)) for source in captured}
        pending = [
            each
            for answer in answers
            for each in answer.pending
            if each["pgt_id"] == table.pgt_id and each["stable"] in stables
        ]
        lag_s = None if table.lag_s is None else int(table.lag_s)
        yield Row(
            schema=table.schema,
            table=table.name,
            placement=table.placement,
            distribution_column=table.distribution_column,
            mode=table.mode,
            status=table.status,
            schedule=table.schedule,
            is_populated=table.is_populated,
            needs_reinit=table.needs_reinit,
            reinit_reason=session.redactor.message(table.reinit_reason) or None,
            suspended_reason=session.redactor.message(table.suspended_reason) or None,
            consecutive_errors=table.consecutive_errors,
            last_refresh_at=_at(table.last_refresh_at),
            lag_s=lag_s,
            pending_rows=_sum(pending, "rows"),
            pending_source=_pending_source(pending),
            nodes=tuple(_lags(answers, table, stables, lag_s)),
            sources=tuple(_source(source, shards, with_shards=with_shards) for source in sources),
            lease=_lease(records.leases.get(table.pgt_id)),
            held_by=_holders(session.redactor, answers, stables, mode),
            refreshes=tuple(_refresh(session.redactor, each) for each in records.history.get(table.pgt_id, ())),
            repair=_repair(table, sources, damages),
        )


def _pending_source(pending: Sequence[Mapping[str, Any]]) -> str:
    """How far the sum of these can be trusted: the least of its parts."""
    if not pending:
        return "none"
    if not all(each["exact"] for each in pending):
        return "estimate"
    return "at_least" if any(each["capped"] for each in pending) else "exact"


def _lags(answers: Sequence[NodeAnswer], table: TableRecord, stables: set[str], lag_s: int | None) -> Iterator[NodeLag]:
    for answer in answers:
        here = [each for each in answer.buffers if each["stable"] in stables]
        if not here:
            continue
        rows = sum(
            each["rows"] or 0 for each in answer.pending if each["pgt_id"] == table.pgt_id and each["stable"] in stables
        )
        yield NodeLag(answer.node.name, int(rows), _sum(here, "bytes"), lag_s if rows else 0)


def _source(source: SourceRecord, shards: Mapping[int, tuple[Shard, ...]], *, with_shards: bool) -> SourceState:
    listed = shards.get(source.relid, ())
    return SourceState(
        schema=source.schema,
        table=source.table,
        stable_name=source.stable_name,
        placement=source.placement,
        is_captured=source.is_tracked and source.is_wanted,
        rows=sum(shard.rows or 0 for shard in listed),
        bytes=sum(shard.bytes or 0 for shard in listed),
        shards=listed if with_shards else (),
    )


def _lease(record: LeaseRecord | None) -> Lease | None:
    if record is None:
        return None
    return Lease(
        record.holder,
        record.pid,
        _at(record.since),
        _at(record.deadline),
        record.token,
        record.is_expired or not record.is_connected,
    )


def _holders(redactor: Redactor, answers: Sequence[NodeAnswer], stables: set[str], mode: str) -> tuple[Holder, ...]:
    if not stables:
        return ()
    found = []
    for answer in answers:
        for each in answer.holders:
            if stables & set(each["stable"]):
                found.append(
                    Holder(
                        answer.node.name,
                        each["pid"],
                        None,
                        max(0, int(each["age_s"] or 0)),
                        each["user"],
                        each["app"],
                        each["state"],
                        shown(redactor, each, mode),
                    )
                )
        # What is prepared has written somewhere, and nobody can say where: a refresh waits for each (D9).
        for each in answer.prepared:
            age_s = max(0, int(each["age_s"]))
            found.append(Holder(answer.node.name, None, each["gid"], age_s, None, None, "prepared", None))
    return tuple(sorted(found, key=lambda each: (-each.age_s, each.node, each.pid or 0, each.gid or "")))


def _refresh(redactor: Redactor, record: HistoryRecord) -> Refresh:
    return Refresh(
        started_at=_at(record.started_at) or "",
        elapsed_ms=None if record.elapsed_ms is None else int(record.elapsed_ms),
        action=record.action,
        status=record.status,
        reason=redactor.message(record.reason) or None,
        rows_inserted=record.rows_inserted,
        rows_deleted=record.rows_deleted,
        changes=record.changes,
        initiated_by=record.initiated_by,
        error=redactor.message(record.error),
    )


def _repair(table: TableRecord, sources: Sequence[SourceRecord], damages: Sequence[Finding]) -> tuple[str, ...]:
    subjects = {table.qualified, *(source.qualified for source in sources)}
    return tuple(str(each) for each in damages if each.subject in subjects)
