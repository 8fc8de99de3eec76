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
from harness.trickle.history import History, Note, new_refresh, read_history
from harness.trickle.nodes import Workers, read_cut
from harness.trickle.pending import Pending, count, highest_seq_id, look
from harness.trickle.plans import Plan, make_texts, make_window, stage
from harness.trickle.session import LOCK_TIMEOUT_MS, Statements, patiently, transaction
from harness.trickle.sources import Source
from harness.trickle.storage import guard, reshape
from harness.trickle.targets.target import Applied, insert_query

# A refresh that met another transaction's write begins anew; three times in a row is no accident.
ATTEMPTS = 4
_CONFLICTS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
# The last statement of a refresh may wait longer than the others: nobody who waits for it locks the history. Not SET,
# which Citus would take to every connection of the transaction.
_LAST_LOCK_TIMEOUT = sql.SQL("SELECT pg_catalog.set_config('lock_timeout', {}, true)").format(
    sql.Literal(str(LOCK_TIMEOUT_MS))
)


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
        HistoryChangedError: a worker is not where the stream table last stopped: the caller marks it, and begins anew.
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
    attempt = 0
    while True:
        attempt += 1
        try:
            return patiently(lambda: run.once(forced))  # noqa: B023 - called here and now
        except _CONFLICTS:
            if attempt == ATTEMPTS:
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
        self._is_kept_there = stream_table.placement != "local"
        # Workers matter where rows are read from them or kept on them.
        self._asked = workers if plan.has_distributed or self._is_kept_there else None
        self._history = read_history(stream_table.history)
        #: Whether the last attempt filled the table anew.
        self.is_filling = False

    # what to do

    def once(self, forced: _Choice | None) -> Refresh:
        """One attempt; with a reason to fill the table anew, if there is one."""
        self._begun = time.perf_counter()
        must = self._must_fill(forced)
        found: dict[int, Pending] = {}
        if must is None:
            if self._asked is not None and self._history.nodes:
                # No captured row tells that a worker went back. And asked with a deadline before anything goes through
                # Citus, which waits for a worker that is silent without end.
                self._asked.look(self._note(is_forced=False, is_look=True))
            found = {
                source.relid: look(self._connection, source, self._old[source.relid]) for source in self._plan.sources
            }
            if self._mode != "FULL" and not any(pending.row_count for pending in found.values()):
                return self._nothing()
        # One snapshot for all that is read here; not where sources are locked first: with the first lock Citus begins
        # the workers' transactions, whose snapshots would be older than the other locks, and than the cut.
        is_locking = must is not None and self._plan.full_moment is Moment.NOW
        is_repeatable = not is_locking and any(not source.is_distributed for source in self._plan.sources)
        note = None if self._asked is None else self._note(is_forced=must is not None)
        if self._asked is not None:
            known = max((cut.groups for cut in self._old.values() if cut is not None), default=0)
            self._asked.note_groups(known)
        with transaction(self._connection, has_citus=self._workers is not None, is_repeatable=is_repeatable):
            done, left = self._inside(must, found, note)
        if note is not None and self._asked is not None:
            self._asked.confirm(note)
        if left:
            cleanup.delete_consumed(self._connection, left)
        return replace(done, elapsed_ms=self._elapsed_ms)

    def _note(self, *, is_forced: bool, is_look: bool = False) -> Note:
        return Note(self._history, None if is_look else new_refresh(), self._is_kept_there, is_forced)

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

    def _inside(
        self, must: _Choice | None, found: Mapping[int, Pending], note: Note | None
    ) -> tuple[Refresh, list[Source]]:
        """The refresh, and the sources whose consumed rows are still there."""
        if must is not None and self._plan.full_moment is Moment.NOW:
            self._lock_sources()
        row = self._connection.execute(
            "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text"
        ).fetchone()
        snapshot, lsn = (str(row[0]), str(row[1])) if row else ("", "")
        now = read_cut(
            snapshot,
            self._asked,
            note=note,
            is_settled=must is not None and self._plan.full_moment is Moment.NOW,
        )
        pending = dict(found)
        for source in self._plan.sources:
            # In the refresh's own snapshot, whatever was seen before it: that is where it stops.
            old = self._old[source.relid]
            if must is None and old is not None and not source.is_distributed:
                pending[source.relid] = count(self._connection, source, SourceWindow(source, True, old, now).within())
        changes = sum(one.row_count for one in pending.values())
        choice = must or self._choose(pending, changes)
        self.is_filling = choice.action != "DIFFERENTIAL"
        if must is None and self.is_filling and self._plan.full_moment is Moment.NOW:
            raise _FillUnderLockError(choice)
        new = {source.relid: self._stop(source, pending, now) for source in self._plan.sources}
        changed = {relid: one.row_count for relid, one in pending.items() if one.row_count}
        if self.is_filling:
            window = make_window(self._plan, old=self._old, new=new, changed=changed)
            applied, strategy = self._fill(window), "swap"
        elif not changed:
            choice, applied, strategy = _Choice("NO_DATA", "no source changed before the cut"), Applied(), ""
        else:
            window, texts = make_texts(self._connection, self._plan, old=self._old, new=new, changed=changed)
            statements = Statements(self._connection, texts=texts)
            window = stage(statements, self._plan, window)
            applied = self._plan.analysis.target.apply(statements, self._plan.place, window)
            strategy = self._plan.strategy
        # Where nothing is taken, nothing is to be deleted.
        taken = [source for source in self._plan.sources if self.is_filling or pending[source.relid].row_count]
        left = cleanup.delete_own(self._connection, self._table.pgt_id, taken, new)
        known = None if note is None or self._asked is None else note.noted(self._asked.identities)
        self._write(choice, new, lsn, pending, applied=applied, strategy=strategy, known=known)
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
        known: History | None,
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
                seq_id=highest_seq_id(self._table, source.stable_name, found) if source.is_distributed else None,
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
        if known is not None:
            catalog.write_history_of_nodes(self._connection, self._table, known.as_entry())
        self._connection.execute(_LAST_LOCK_TIMEOUT)
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
