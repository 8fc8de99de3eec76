"""The loop: look at the catalog, begin what is due and may begin, wait for a notification, an end, or the next look.

What a notification says is not trusted to come: each look reads all there is. What a connection says is not trusted to
last: it is opened again, to whichever host of the DSN can be written by then.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import select
import threading
import time
from dataclasses import dataclass

import psycopg

from harness.errors import BadInputError, HarnessError, RefusedError, ServerError
from harness.postgres.deadlines import DeadlineConnection
from harness.scheduler.entries import Entry, Look, look
from harness.scheduler.events import Event, OnEvent
from harness.scheduler.figures import Figures
from harness.scheduler.order import Due, Memory, Plan, describe_cycle, find_cycles, plan, ready
from harness.scheduler.place import connect, prove, refuse_another_version
from harness.scheduler.sessions import Outcome, Session
from harness.trickle import StreamTables
from harness.trickle.catalog import ERRORS_UNTIL_ERROR
from harness.trickle.repair import repair

CHANNEL = "pg_trickle_dag_rebuild"
# A server that does not answer a look for so long is frozen or gone.
LOOK_DEADLINE_S = 30.0
# Between two tries to reach a database that is gone, in seconds.
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.25, 5.0
# Somebody else is at it: they are done soon.
LOCKED_PAUSE_S = 1.0
# What was killed in the middle is cleared away so often.
CLEAR_EVERY_S = 300.0
# A refresh that was cancelled ends at once, unless its server is gone.
_CANCELLED_DEADLINE_S = 10.0


def drain(control: DeadlineConnection) -> bool:
    """Take all notifications that have come to a session, those between its statements too.

    Returns:
        Whether there was one.
    """
    return sum(1 for _notification in control.notifies(timeout=0)) > 0


@dataclass(frozen=True)
class Options:
    """How a scheduler works.

    Attributes:
        sessions: how many refreshes at once.
        poll_s: the longest pause between two looks, in seconds.
        errors_until_error: after so many failures in a row a stream table is in status ERROR.
        backoff_s: the pause after a first failure, in seconds; it doubles with each.
        backoff_max_s: the longest such pause.
        grace_s: how long the refreshes at work may go on once it is to stop, in seconds.
        waits_for_place: wait for a writable coordinator at the start, too, instead of refusing.
        observe_s: how often the backlogs are looked at, in seconds; 0: never.
        keep_history_s: rows of the history that ended longer ago, in seconds, are deleted; None: none is.
    """

    sessions: int = 2
    poll_s: float = 1.0
    errors_until_error: int = ERRORS_UNTIL_ERROR
    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    grace_s: float = 60.0
    waits_for_place: bool = False
    observe_s: float = 15.0
    keep_history_s: float | None = None


class Scheduler:
    """Refreshes what is due.

    Args:
        dsn: of the database; several hosts with ``target_session_attrs=read-write`` are followed over a failover.
        options: how.
        on_event: told what happens, from one thread.
        figures: counted into.
    """

    def __init__(self, dsn: str, options: Options, on_event: OnEvent, figures: Figures | None = None) -> None:
        self._dsn = dsn
        self._options = options
        self._tell = on_event
        self.figures = figures or Figures()
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        self._idle = [Session(dsn, options.errors_until_error) for _ in range(options.sessions)]
        self._all = tuple(self._idle)
        self._observing = Session(dsn, options.errors_until_error)
        self._running: dict[int, Due] = {}
        self._ended: queue.SimpleQueue[tuple[Session, Due, Outcome]] = queue.SimpleQueue()
        # What other threads have to tell: one thread tells all.
        self._news: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._memories: dict[int, Memory] = {}
        self._refused: dict[int, tuple[str, str]] = {}
        self._failed = 0

    def stop(self) -> None:
        """Begin nothing more, and let `run` return when what is at work has ended; from any thread or handler."""
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full is as good as woken
            os.write(self._wake_write, b".")

    # running

    def run(self) -> None:
        """Work until it is told to stop.

        Raises:
            BadInputError: the DSN is none.
            RefusedError: at the start: the wrong node, another version, a catalog of another version, a circle.
            ServerError: at the start: no such database.
        """
        observer: threading.Thread | None = None
        try:
            control = self._open_first()
            if control is not None:
                observer = threading.Thread(target=self._observe, name="observer", daemon=True)
                observer.start()
            while not self._stopping.is_set():
                if control is None:
                    control = self._open_again()
                    continue
                begun = time.monotonic()
                try:
                    self._serve(control)
                except (psycopg.Error, HarnessError) as error:
                    self._tell(Event("lost", f"the database is lost: {_first_line(error)}"))
                    self.figures.note_look(None, running=len(self._running), due=0)
                    if time.monotonic() - begun < RECONNECT_MAX_S:
                        # It takes connections, and no work: not at once again.
                        self._stopping.wait(RECONNECT_MIN_S)
                finally:
                    control.close()
                    control = None
        finally:
            self._wind_up(observer)

    def run_once(self) -> int:
        """Refresh what is due, and what becomes due by that, until nothing is; how many of them failed.

        Raises:
            RefusedError, ServerError: as `run`, and whenever the database is lost.
        """
        control = self._open_first()
        if control is None:
            return 0
        try:
            while not self._stopping.is_set():
                self._take_ended()
                seen, made = self._look(control)
                self._begin(made, seen)
                if not self._running and not ready(made, seen, ()):
                    break
                self._wait(control, self._pause_s(made, seen))
        finally:
            control.close()
            self._wind_up(None)
        return self._failed + len(self._refused)

    def _open_first(self) -> DeadlineConnection | None:
        """The first connection; None: it was told to stop while it waited for one."""
        control = self._open_again() if self._options.waits_for_place else self._open()
        if control is None:
            return None
        try:
            refuse_another_version(control)
            seen = look(control)
            _refuse_cycles(seen)
        except BaseException:
            control.close()
            raise
        where = f"{control.info.dbname} at {control.info.host}:{control.info.port}"
        count = sum(entry.schedule is not None for entry in seen.entries.values())
        self._tell(Event("started", f"{where}: {count} stream tables with a schedule, {len(self._all)} at once"))
        return control

    def _open(self) -> DeadlineConnection:
        control = connect(self._dsn, deadline_s=LOOK_DEADLINE_S)
        try:
            prove(control)
            control.execute("LISTEN pg_trickle_dag_rebuild")
        except psycopg.Error as error:
            control.close()
            raise ServerError(f"the database was lost while it was looked at: {_first_line(error)}") from error
        except BaseException:
            control.close()
            raise
        return control

    def _open_again(self) -> DeadlineConnection | None:
        """A connection to the writable coordinator, however long that takes; None: it is to stop."""
        pause_s = RECONNECT_MIN_S
        told = ""
        while not self._stopping.is_set():
            self._take_ended()
            try:
                control = self._open()
            except BadInputError:
                raise  # no DSN at all: waiting cannot help
            except HarnessError as error:
                if error.message != told:
                    self._tell(Event("lost", error.message, hint=error.hint))
                    told = error.message
                self._stopping.wait(pause_s)
                pause_s = min(pause_s * 2, RECONNECT_MAX_S)
            else:
                self._tell(Event("connected", f"connected to {control.info.host}:{control.info.port}"))
                return control
        return None

    # a look after the other

    def _serve(self, control: DeadlineConnection) -> None:
        while not self._stopping.is_set():
            self._take_ended()
            seen, made = self._look(control)
            self._begin(made, seen)
            self.figures.note_look(seen, running=len(self._running), due=len(made.due))
            self._wait(control, self._pause_s(made, seen))

    def _pause_s(self, made: Plan, seen: Look) -> float:
        """Until the next look, if nothing happens: until something is due, or a pause after a failure ends."""
        found = [self._options.poll_s]
        if made.next_at is not None:
            found.append((made.next_at - seen.now).total_seconds())
        now = time.monotonic()
        found += [memory.not_before - now for memory in self._memories.values() if memory.not_before > now]
        return max(0.005, min(found))

    def _look(self, control: DeadlineConnection) -> tuple[Look, Plan]:
        seen = look(control)
        for number in self._memories.keys() - seen.entries.keys():
            del self._memories[number]
        made = plan(seen, self._memories, time.monotonic(), errors_until_error=self._options.errors_until_error)
        for number, (message, hint) in made.refused.items():
            if self._refused.get(number) != (message, hint):
                entry = seen.entries[number]
                self._tell(Event("refused", message, stream_table=entry.name, hint=hint))
                self.figures.count_failure(entry.name, "refused")
        self._refused = made.refused
        return seen, made

    def _begin(self, made: Plan, seen: Look) -> None:
        for due in ready(made, seen, self._running.keys()):
            if not self._idle or self._stopping.is_set():
                break
            number = due.entry.pgt_id
            # The session that has its plan already, if it is idle.
            session = next((one for one in self._idle if number in one.knows), self._idle[0])
            self._idle.remove(session)
            self._running[number] = due
            threading.Thread(
                target=self._refresh, args=[session, due], name=f"refresh {due.entry.name}", daemon=True
            ).start()

    def _refresh(self, session: Session, due: Due) -> None:
        try:
            outcome = session.refresh(due.entry.pgt_id, due.entry.name)
        except Exception as error:  # a bug: told as a failure of this one table, and the others go on
            session.close()
            outcome = Outcome(None, error)
        self._ended.put((session, due, outcome))
        self._wake()

    def _wait(self, control: DeadlineConnection, timeout_s: float) -> None:
        """Until a notification, the end of a refresh, the order to stop, or the next look is due."""
        if drain(control):
            return  # it came while a look was on its way, so nothing on the socket says it any more
        readable, _, _ = select.select([control.fileno(), self._wake_read], [], [], timeout_s)
        if self._wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_read, 4096):
                    pass
        if control.fileno() in readable:
            drain(control)

    def _take_ended(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._tell(self._news.get_nowait())
        while True:
            try:
                session, due, outcome = self._ended.get_nowait()
            except queue.Empty:
                return
            self._idle.append(session)
            self._running.pop(due.entry.pgt_id, None)
            self.figures.count_takeovers(outcome.takeovers)
            memory = self._memories.setdefault(due.entry.pgt_id, Memory())
            if outcome.refresh is not None:
                self._note_done(due, outcome, memory)
            elif outcome.is_locked:
                memory.not_before = time.monotonic() + LOCKED_PAUSE_S
                if outcome.has_met_holder:
                    self.figures.count_lease_wait(due.entry.name)
                self._tell(Event("skipped", _first_line(outcome.error), stream_table=due.entry.name))
            else:
                self._note_failed(due.entry, outcome.error, memory)

    def _note_done(self, due: Due, outcome: Outcome, memory: Memory) -> None:
        done = outcome.refresh
        if done is None:
            return
        memory.failures, memory.not_before = 0, 0.0
        memory.followed = due.follows or memory.followed
        self.figures.count_refresh(due.entry.name, done.action, done.elapsed_ms / 1000)
        self._tell(
            Event(
                "refreshed",
                f"{due.entry.name}: {done.action}, {done.change_count} changes, {done.elapsed_ms:.0f} ms",
                stream_table=due.entry.name,
                action=done.action,
                elapsed_ms=done.elapsed_ms,
            )
        )

    def _note_failed(self, entry: Entry, error: Exception | None, memory: Memory) -> None:
        self._failed += 1
        memory.failures += 1
        pause_s = min(self._options.backoff_s * 2 ** (memory.failures - 1), self._options.backoff_max_s)
        # Many that failed of one cause do not all come back at the same moment.
        memory.not_before = time.monotonic() + pause_s * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        self.figures.count_failure(entry.name, type(error).__name__)
        hint = error.hint if isinstance(error, HarnessError) else ""
        self._tell(
            Event(
                "failed",
                f"{entry.name}: {_first_line(error)}; the next try in {pause_s:.0f} s",
                stream_table=entry.name,
                hint=hint,
            )
        )

    # the end

    def _wind_up(self, observer: threading.Thread | None) -> None:
        if self._running:
            self._tell(Event("stopping", f"waiting for {len(self._running)} refreshes to end"))
        self._wait_for_running(self._options.grace_s)
        if self._running:
            self._tell(Event("stopping", f"cancelling {len(self._running)} refreshes"))
            for session in self._all:
                if session not in self._idle:
                    session.cancel()
            self._wait_for_running(_CANCELLED_DEADLINE_S)
        self._stopping.set()
        if observer is not None:
            self._observing.cancel()
            observer.join(timeout=_CANCELLED_DEADLINE_S)
        for session in self._idle:
            session.close()
        self._tell(Event("stopped", "stopped" if not self._running else f"left {len(self._running)} refreshes behind"))

    def _wait_for_running(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while self._running and time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                self._ended.put(self._ended.get(timeout=min(0.2, max(0.0, until - time.monotonic()))))
            self._take_ended()

    # beside the refreshes: what waits, who holds it, what is left of what was killed

    def _observe(self) -> None:
        session = self._observing
        clear_at = time.monotonic()
        try:
            while True:
                try:
                    tables = session.open()
                    if self._options.observe_s:
                        self.figures.note_backlogs(tables.status())
                    if time.monotonic() >= clear_at:
                        clear_at = time.monotonic() + CLEAR_EVERY_S
                        self._clear(session, tables)
                except (HarnessError, psycopg.Error):
                    # The loop itself tells that the database is lost.
                    session.close()
                if self._stopping.wait(self._options.observe_s or CLEAR_EVERY_S):
                    return
        finally:
            session.close()

    def _clear(self, session: Session, tables: StreamTables) -> None:
        """Mend what faults left; a worker that was down during a DROP is cleaned once it is back."""
        for name in tables.clear_left_behind():
            self._news.put(Event("repaired", f"{name}: what a killed change left is gone", stream_table=name))
        if self._options.keep_history_s is not None:
            session.connection().execute(
                "DELETE FROM pgtrickle.pgt_refresh_history"
                " WHERE end_time < clock_timestamp() - make_interval(secs => %s)",
                [self._options.keep_history_s],
            )
        for finding in repair(session.connection()).findings:
            if finding.is_mended:
                self._news.put(Event("repaired", str(finding)))
        self._wake()


def _refuse_cycles(seen: Look) -> None:
    for cycle in find_cycles(seen.entries):
        message, hint = describe_cycle(seen.entries, cycle)
        raise RefusedError(message, hint=hint)


def _first_line(error: Exception | None) -> str:
    words = error.message if isinstance(error, HarnessError) else str(error)
    return (words.strip().splitlines() or [type(error).__name__])[0]
