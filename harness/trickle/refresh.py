"""One refresh: what changed, how it is taken, and that it is all or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from harness.errors import HashCollisionError, LockedError, OutOfStepError
from harness.trickle import catalog, cleanup, costs
from harness.trickle.catalog import Refresh, StreamTable
from harness.trickle.delta.window import Moment, SourceWindow, Window
from harness.trickle.frontier import COORDINATOR, Cut
from harness.trickle.nodes import Workers, read_cut
from harness.trickle.plans import Plan, make_window, stage
from harness.trickle.session import Statements, transaction
from harness.trickle.sources import Source
from harness.trickle.storage import guard, reshape
from harness.trickle.targets.target import Applied, insert_query

# A refresh that met another transaction's write begins anew; three times in a row is no accident.
ATTEMPTS = 4
_CONFLICTS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)


@dataclass(frozen=True)
class Pending:
    """What a source's buffer holds for a refresh.

    Attributes:
        row_count: captured rows inside the window.
        is_truncated: whether a TRUNCATE is among them.
        seq_id: the highest sequence value; None where there is none.
    """

    row_count: int = 0
    is_truncated: bool = False
    seq_id: int | None = None


@dataclass(frozen=True)
class _Choice:
    action: str
    reason: str
    is_fallback: bool = False


class _FillUnderLockError(Exception):
    """The table turned out, inside the transaction, to need a fill, for which a lock comes before the snapshot."""

    def __init__(self, choice: _Choice) -> None:
        super().__init__(choice.reason)
        self.choice = choice


def refresh(
    connection: psycopg.Connection[Any],
    stream_table: StreamTable,
    plan: Plan,
    workers: Workers | None,
    *,
    begun_at: datetime,
    check_alone: Callable[[], None] = lambda: None,
    mode: str | None = None,
    initiated_by: str = "MANUAL",
) -> Refresh:
    """Bring a stream table up to date.

    Args:
        connection: to the coordinator, in autocommit, idle; nobody else refreshes this stream table meanwhile: the
            database checks it in each commit (leases.py).
        stream_table: as the catalog has it now.
        plan: how it follows its query.
        workers: of a cluster; None without one.
        begun_at: when the right to refresh was had, by the server's clock; the rows are at least as fresh as that.
        check_alone: raises where that right was lost; asked before a refresh begins anew.
        mode: FULL or DIFFERENTIAL for this time; None: as the catalog says.
        initiated_by: for the history.

    Returns:
        What was done. The delta, the frontier and the history row are one transaction; consumed rows go after it.

    Raises:
        UnresolvedTransactionError: D9.
        HashCollisionError: two different rows have one row id.
        LockedError: a source stayed locked.
        ServerGoneError: a worker does not answer.
        LeaseLostError: `check_alone` says so.
        psycopg.Error: PostgreSQL refused something else, such as an overflow in the query itself.
    """
    run = _Run(
        connection,
        stream_table,
        plan,
        workers,
        begun_at=begun_at,
        mode=mode or stream_table.mode,
        initiated_by=initiated_by,
    )
    forced: _Choice | None = None
    for attempt in range(ATTEMPTS):
        try:
            return run.once(forced)
        except _CONFLICTS:
            if attempt == ATTEMPTS - 1:
                raise
            check_alone()
        except _FillUnderLockError as error:
            forced = error.choice
        except (OutOfStepError, psycopg.errors.NotNullViolation, psycopg.DataError) as error:
            # A value that cannot be computed may have come and gone again: the query itself may do without it.
            if forced or run.is_filling:
                raise
            forced = _again(f"the delta did not fit the table ({_first_line(error)})")
        except psycopg.errors.UniqueViolation as error:
            if forced or run.is_filling:
                raise HashCollisionError(
                    f"two different rows of {stream_table.qualified} have one row id: {error.diag.message_detail}",
                    hint="nothing was changed; add or change a column of the query, so that the row has another hash",
                ) from error
            forced = _again(f"a row id was taken ({_first_line(error)})")
        except psycopg.errors.LockNotAvailable as error:
            raise LockedError(
                f"{stream_table.qualified} was not refreshed: {_first_line(error)}",
                hint="somebody holds a lock on it or on one of its sources (pg_locks); try again when they are done",
            ) from error
    raise AssertionError("the last attempt returns or raises")


def _again(reason: str) -> _Choice:
    return _Choice("REINITIALIZE", reason, is_fallback=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Run:
    def __init__(
        self,
        connection: psycopg.Connection[Any],
        stream_table: StreamTable,
        plan: Plan,
        workers: Workers | None,
        *,
        begun_at: datetime,
        mode: str,
        initiated_by: str,
    ) -> None:
        self._begun_at = begun_at
        self._connection = connection
        self._table = stream_table
        self._plan = plan
        self._workers = workers
        self._mode = mode
        self._initiated_by = initiated_by
        self._old: dict[int, Cut | None] = {
            source.relid: stream_table.cut(source.stable_name) for source in plan.sources
        }
        #: Whether the last attempt filled the table anew.
        self.is_filling = False

    # what to do

    def once(self, forced: _Choice | None) -> Refresh:
        """One attempt; with a reason to fill the table anew, if there is one."""
        self._begun = time.perf_counter()
        must = self._must_fill(forced)
        found: dict[int, Pending] = {}
        if must is None:
            found = self._look()
            if self._mode != "FULL" and not any(pending.row_count for pending in found.values()):
                return self._nothing()
        has_plain = any(not source.is_distributed for source in self._plan.sources)
        with transaction(self._connection, has_citus=self._workers is not None, is_repeatable=has_plain):
            done, left = self._inside(must, found)
        if left:
            cleanup.delete_consumed(self._connection, left)
        return replace(done, elapsed_ms=self._elapsed_ms)

    @property
    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._begun) * 1000

    def _must_fill(self, forced: _Choice | None) -> _Choice | None:
        if forced is not None:
            return forced
        table, plan = self._table, self._plan
        reasons = [
            (not table.is_populated, "FULL", "it was never filled"),
            (table.storage_format is None, "REINITIALIZE", "its rows were kept by pg_trickle, under other row ids"),
            (
                table.needs_reinit,
                "REINITIALIZE",
                table.reinit_reason or "a source changed in a way that no captured row tells (TRUNCATE, DDL)",
            ),
            (not plan.is_incremental, "FULL", plan.reason),
            (
                any(cut is None for cut in self._old.values()),
                "REINITIALIZE",
                "it has never stopped at a snapshot of one of its sources",
            ),
        ]
        return next((_Choice(action, reason) for holds, action, reason in reasons if holds), None)

    def _look(self) -> dict[int, Pending]:
        """What the buffers hold beyond the last cut: one query a source; no node is asked for a snapshot (F32, F33).

        Of a distributed source all that is seen here ended before the cut of this refresh, so it counts. Of the others
        only whether there is anything: they are counted in the refresh's own snapshot.
        """
        return {source.relid: self._look_at(source) for source in self._plan.sources}

    def _look_at(self, source: Source) -> Pending:
        old = self._old[source.relid]
        if old is None:
            return Pending()
        since = SourceWindow(source, True, old, old).since()
        if source.is_distributed:
            return self._count(source, since)
        query = sql.SQL("SELECT 1 FROM {} AS __pgt_b WHERE {} LIMIT 1").format(source.buffer, since)
        return Pending(len(self._connection.execute(query).fetchall()))

    def _count(self, source: Source, condition: sql.Composed) -> Pending:
        seq_id = sql.SQL("max(__pgt_b.seq_id)") if source.is_distributed else sql.SQL("NULL")
        row = self._connection.execute(
            sql.SQL(
                "SELECT count(*), count(*) FILTER (WHERE __pgt_b.action = 'T'), {} FROM {} AS __pgt_b WHERE {}"
            ).format(seq_id, source.buffer, condition)
        ).fetchone()
        return Pending(int(row[0]), bool(row[1]), row[2]) if row else Pending()

    def _nothing(self) -> Refresh:
        reason = "no source changed"
        self._connection.execute(
            "WITH t AS (UPDATE pgtrickle.pgt_stream_tables SET last_refresh_at = clock_timestamp(), data_timestamp ="
            " %(at)s,"
            " consecutive_errors = 0 WHERE pgt_id = %(id)s RETURNING pgt_id)"
            " INSERT INTO pgtrickle.pgt_refresh_history"
            " (pgt_id, data_timestamp, start_time, end_time, action, status, initiated_by, reason)"
            " SELECT pgt_id, %(at)s, %(at)s, clock_timestamp(), 'NO_DATA', 'COMPLETED', %(by)s, %(why)s FROM t",
            {"at": self._begun_at, "id": self._table.pgt_id, "by": self._initiated_by, "why": reason},
        )
        return self._result("NO_DATA", reason, 0, Applied(), "")

    # inside the transaction

    def _inside(self, must: _Choice | None, found: Mapping[int, Pending]) -> tuple[Refresh, list[Source]]:
        """The refresh, and the sources whose consumed rows are still there."""
        if self._plan.full_moment is Moment.NOW and must is not None:
            self._lock_sources()
        row = self._connection.execute(
            "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text"
        ).fetchone()
        snapshot, lsn = (str(row[0]), str(row[1])) if row else ("", "")
        asks_workers = self._plan.has_distributed and self._workers is not None
        now = read_cut(
            self._connection,
            snapshot,
            self._workers if asks_workers else None,
            is_settled=must is not None and self._plan.full_moment is Moment.NOW,
        )
        pending = dict(found)
        for source in self._plan.sources:
            # In the refresh's own snapshot, whatever was seen before it: that is where it stops.
            old = self._old[source.relid]
            if must is None and old is not None and not source.is_distributed:
                pending[source.relid] = self._count(source, SourceWindow(source, True, old, now).within())
        changes = sum(one.row_count for one in pending.values())
        choice = must or self._choose(pending, changes)
        self.is_filling = choice.action != "DIFFERENTIAL"
        if must is None and self.is_filling and self._plan.full_moment is Moment.NOW:
            raise _FillUnderLockError(choice)
        new = {source.relid: self._stop(source, pending, now) for source in self._plan.sources}
        changed: dict[int, int | None] = {relid: one.row_count for relid, one in pending.items() if one.row_count}
        window = make_window(self._plan, old=self._old, new=new, changed=changed)
        if self.is_filling:
            applied, strategy = self._fill(window), "swap"
        elif not changed:
            choice, applied, strategy = _Choice("NO_DATA", "no source changed before the cut"), Applied(), ""
        else:
            statements = Statements(self._connection)
            window = stage(statements, self._plan, window)
            applied = self._plan.analysis.target.apply(statements, self._plan.place, window)
            strategy = self._plan.strategy
        left = cleanup.delete_own(self._connection, self._table.pgt_id, self._plan.sources, new)
        self._write(choice, new, lsn, pending, applied=applied, strategy=strategy)
        return self._result(choice.action, choice.reason, changes, applied, strategy), left

    def _stop(self, source: Source, pending: Mapping[int, Pending], now: Cut) -> Cut:
        """Where this refresh stops in a source: a distributed one that had nothing at the look stays where it was."""
        old = self._old[source.relid]
        if self.is_filling or old is None or not source.is_distributed or pending[source.relid].row_count:
            return now
        return old

    def _choose(self, pending: Mapping[int, Pending], changes: int) -> _Choice:
        if self._mode == "FULL":
            return _Choice("FULL", "mode FULL")
        if any(found.is_truncated for found in pending.values()):
            return _Choice("FULL", "a source was truncated")
        if self._mode == "AUTO":
            reason = costs.reason_to_recompute(self._table, changes)
            if reason:
                return _Choice("FULL", reason)
        return _Choice("DIFFERENTIAL", costs.reason_for_delta(self._table, changes))

    def _lock_sources(self) -> None:
        """Keep writers out: the exact form of the query is one that Citus cannot plan, so it is read as it is."""
        for source in self._plan.sources:
            self._connection.execute(
                sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(source.schema, source.name))
            )

    def _fill(self, window: Window) -> Applied:
        target = self._plan.analysis.target
        place = self._plan.place
        gone = 0
        if self._table.is_populated or self._table.storage_format is None:
            gone = self._connection.execute(sql.SQL("DELETE FROM {}").format(place.table)).rowcount
        if self._table.storage_format is None:
            reshape(self._connection, self._table.relid, place.table, target.shape)
            guard(self._connection, place.table, self._table.placement)
        came = self._connection.execute(
            insert_query(place, target, target.full_query(self._plan.full_moment, window))
        ).rowcount
        return Applied(came, gone)

    def _write(
        self,
        choice: _Choice,
        new: Mapping[int, Cut],
        lsn: str,
        pending: Mapping[int, Pending],
        *,
        applied: Applied,
        strategy: str,
    ) -> None:
        elapsed_ms = self._elapsed_ms
        changes = sum(one.row_count for one in pending.values())
        at = f"{int(self._begun_at.timestamp())}Z"
        entries = {}
        for source in self._plan.sources:
            found = pending.get(source.relid, Pending())
            entries[source.stable_name] = new[source.relid].as_entry(
                lsn=lsn,
                at=at,
                seq_id=_seq_id(self._table, source.stable_name, found) if source.is_distributed else None,
                only=None if source.is_distributed else COORDINATOR,
            )
        catalog.write_refreshed(
            self._connection,
            self._table,
            frontier={"sources": entries, "data_timestamp": at},
            refreshed_at=self._begun_at,
            was_filled=self.is_filling,
            last_full_ms=elapsed_ms if self.is_filling else None,
            us_per_change=costs.measured(self._table, changes, elapsed_ms, is_full=self.is_filling),
        )
        catalog.write_history(
            self._connection,
            self._table,
            action=choice.action,
            status="COMPLETED",
            reason=choice.reason,
            started_at=self._begun_at,
            inserted=applied.inserted,
            deleted=applied.deleted,
            changes=changes,
            strategy=strategy,
            is_fallback=choice.is_fallback or (self.is_filling and self._mode == "AUTO" and self._table.is_populated),
            initiated_by=self._initiated_by,
        )

    def _result(self, action: str, reason: str, changes: int, applied: Applied, strategy: str) -> Refresh:
        return Refresh(
            self._table.qualified,
            action,
            reason,
            changes,
            applied.inserted,
            applied.deleted,
            self._elapsed_ms,
            strategy,
        )


def _seq_id(stream_table: StreamTable, stable_name: str, found: Pending) -> int:
    before = (stream_table.frontier or {}).get("sources", {}).get(stable_name, {}).get("seq_id") or 0
    return max(int(before), found.seq_id or 0)
