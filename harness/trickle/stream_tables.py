"""Stream tables: create, refresh, alter, suspend, resume, drop, list, status, explain (the words are pg_trickle's).

Long, because the public interface is one class, and each verb of it checks, locks and explains its errors by itself.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from harness.errors import (
    BadInputError,
    EnvironmentMissingError,
    HarnessError,
    LockedError,
    QueryRefusedError,
    RefusedError,
    ServerError,
    ServerGoneError,
    StreamTableNotFoundError,
    UnresolvedTransactionError,
    WaitTimeoutError,
)
from harness.trickle import catalog
from harness.trickle.analysis import Analysis
from harness.trickle.canonical import plain_query
from harness.trickle.catalog import Refresh, StreamTable
from harness.trickle.definition import Home, check_access_method, check_query, check_words, choose_home, recomputed
from harness.trickle.explain import Explanation, explain
from harness.trickle.history import HistoryChangedError, adopt_database
from harness.trickle.leases import Kind, Lease, Leases
from harness.trickle.making import REMAKE_PREFIX, make, named, refuse_taken, remove_captures, swap
from harness.trickle.nodes import Workers, refuse_unresolved
from harness.trickle.planner import Planner, fetch_known
from harness.trickle.plans import Plan
from harness.trickle.refresh import refresh
from harness.trickle.repair.settle import settle
from harness.trickle.schedules import is_after
from harness.trickle.session import giving_way, patiently, refuse_busy, understood
from harness.trickle.sources import has_citus
from harness.trickle.status import Status, fetch_status
from harness.trickle.storage import drop_query
from harness.trickle.surroundings import is_of_the_surroundings

# How long who just made a stream table waits to fill it: a scheduler may have been quicker.
FILL_WAIT_S = 600.0


def _is_no_fault_of_its_table(error: Exception, connection: psycopg.Connection[Any]) -> bool:
    """Whether a refresh failed because of the cluster, and not because of its table: a worker is down, a transaction is
    prepared, the disk is full. Then it is right again as soon as they are, and nobody has to resume it."""
    ours = (ServerError, EnvironmentMissingError, WaitTimeoutError, UnresolvedTransactionError)
    if isinstance(error, psycopg.errors.QueryCanceled):  # a statement_timeout: the next one takes as long
        return False
    if isinstance(error, (*ours, psycopg.OperationalError)):
        return True
    return isinstance(error, psycopg.Error) and is_of_the_surroundings(error, connection)


class StreamTables:
    """The stream tables of one database.

    Args:
        connection: to the coordinator, or to a server without Citus; in autocommit, idle, at revision 0008. It stays
            the caller's.
        lease_kind: how sessions are kept apart; None: by leases on a cluster, by advisory locks without one. All who
            work on one database have to use the same.
        errors_until_error: after so many failed refreshes in a row a stream table is in status ERROR.

    Attributes:
        leases: who may work on a stream table, and how often this session had to wait for that.

    Raises:
        BadInputError: the connection is in the middle of something.
        UnsupportedVersionError: the catalog is missing, or not of this version.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        lease_kind: Kind | None = None,
        errors_until_error: int = catalog.ERRORS_UNTIL_ERROR,
    ) -> None:
        refuse_busy(connection)
        catalog.check_catalog(connection)
        adopt_database(connection)
        self._connection = connection
        self._has_citus = has_citus(connection)
        self._workers = Workers(connection) if self._has_citus else None
        self._planner = Planner(connection, has_citus=self._has_citus)
        self._errors_until_error = errors_until_error
        self.leases = Leases(connection, lease_kind or ("lease" if self._has_citus else "advisory"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to workers, and the one that keeps leases alive; they are opened again when needed."""
        self.leases.close()
        if self._workers is not None:
            self._workers.close()

    @contextlib.contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        """As `understood`; and where Citus only says that something failed inside, which worker is gone."""
        try:
            with understood(what, self._connection):
                yield
        except LockedError:
            if self._workers is not None and not self._connection.closed:
                # It may be one that is prepared and never ended who holds it (D9).
                refuse_unresolved(self._workers.read())
            raise
        except (psycopg.errors.InternalError, psycopg.errors.ObjectNotInPrerequisiteState, ServerGoneError) as error:
            is_named = isinstance(error, ServerGoneError) and error.node is not None
            if is_named or self._workers is None or self._connection.closed:
                raise
            gone = self._workers.find_gone() or self._workers.find_named(error)
            if gone is None:
                raise
            raise ServerGoneError(
                f"{what}: {gone.message}",
                hint="nothing was changed; refresh it again once the worker is back",
                node=gone.node,
                sqlstate=error.sqlstate,
            ) from error

    # making and changing

    def create(
        self, name: str, query: str, schedule: str | None = "1m", mode: str = "AUTO", placement: str = "auto"
    ) -> StreamTable:
        """Make a stream table and fill it.

        Args:
            name: ``schema.table`` or ``table``, as SQL writes it.
            query: one SELECT.
            schedule: how old it may become, such as ``30s`` or ``1h30m``; or cron in UTC; or ``after``: whenever a
                stream table that it reads was refreshed; None: refreshed by hand.
            mode: AUTO (the cheaper of the two), DIFFERENTIAL or FULL.
            placement: where its rows are: local, reference, distributed, or auto (plan P5.1: local if no source is
                distributed, reference below 100,000 rows, distributed from there on: by the source's own distribution
                column wherever the query keeps it, else by row id).

        Returns:
            The stream table, filled. Its sources are captured from here on; a source is locked against writes only
            while its triggers are made, not while the table is filled.

        Raises:
            BadInputError, QueryRefusedError, MissingPrivilegeError: what was asked for cannot be; nothing was made.
            UnresolvedTransactionError: a transaction is prepared on a worker and not resolved (D9).
            ServerGoneError: a worker does not answer.
        """
        refuse_busy(self._connection)
        schedule, mode, placement = check_words(schedule, mode, placement)
        schema, table = named(self._connection, name)
        refuse_taken(self._connection, schema, table)
        check_access_method(self._connection)
        with self._understood(f"stream table {schema}.{table}"):
            analysis = patiently(lambda: check_query(self._connection, query, mode))
            self._refuse_unresolved(analysis)
            if is_after(schedule):
                self._refuse_after_nothing(f"{schema}.{table}", {source.relid for source in analysis.sources})
            home = choose_home(self._connection, analysis, placement, has_citus=self._has_citus)
            made = self._make_filled(
                sql.Identifier(schema, table),
                analysis,
                home,
                schedule=schedule,
                mode=mode,
                original=plain_query(query),
            )
        self._signal()
        return made

    def _make_filled(
        self,
        name: sql.Identifier,
        analysis: Analysis,
        home: Home,
        *,
        schedule: str | None,
        mode: str,
        original: sql.SQL,
    ) -> StreamTable:
        """A new stream table, filled; on an exception nothing of it is left."""
        made = self._make(name, analysis, home, schedule=schedule, mode=mode, original=original, instead_of=None)
        try:
            reason = self._planner.plan(made).reason if analysis.is_incremental else ""
            if reason:
                made = self._make_recomputed(made, analysis, home, reason)
            self.refresh(made.qualified, initiated_by="INITIAL", wait_s=FILL_WAIT_S)
        except BaseException:
            # Nothing of it may stay; what hinders that is said by the error that is on its way.
            with contextlib.suppress(psycopg.Error, HarnessError):
                self.drop(made.qualified)
            raise
        return fetch_known(self._connection, made.relid)

    def _signal(self) -> None:
        """Tell schedulers that there is something new; one that misses it sees it at its next look."""
        with contextlib.suppress(psycopg.Error):
            self._connection.execute("SELECT pgtrickle.signal_dag_rebuild()")

    def _make_recomputed(self, made: StreamTable, analysis: Analysis, home: Home, reason: str) -> StreamTable:
        """Make it again for recomputing, where it turned out that Citus takes its delta in no way."""
        if made.mode == "DIFFERENTIAL":
            raise QueryRefusedError(f"the query has no incremental form: {reason}", hint="use mode AUTO or FULL")
        self._planner.forget(made.pgt_id)
        again = recomputed(analysis, reason)
        original = plain_query(made.original_query)
        found = self._make(
            made.identifier,
            again,
            home,
            schedule=made.schedule,
            mode=made.mode,
            original=original,
            instead_of=made,
        )

        def remove() -> None:
            with giving_way(self._connection):
                remove_captures(self._connection, [dependency.relid for dependency in made.dependencies])

        patiently(remove)
        return found

    def _refuse_after_nothing(self, name: str, sources: builtins.set[int]) -> None:
        if not sources & {found.relid for found in self.list()}:
            raise BadInputError(
                f"{name} cannot be refreshed after its sources: none of them is a stream table",
                hint="give it a schedule of its own, such as 30s",
            )

    def _refuse_unresolved(self, analysis: Analysis) -> None:
        if self._workers is not None and any(source.placement != "local" for source in analysis.sources):
            refuse_unresolved(self._workers.read())

    def _make(
        self,
        name: sql.Identifier,
        analysis: Analysis,
        home: Home,
        *,
        schedule: str | None,
        mode: str,
        original: sql.SQL,
        instead_of: StreamTable | None,
    ) -> StreamTable:
        relid = patiently(
            lambda: make(
                self._connection,
                name,
                analysis,
                home,
                schedule=schedule,
                mode=mode,
                original=original,
                instead_of=instead_of,
                has_citus=self._has_citus,
            )
        )
        return fetch_known(self._connection, relid)

    def alter(
        self, name: str, *, query: str | None = None, schedule: str | None = None, mode: str | None = None
    ) -> StreamTable:
        """Change a stream table.

        Args:
            name: which one.
            query: another query. A new table is made and filled beside the present one, which readers see until both
                change places in one transaction.
            schedule: how old it may become; ``manual``: refreshed by hand.
            mode: AUTO, DIFFERENTIAL or FULL.

        Returns:
            The stream table as it is now.

        Raises:
            BadInputError, QueryRefusedError, MissingPrivilegeError: it cannot be; nothing was changed.
        """
        refuse_busy(self._connection)
        before = catalog.find(self._connection, name)
        is_manual = schedule is not None and schedule.strip().lower() == "manual"
        # A schedule that came with an upgrade may be one that 0.2 alone reads: it stays as it is.
        new_schedule, new_mode, _ = check_words(None if is_manual else schedule, mode or before.mode, "auto")
        if schedule is None:
            new_schedule = before.schedule
        if is_after(new_schedule) and query is None:
            self._refuse_after_nothing(before.qualified, {dependency.relid for dependency in before.dependencies})
        relid = before.relid
        with self._understood(before.qualified), self.leases.held(before.pgt_id, before.qualified):
            if query is not None or (mode is not None and new_mode != before.mode):
                relid = self._remake(before, query, new_schedule, new_mode)
            else:
                self._connection.execute(
                    "UPDATE pgtrickle.pgt_stream_tables SET schedule = %s, updated_at = now() WHERE pgt_id = %s",
                    [new_schedule, before.pgt_id],
                )
        self._signal()
        return fetch_known(self._connection, relid)

    def _remake(self, before: StreamTable, query: str | None, schedule: str | None, mode: str) -> int:
        """Give it another query or mode; the OID of its table afterwards."""
        text = query if query is not None else before.query
        analysis = check_query(self._connection, text, mode)
        if any(source.relid == before.relid for source in analysis.sources):
            raise QueryRefusedError(f"{before.qualified} cannot read itself", hint="read from its sources")
        old = None if query is not None else self._planner.plan(before)
        if old is not None and self._is_same(old, analysis):
            self._connection.execute(
                "UPDATE pgtrickle.pgt_stream_tables SET schedule = %s, refresh_mode = %s, updated_at = now()"
                " WHERE pgt_id = %s",
                [schedule, mode, before.pgt_id],
            )
            return before.relid
        readers = self._readers(before)
        if readers:
            raise RefusedError(
                f"{before.qualified} is read by {', '.join(readers)}, which follow its present rows",
                hint="drop those first, and make them again afterwards",
            )
        home = Home(before.placement)
        if before.placement == "distributed":
            home = choose_home(self._connection, analysis, "distributed", has_citus=self._has_citus)
        aside = sql.Identifier(before.schema, f"{REMAKE_PREFIX}{before.pgt_id}")
        self._drop_left_behind(aside)
        made = self._make_filled(
            aside,
            analysis,
            home,
            # Nobody else refreshes it while it is aside.
            schedule=None,
            mode=mode,
            original=plain_query(query if query is not None else before.original_query),
        )
        try:
            patiently(lambda: swap(self._connection, before, made, schedule=schedule, has_citus=self._has_citus))
        except BaseException:
            with contextlib.suppress(psycopg.Error, HarnessError):
                self.drop(made.qualified)
            raise
        self._planner.forget(before.pgt_id)
        self._planner.forget(made.pgt_id)
        return made.relid

    def _drop_left_behind(self, aside: sql.Identifier) -> None:
        """What an earlier change left that was killed before it was done."""
        with contextlib.suppress(StreamTableNotFoundError):
            self.drop(aside.as_string(self._connection))

    def clear_left_behind(self) -> builtins.list[str]:
        """Drop what changes of queries left aside that were killed before they were done: nobody refreshes it, and it
        would keep its sources' buffers from being emptied.

        Returns:
            Their names. One whose change is still at work is left alone.
        """
        gone = []
        for found in self.list():
            number = found.name.removeprefix(REMAKE_PREFIX)
            if found.name == number or not number.isdigit():
                continue
            try:
                with self.leases.held(int(number), found.qualified):
                    self.drop(found.qualified)
            except LockedError:
                continue
            except StreamTableNotFoundError:  # what it was to replace is gone, too
                self.drop(found.qualified)
            gone.append(found.qualified)
        return gone

    @staticmethod
    def _is_same(plan: Plan, analysis: Analysis) -> bool:
        """Whether the storage and the capture of a plan serve an analysis as they are."""
        return (
            set(analysis.target.shape.columns) == set(plan.analysis.target.shape.columns)
            and analysis.is_incremental == plan.is_incremental
        )

    # refreshing

    def refresh(
        self, name: str, *, mode: str | None = None, initiated_by: str = "MANUAL", wait_s: float = 0.0
    ) -> Refresh:
        """Bring a stream table up to date.

        Args:
            name: which one.
            mode: FULL or DIFFERENTIAL for this time; None: as it was made.
            initiated_by: for the history: MANUAL, SCHEDULER or INITIAL.
            wait_s: how long to wait for whoever else refreshes or changes it, in seconds.

        Returns:
            What was done; the history has it too.

        Raises:
            StreamTableNotFoundError: there is none of that name.
            RefusedError: it is suspended, or the mode cannot be.
            LockedError: somebody else refreshes it, or a source stays locked.
            LeaseLostError: this session gave no sign of life for so long that its lease ran out; nothing was changed.
            UnresolvedTransactionError, HashCollisionError, ServerGoneError: see `harness.trickle.refresh`.
        """
        refuse_busy(self._connection)
        pgt_id, relid = catalog.find_number(self._connection, name)
        if mode is not None:
            mode = check_words(None, mode, "auto")[1]
        with understood(name, self._connection), self.leases.held(pgt_id, name, wait_s=wait_s) as lease:
            found = catalog.fetch_by_relid(self._connection, relid) or catalog.find(self._connection, name)
            if found.pgt_id != pgt_id:
                raise RefusedError(f"{name} was made anew while it was waited for", hint="refresh it again")
            relid = found.relid  # another one where its query was altered meanwhile
            if found.status == "SUSPENDED":
                raise RefusedError(f"{found.qualified} is suspended", hint="resume it first: harness st resume")
            try:
                with self._understood(found.qualified):
                    try:
                        return self._refresh(found, lease, mode, initiated_by)
                    except HistoryChangedError as error:
                        catalog.write_marked(self._connection, found, error.reason)
                        return self._refresh(fetch_known(self._connection, relid), lease, mode, initiated_by)
            except (HarnessError, psycopg.Error) as error:
                self._note_failure(found, error, lease.taken_at, initiated_by)
                raise

    def _refresh(self, found: StreamTable, lease: Lease, mode: str | None, initiated_by: str) -> Refresh:
        is_marked = found.needs_reinit or found.status == "ERROR"
        if self._workers is not None and (is_marked or not self._planner.knows(found.pgt_id)):
            # With a deadline, before anything goes through Citus, which waits for a worker that is silent without end.
            self._workers.read()
        if is_marked:
            settle(self._connection, found)
            found = fetch_known(self._connection, found.relid)
        found, plan = self._planner.planned(found)
        if mode == "DIFFERENTIAL" and not plan.is_incremental:
            raise QueryRefusedError(
                f"{found.qualified} has no incremental form: {plan.reason}", hint="refresh it in mode FULL"
            )
        return refresh(
            self._connection,
            found,
            plan,
            self._workers,
            begun_at=lease.taken_at,
            check_alone=lambda: self.leases.check(lease, found.qualified),
            mode=mode,
            initiated_by=initiated_by,
        )

    def _note_failure(self, found: StreamTable, error: Exception, begun_at: datetime, initiated_by: str) -> None:
        if self._connection.closed or isinstance(error, LockedError):
            return
        # Who asks for what cannot be is told so, and the table is as it was; a scheduler asks for nothing of its own.
        if isinstance(error, RefusedError) and initiated_by != "SCHEDULER":
            return
        with contextlib.suppress(psycopg.Error), self._connection.transaction():
            if not _is_no_fault_of_its_table(error, self._connection):
                catalog.write_failed(self._connection, found, error, self._errors_until_error)
            catalog.write_history(
                self._connection,
                found,
                action="SKIP",
                status="FAILED",
                reason="it failed",
                started_at=begun_at,
                error=str(error)[:2000],
                initiated_by=initiated_by,
            )

    # the rest

    def suspend(self, name: str, reason: str | None = None) -> StreamTable:
        """Let nobody refresh it until it is resumed; its sources are captured meanwhile, and nothing is lost.

        Args:
            name: which one.
            reason: why, for whoever asks later; the catalog keeps it.

        Returns:
            The stream table as it is now: one row of the catalog, on the coordinator, was changed.

        Raises:
            StreamTableNotFoundError: there is none of that name.
        """
        return self._set_status(name, "SUSPENDED", reason)

    def resume(self, name: str) -> StreamTable:
        """Let it be refreshed again, its failures forgotten.

        Args:
            name: which one.

        Returns:
            The stream table as it is now: one row of the catalog, on the coordinator, was changed.

        Raises:
            StreamTableNotFoundError: there is none of that name.
        """
        return self._set_status(name, "ACTIVE", None)

    def _set_status(self, name: str, status: str, reason: str | None) -> StreamTable:
        found = catalog.find(self._connection, name)
        self._connection.execute(
            "UPDATE pgtrickle.pgt_stream_tables SET status = CASE WHEN %(status)s = 'ACTIVE' AND NOT is_populated"
            " THEN 'INITIALIZING' ELSE %(status)s END,"
            " consecutive_errors = 0, suspended_reason = %(reason)s, updated_at = now() WHERE pgt_id = %(id)s",
            {"status": status, "id": found.pgt_id, "reason": reason},
        )
        self._signal()
        return fetch_known(self._connection, found.relid)

    def drop(self, name: str, *, cascade: bool = False) -> None:
        """Drop a stream table; a source that nobody else reads is captured no longer, and its buffer goes.

        Args:
            name: which one.
            cascade: also what depends on it, such as views and stream tables that read it.

        Raises:
            StreamTableNotFoundError: there is none of that name.
            RefusedError: something depends on it; nothing was changed.
        """
        refuse_busy(self._connection)
        found = catalog.find(self._connection, name)
        readers = self._readers(found)
        if readers and not cascade:
            raise RefusedError(
                f"{found.qualified} is read by {', '.join(readers)}", hint="drop those first, or use cascade"
            )
        # One that reads two of them may be gone with the first.
        while readers:
            self.drop(readers[0], cascade=True)
            readers = self._readers(found)
        with self.leases.held(found.pgt_id, found.qualified):
            try:
                patiently(lambda: self._drop(found, cascade=cascade))
            except psycopg.errors.DependentObjectsStillExist as error:
                raise RefusedError(
                    f"{found.qualified} is used: {error.diag.message_detail}", hint="drop that first, or use cascade"
                ) from error
            except psycopg.Error as error:
                self._note_unfinished_drop(found, error)
                raise
        self._planner.forget(found.pgt_id)
        self._signal()

    def _drop(self, found: StreamTable, *, cascade: bool) -> None:
        with giving_way(self._connection):
            if self._has_citus:
                self._connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
            self._connection.execute(drop_query(found.identifier, cascade=cascade))
            self._connection.execute("DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = %s", [found.pgt_id])
            remove_captures(self._connection, [dependency.relid for dependency in found.dependencies])

    def _note_unfinished_drop(self, found: StreamTable, error: psycopg.Error) -> None:
        """While a worker is down Citus drops nothing: the wish is kept, and ``harness st repair`` ends it.

        Raises:
            ServerGoneError: that is why.
        """
        if self._workers is None or self._connection.closed:
            return
        try:
            self._workers.read()
        except ServerGoneError as gone:
            self._connection.execute(
                "UPDATE pgtrickle.pgt_stream_tables SET drop_requested_at = clock_timestamp(), status = 'SUSPENDED',"
                " suspended_reason = 'it was dropped while a worker was down', updated_at = now() WHERE pgt_id = %s",
                [found.pgt_id],
            )
            raise ServerGoneError(
                f"{found.qualified} cannot be dropped now: {gone.message}",
                hint="it is refreshed no more, and goes once the worker is back: harness st repair",
                node=gone.node,
            ) from error

    def _readers(self, stream_table: StreamTable) -> builtins.list[str]:
        """The stream tables that read one, by name."""
        rows = self._connection.execute(
            "SELECT format('%%I.%%I', t.pgt_schema, t.pgt_name) FROM pgtrickle.pgt_dependencies d"
            " JOIN pgtrickle.pgt_stream_tables t USING (pgt_id) WHERE d.source_relid = %s ORDER BY 1",
            [stream_table.relid],
        ).fetchall()
        return [str(name) for (name,) in rows]

    def list(self) -> list[StreamTable]:
        """All stream tables, by schema and name."""
        return catalog.fetch_all(self._connection)

    def status(self, name: str | None = None) -> builtins.list[Status]:
        """How far behind stream tables are, and who holds them.

        Args:
            name: which one; None: all.

        Returns:
            One for each, by schema and name; nothing stays behind. Buffers are read through the coordinator, and who
            holds a distributed source is asked on the workers too.

        Raises:
            StreamTableNotFoundError: there is none of that name.
            ServerGoneError: a worker does not answer.
        """
        wanted = self.list() if name is None else [catalog.find(self._connection, name)]
        return [fetch_status(self._connection, found, self._workers) for found in wanted]

    def explain(self, name: str) -> Explanation:
        """How a stream table would be refreshed now; runs none of the statements that it shows.

        Args:
            name: which one.

        Returns:
            The mode and why, the statements in order, what Citus pushes down. Nothing stays behind.

        Raises:
            StreamTableNotFoundError: there is none of that name.
        """
        refuse_busy(self._connection)
        found = catalog.find(self._connection, name)
        with self._understood(found.qualified):
            return explain(self._connection, found, self._planner.plan(found), has_citus=self._has_citus)
