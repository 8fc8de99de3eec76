"""A rehearsal from beginning to end: look, copy, check, up under live writers, down, up again, with checks between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import psycopg
from psycopg import sql

from harness.chain import runner
from harness.chain.catalog import CatalogSnapshot, compare_catalogs, snapshot_catalog
from harness.chain.runner import ChainEvent, ChainOptions
from harness.errors import (
    ConnectionRefusedByInput,
    EnvironmentMissingError,
    HarnessError,
    RefusedError,
    ServerError,
    WaitTimeoutError,
)
from harness.postgres.places import run_dir
from harness.rehearsal import checks, contents, crash, place
from harness.rehearsal.dump import restored_dump
from harness.rehearsal.machine import describe_machine
from harness.rehearsal.model import CheckResult, RehearsalResult, StepResult, Verdict
from harness.rehearsal.options import OnProgress, Progress, RehearsalOptions, say_nothing
from harness.rehearsal.steps import Clock, CurrentStep, RevisionRecord, StepLog, longest_stalls
from harness.rehearsal.stream_table_check import check_stream_tables, wrong_stream_tables
from harness.rehearsal.tables import Connection, SourceTable, TableName, fetch_buffers, fetch_sources
from harness.rehearsal.tools import disk_full, is_no_space
from harness.rehearsal.writers import Writers
from harness.waiting import wait_until

# Where a failed revision leaves nothing to go on with: these come after it and are recorded as skipped.
_AFTER_UP = ("down", "check_down", "up_again", "compare")
_BASELINE = "0001"
CATALOG_CHECK = "catalog_as_before"
WRITERS_CHECK = "writers_met_no_error"
_SHOWN_DIFFERENCES = 3
# About 40 ms at the writers' own rate (500 a second).
_WRITES_BETWEEN = 20
# A writer that waits for somebody's lock does not hold up the rehearsal for longer.
_WRITING_DEADLINE_S = 2.0


@dataclass
class _Found:
    """Everything that is known so far."""

    checks: list[CheckResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    needs_reinit: tuple[str, ...] = ()
    sources: tuple[SourceTable, ...] = ()
    stream_tables: int = 0
    rows: int = 0
    wrong_before: frozenset[str] = frozenset()
    server_version: str = ""
    fsync: str = ""
    source_dsn: str = "demonstration"
    source_version: str = ""


def rehearse(options: RehearsalOptions, on_progress: OnProgress = say_nothing) -> RehearsalResult:
    """Rehearse the upgrade of an installation, on a copy of it, and say what came of it.

    The source is only read. On this machine nothing is left but, with ``keep``, the copy's directory.

    Args:
        options: what to rehearse and how.
        on_progress: told where it is, in this thread.

    Returns:
        All steps, checks, revisions and writes; ``passed`` where nothing was found wrong.

    Raises:
        BadInputError: an option cannot be used.
        RefusedError: the source cannot be reached, read or upgraded; each finding says what to do.
        EnvironmentMissingError: no binaries that will do, or no room on the disk.
        ServerGoneError: the source, or the copy, died on the way without being killed by us.
    """
    options = options.checked()
    if options.dump is None:
        return _Rehearsal(options, on_progress).run()

    def say(message: str, fraction: float | None) -> None:
        on_progress(Progress("look", message, fraction))

    with _no_room_told(), restored_dump(options.dump, jobs=options.jobs, say=say) as restored:
        result = _Rehearsal(replace(options, dsn=restored.dsn, dump=None), on_progress).run()
    return replace(
        result,
        source_dsn=restored.shown,
        elapsed_s=result.elapsed_s + restored.elapsed_s,
        warnings=(*place.told(restored.warnings), *result.warnings),
        facts={**result.facts, "dump restored": f"in {restored.elapsed_s:.1f} s, before the first step"},
    )


@contextlib.contextmanager
def _no_room_told() -> Iterator[None]:
    """A disk that fills up on the way is an error that says so."""
    try:
        yield
    except psycopg.errors.DiskFull:
        raise disk_full(run_dir(), "the rehearsal stopped") from None
    except OSError as error:
        if is_no_space(error):
            raise disk_full(run_dir(), "the rehearsal stopped") from None
        raise


class _Rehearsal:
    """One rehearsal, on its way."""

    def __init__(self, options: RehearsalOptions, on_progress: OnProgress) -> None:
        self.options = options
        self.seed = options.seed or 0
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.clock = Clock()
        self.log = StepLog(self.clock, on_progress)
        self.found = _Found()
        self.records: list[RevisionRecord] = []
        self.errors_told = 0
        self.first_revision = _BASELINE

    def run(self) -> RehearsalResult:
        """All steps in their order; what was made is removed however it ends."""
        with contextlib.ExitStack() as stack:
            with _no_room_told(), self.log.step("look") as step:
                looked = place.look_around(self.options)
                self._note_look(step, looked)
            with _no_room_told(), self.log.step("copy") as step:
                self.place = place.make_place(self.options, self.seed, looked, step.say)
                stack.callback(self.place.server.destroy)
                self.found.warnings += place.told(self.place.warnings)
            with self._death_told():
                self._rehearse(stack)
        return self._result()

    # ------------------------------------------------------------------------------------------------- the steps

    def _rehearse(self, stack: contextlib.ExitStack) -> None:
        conn = stack.enter_context(contextlib.closing(self._connect()))
        self._check_first(conn)
        self.writers = Writers(
            self._connect,
            self.found.sources,
            threads=self.options.threads,
            seed=self.seed,
            now_s=self.clock.now_s,
            triggers_stay_home=self.options.dsn is None,
        )
        stack.callback(self.writers.stop)
        before = snapshot_catalog(conn)
        conn.close()
        if not self._go("up", self._upgrade_plan()):
            self._check("check_up", "up")
            return self._skip(_AFTER_UP)
        after_up = self._check("check_up", "up")
        went_down = self._go("down", self._downgrade_plan())
        after_down = self._check("check_down", "down")
        if not went_down:
            return self._skip(("up_again", "compare"))
        if not self._go("up_again", self._upgrade_plan()):
            return self._skip(("compare",))
        with self.log.step("compare") as step, contextlib.closing(self._connect()) as last:
            self._all_checks(step, last, "up_again")
            again = snapshot_catalog(last)
            compared = [
                _compare("after down, as before up", "down", before, after_down),
                _compare("after up again, as after up", "up_again", after_up, again),
            ]
            self.found.checks += compared
            step.judge([check for check in self.found.checks if check.phase == "up_again" or check in compared])
        return None

    def _check_first(self, conn: Connection) -> None:
        with self.log.step("check") as step:
            self.first_revision = runner.current_revision(self.place.dsn) or _BASELINE
            self.found.server_version = self.place.server.show("server_version")
            self.found.fsync = self.place.server.show("fsync")
            self.found.sources = fetch_sources(conn)
            step.say(f"first contents of {len(self.found.sources)} sources", None)
            first = contents.take_first(conn, self.found.sources)
            self.found.rows = first.row_count
            results = check_stream_tables(conn, phase="copy")
            self.found.wrong_before = wrong_stream_tables(results)
            self.found.checks += results
            row = conn.execute("SELECT count(*) FROM pgtrickle.pgt_stream_tables").fetchone()
            self.found.stream_tables = int(row[0]) if row else 0
            step.detail = f"{first.row_count} rows, {first.change_count} captured rows"
            step.judge(results)

    def _go(self, name: str, plan: Sequence[tuple[str, str]]) -> bool:
        """Run revisions one by one under live writers; False where one failed."""
        direction = "down" if name == "down" else "up"
        with self.log.step(name) as step:
            self.writers.start()
            try:
                for number, (revision, target) in enumerate(plan):
                    step.say(f"{revision} {direction}", number / len(plan))
                    self._let_writers_write()
                    self._run_revision(step, revision, target, direction)
                self._let_writers_write()
            except HarnessError as error:
                if isinstance(error, RefusedError | EnvironmentMissingError) or not self.place.server.is_running:
                    raise
                step.verdict = Verdict.FAILED
                step.detail = f"{error.message}" + (f" ({error.hint})" if error.hint else "")
            finally:
                self.writers.stop()
            if step.verdict is Verdict.PASSED:
                step.detail = f"{len(plan)} revisions"
        return step.verdict is Verdict.PASSED

    def _let_writers_write(self) -> None:
        """Some writes between two revisions, so that each has rows that were captured before it, and after a crash
        everybody is back. Writers that cannot write are told of by their errors, not by this wait.
        """
        enough = self.writers.report().commits + _WRITES_BETWEEN
        with contextlib.suppress(WaitTimeoutError):
            wait_until(
                "the writers to write", lambda: self.writers.report().commits >= enough, deadline_s=_WRITING_DEADLINE_S
            )

    def _run_revision(self, step: CurrentStep, revision: str, target: str, direction: str) -> None:
        record = RevisionRecord(revision, direction, self.clock.now_s())
        chain_options = ChainOptions(lock_timeout_ms=self.options.lock_timeout_ms, deadline_s=self.options.deadline_s)
        move = runner.upgrade if direction == "up" else runner.downgrade

        def go(listener: Callable[[ChainEvent], None]) -> None:
            def hear(event: ChainEvent) -> None:
                record.take(event)
                if event.kind == "waiting":
                    step.say(f"{revision} {direction}: waits for {event.source}", None)
                listener(event)

            move(self.place.dsn, target, on_event=hear, options=chain_options)

        try:
            if self.options.crash:
                moment = crash.draw_moment(self.seed, revision, direction, step.name, len(self.found.sources))
                record.crashes = crash.run_with_crash(
                    self.place.server,
                    moment,
                    go,
                    on_crash=lambda: step.say(f"{revision} {direction}: server killed", None),
                )
            else:
                go(lambda _event: None)
        finally:
            record.ended_s = self.clock.now_s()
            if self.place.server.is_running:
                record.pending_rows = self._count_pending()
            self.records.append(record)

    def _check(self, name: str, phase: str) -> CatalogSnapshot:
        with self.log.step(name) as step, contextlib.closing(self._connect()) as conn:
            step.judge(self._all_checks(step, conn, phase))
            if phase == "down":
                self.found.needs_reinit = _fetch_reinit(conn)
            return snapshot_catalog(conn)

    def _all_checks(self, step: CurrentStep, conn: Connection, phase: str) -> list[CheckResult]:
        """Every check after a phase, while no writer runs; what was captured so far is noted for the next."""
        sources = self.found.sources
        results: list[CheckResult] = []
        makers: tuple[tuple[str, Callable[[], tuple[CheckResult, ...]]], ...] = (
            ("contents", lambda: checks.check_contents(conn, sources, phase=phase)),
            ("captured rows", lambda: checks.check_captured(conn, sources, phase=phase)),
            ("row counts", lambda: checks.check_row_counts(conn, sources, self.writers.net_rows(), phase=phase)),
            (
                "stream tables",
                lambda: check_stream_tables(conn, phase=phase, wrong_before=self.found.wrong_before),
            ),
        )
        for number, (label, make) in enumerate(makers):
            step.say(label, number / (len(makers) + 1))
            results += make()
        results.append(self._check_writers(phase))
        step.say("noting captured rows", len(makers) / (len(makers) + 1))
        contents.note_captured(conn, sources)
        self.found.checks += results
        return results

    def _check_writers(self, phase: str) -> CheckResult:
        """Did any writer meet an error that a user would have met?"""
        report = self.writers.report()
        new = report.errors[self.errors_told :]
        self.errors_told = len(report.errors)
        subject = f"{self.options.threads} writers"
        if not new:
            return CheckResult(WRITERS_CHECK, phase, subject, Verdict.PASSED, f"{report.commits} commits so far")
        first = new[0]
        told = f"{len(new)} error(s), the first on {first.source}: {first.sqlstate} {first.message}"
        return CheckResult(WRITERS_CHECK, phase, subject, Verdict.FAILED, told)

    # ------------------------------------------------------------------------------------------------- the rest

    def _upgrade_plan(self) -> tuple[tuple[str, str], ...]:
        """Revisions to go up, each with the target to name."""
        start = runner.REVISIONS.index(self.first_revision) + 1
        return tuple((revision, revision) for revision in runner.REVISIONS[start:])

    def _downgrade_plan(self) -> tuple[tuple[str, str], ...]:
        """Revisions to go down to where the copy began, each with the one below it, which is the target."""
        start = runner.REVISIONS.index(self.first_revision)
        pairs = zip(runner.REVISIONS[start + 1 :], runner.REVISIONS[start:], strict=False)
        return tuple(reversed(tuple(pairs)))

    def _note_look(self, step: CurrentStep, looked: place.Looked) -> None:
        if looked.facts is not None:
            self.found.source_dsn = looked.facts.shown
            self.found.source_version = looked.facts.version
        self.found.warnings += place.told(looked.warnings)
        step.detail = f"PostgreSQL {looked.installation.version} ({looked.installation.origin})"
        if looked.warnings:
            step.detail += f", {len(looked.warnings)} warning(s)"

    def _connect(self) -> Connection:
        return self.place.server.connect(self.place.dbname)

    def _count_pending(self) -> int:
        """Captured rows in all buffers."""
        with contextlib.closing(self._connect()) as conn:
            buffers = [name for names in fetch_buffers(conn, self.found.sources).values() for name in names]
            return sum(_count(conn, buffer) for buffer in buffers)

    def _skip(self, names: Sequence[str]) -> None:
        for name in names:
            self.log.results.append(
                StepResult(name, Verdict.SKIPPED, self.clock.now_s(), 0.0, "a step before it failed")
            )

    @contextlib.contextmanager
    def _death_told(self) -> Iterator[None]:
        """A copy that dies without being killed by us is an error that says so, whoever notices first."""
        try:
            with _no_room_told():
                yield
        except (ServerError, ConnectionRefusedByInput, psycopg.OperationalError, psycopg.InterfaceError) as error:
            death = crash.explain_death(self.place.server, error)
            if death is None:
                raise
            raise death from None

    def _result(self) -> RehearsalResult:
        found, samples = self.found, self.writers.samples()
        revisions = tuple(record.freeze(samples) for record in self.records)
        up = [run for run in revisions if run.direction == "up"][: len(self._upgrade_plan())]
        stalls = longest_stalls(samples, revisions)
        passed = all(step.verdict is Verdict.PASSED for step in self.log.results) and all(
            check.verdict is not Verdict.FAILED for check in found.checks
        )
        return RehearsalResult(
            passed=passed,
            source_dsn=found.source_dsn,
            seed=self.seed,
            started_at=self.started_at,
            elapsed_s=self.clock.now_s(),
            upgrade_s=sum(run.ended_s - run.started_s for run in up),
            longest_stall_ms=max((run.longest_stall_ms or 0.0 for run in revisions), default=0.0),
            sources=len(found.sources),
            stream_tables=found.stream_tables,
            rows=found.rows,
            writes=self.writers.report().commits,
            steps=tuple(self.log.results),
            revisions=revisions,
            checks=tuple(found.checks),
            stalls=stalls,
            samples=samples,
            facts=describe_machine(self.options)
            | {"postgresql": found.server_version, "fsync": found.fsync, "seed": str(self.seed)}
            | ({"source_postgresql": found.source_version} if found.source_version else {}),
            needs_reinit=found.needs_reinit,
            warnings=tuple(found.warnings),
        )


def _compare(subject: str, phase: str, before: CatalogSnapshot, after: CatalogSnapshot) -> CheckResult:
    """One comparison of catalogs as a check: definitions, rights, comments, by name."""
    differences = compare_catalogs(before, after)
    shown = "; ".join(
        f"{one.kind} {one.subject}: {one.before!r} became {one.after!r}" for one in differences[:_SHOWN_DIFFERENCES]
    )
    more = len(differences) - _SHOWN_DIFFERENCES
    detail = shown + (f"; and {more} more" if more > 0 else "")
    verdict = Verdict.FAILED if differences else Verdict.PASSED
    return CheckResult(CATALOG_CHECK, phase, subject, verdict, detail)


def _count(conn: Connection, table: TableName) -> int:
    row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(table.identifier)).fetchone()
    return int(row[0]) if row else 0


def _fetch_reinit(conn: Connection) -> tuple[str, ...]:
    rows = conn.execute("SELECT pgt_schema, pgt_name FROM pgtrickle.pgt_stream_tables WHERE needs_reinit ORDER BY 1, 2")
    return tuple(TableName(schema, name).label for schema, name in rows)
