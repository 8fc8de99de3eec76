"""A rehearsed update of the extension from beginning to end: one step at a time under live writers, checks between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
from psycopg import sql

from harness.engines.installed import EXTENSION
from harness.errors import ServerError, WaitTimeoutError
from harness.rehearsal import place as places
from harness.rehearsal.extension.model import (
    ROWS_CHECK,
    StepRun,
    UpdateOptions,
    UpdateResult,
    VersionFindings,
    after_failed,
)
from harness.rehearsal.extension.place import Place, made_place
from harness.rehearsal.extension.probes import look_at_version
from harness.rehearsal.extension.writing import judge_writers
from harness.rehearsal.machine import describe_hardware
from harness.rehearsal.model import CheckResult, RevisionRun, Verdict
from harness.rehearsal.options import OnProgress, Progress, say_nothing
from harness.rehearsal.steps import Clock, longest_stalls, overlaps
from harness.rehearsal.tables import Connection
from harness.rehearsal.writers import Writers
from harness.waiting import wait_until

# About 40 ms at the writers' own rate: each step has rows that were captured before it, during it and after it. Fewer
# by then are no error here; `judge_writers` says whether any came.
_WRITES_BETWEEN = 20
_WRITING_DEADLINE_S = 10.0
# A write that still waits so long after its writer was told to stop waits for something that does not come.
_STOPPING_DEADLINE_S = 30.0
# The writers and an update that alters their tables may lock each other out; whoever is chosen begins again.
_DEADLOCK_TRIES = 3


def rehearse_update(options: UpdateOptions, on_progress: OnProgress = say_nothing) -> UpdateResult:
    """Rehearse ``ALTER EXTENSION pg_trickle UPDATE``, step by step, and say what came of it.

    It runs with the library of this machine's installation, as after its package was replaced. A real source is only
    read. A step that fails ends the steps; what it leaves is still checked.

    Args:
        options: which versions, on what.
        on_progress: told where it is, in this thread.

    Returns:
        Steps, the table of versions and all checks; ``passed`` where nothing that decides was found wrong.

    Raises:
        ExtensionMissingError: no PostgreSQL here has the extension.
        RefusedError: the source or the versions cannot be used; nothing was changed.
        CheckFailedError: the first version cannot be installed.
        ServerError: the copy's server did not start, or does not come back.
    """

    def say(message: str, fraction: float | None) -> None:
        on_progress(Progress("copy", message, fraction))

    run = _Run(options, on_progress)
    with made_place(options, say) as place:
        return run.rehearse(place)


def rehearse_place(options: UpdateOptions, place: Place, on_progress: OnProgress = say_nothing) -> UpdateResult:
    """The same on a database that is there already, at the first version; it is at the last one afterwards."""
    return _Run(options, on_progress).rehearse(place)


class _Run:
    """One rehearsed update, on its way."""

    def __init__(self, options: UpdateOptions, on_progress: OnProgress) -> None:
        self.options = options
        self.on_progress = on_progress
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.clock = Clock()
        self.steps: list[StepRun] = []
        self.versions: list[VersionFindings] = []
        self.checks: list[CheckResult] = []
        self.first_rows: dict[str, int] = {}

    def rehearse(self, place: Place) -> UpdateResult:
        """All steps, the checks after each, and the result."""
        self.place = place
        self.first_rows = self._count_rows()
        self.writers = Writers(
            place.connect,
            place.sources,
            threads=self.options.threads,
            seed=self.options.seed,
            now_s=self.clock.now_s,
            triggers_stay_home=True,  # the extension's write to its own tables; a user's are taken at their word
        )
        pairs = list(zip(place.path, place.path[1:], strict=False))
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_writers)
            self._write(lambda: None)
            self._look(place.path[0], 0)
            for number, (start, target) in enumerate(pairs):
                self._say("update", f"{start} to {target}", number / len(pairs))
                if not self._step(start, target):
                    self.steps += [
                        StepRun(*pair, Verdict.SKIPPED, self.clock.now_s(), detail="a step before it failed")
                        for pair in pairs[number + 1 :]
                    ]
                    break
                self._look(target, number + 1)
        return self._result()

    def _step(self, start: str, target: str) -> bool:
        """One update under live writers; False where it failed, which is then checked like a version of its own."""
        run = StepRun(start, target, Verdict.PASSED, self.clock.now_s())
        retries = 0

        def update() -> None:
            nonlocal run, retries
            began_s = self.clock.now_s()
            while True:
                error = self._alter(target)
                if error is None or error[0] != psycopg.errors.DeadlockDetected.sqlstate or retries == _DEADLOCK_TRIES:
                    break
                retries += 1
            detail = "" if error is None else f"{error[0]} {error[1]}".strip()
            if retries:
                detail = f"{detail}; began again {retries} time(s) after a deadlock".lstrip("; ")
            verdict = Verdict.PASSED if error is None else Verdict.FAILED
            run = StepRun(start, target, verdict, began_s, self.clock.now_s() - began_s, detail)

        self._write(update)
        self.steps.append(run)
        if run.verdict is Verdict.FAILED:
            self._look(start, len(self.steps), label=after_failed(start, target))
        return run.verdict is Verdict.PASSED

    def _alter(self, target: str) -> tuple[str, str] | None:
        """The statement itself; SQLSTATE and words of what it says no with."""
        try:
            with contextlib.closing(self.place.connect()) as conn:
                conn.execute(
                    sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{self.options.deadline_s:.0f}s"))
                )
                conn.execute(
                    sql.SQL("ALTER EXTENSION {} UPDATE TO {}").format(sql.Identifier(EXTENSION), sql.Literal(target))
                )
        except psycopg.Error as error:
            self._come_back()
            return error.sqlstate or "", error.diag.message_primary or " ".join(str(error).split())
        return None

    def _come_back(self) -> None:
        """A step that took the server down ends here, not with whoever asks next."""
        if not self.place.server.is_running:
            self.place.server.start()
        self.place.server.wait_ready()

    def _write(self, during: Callable[[], None]) -> None:
        """Do something while the writers write, with some writes before it and after it."""
        self.writers.start()
        try:
            self._let_writers_write()
            during()
            self._let_writers_write()
        finally:
            self._stop_writers()

    def _stop_writers(self) -> None:
        self.writers.stop(deadline_s=min(_STOPPING_DEADLINE_S, self.options.deadline_s))

    def _let_writers_write(self) -> None:
        enough = self.writers.report().commits + _WRITES_BETWEEN
        deadline_s = min(_WRITING_DEADLINE_S, self.options.deadline_s)
        with contextlib.suppress(WaitTimeoutError):
            wait_until("the writers to write", lambda: self.writers.report().commits >= enough, deadline_s=deadline_s)

    def _look(self, version: str, number: int, *, label: str | None = None) -> None:
        """All checks at one version; a session that ends under them is an error of its own."""
        self._say("check", label or version, None)
        self._check_rows(label or version)
        try:
            found, checks = look_at_version(self.place, version, number, self.versions[-1] if self.versions else None)
        except psycopg.OperationalError as error:
            self._come_back()
            raise ServerError(
                f"at {version} the server ended a session of the checks: {' '.join(str(error).split())}",
                hint="--keep keeps its directory with its log",
            ) from None
        if label is not None:
            found, checks = replace(found, version=label), tuple(replace(check, phase=label) for check in checks)
        self.versions.append(found)
        self.checks += checks

    def _check_rows(self, phase: str) -> None:
        counted = self.writers.net_rows()
        for label, now in self._count_rows().items():
            if label not in counted:
                self.checks.append(
                    CheckResult(ROWS_CHECK, phase, label, Verdict.SKIPPED, "cascades may write to it: not counted")
                )
                continue
            low, high = (self.first_rows[label] + change for change in counted[label])
            verdict = Verdict.PASSED if low <= now <= high else Verdict.FAILED
            told = f"{now} rows" + ("" if verdict is Verdict.PASSED else f", the writers' own count says {low}")
            self.checks.append(CheckResult(ROWS_CHECK, phase, label, verdict, told))

    def _count_rows(self) -> dict[str, int]:
        with contextlib.closing(self.place.connect()) as conn:
            return {source.label: _count(conn, source.rows_from) for source in self.place.sources}

    def _say(self, step: str, message: str, fraction: float | None) -> None:
        self.on_progress(Progress(step, message, fraction))

    def _result(self) -> UpdateResult:
        samples = self.writers.samples()
        runs = [
            RevisionRun(f"{step.start} to {step.target}", "", step.started_s, step.started_s + step.elapsed_s)
            for step in self.steps
            if step.verdict is not Verdict.SKIPPED
        ]
        steps = []
        for step in self.steps:
            ended_s = step.started_s + step.elapsed_s
            met = [one.latency_ms for one in samples if overlaps(one, step.started_s, ended_s)]
            is_run = step.verdict is not Verdict.SKIPPED
            steps.append(replace(step, longest_stall_ms=max(met, default=None) if is_run else None))
        place = self.place
        refused = tuple(f"not made at {place.path[0]}: {told}" for told in place.refused)
        return UpdateResult(
            source_dsn=place.source_dsn,
            seed=self.options.seed,
            start=self.options.start,
            target=self.options.target,
            library_version=place.library_version,
            started_at=self.started_at,
            elapsed_s=self.clock.now_s(),
            steps=tuple(steps),
            versions=tuple(self.versions),
            checks=(*self.checks, *judge_writers(self.versions, self.steps, self.writers, self.options.threads)),
            stalls=longest_stalls(samples, runs),
            writes=self.writers.report().commits,
            rows=sum(self.first_rows.values()),
            warnings=(*places.told(place.warnings), *refused),
            facts=describe_hardware()
            | {
                "postgresql": place.server.show("server_version"),
                "library": f"{EXTENSION} {place.library_version} in {place.server.installation.libdir}",
                "writers": str(self.options.threads),
            },
        )


def _count(conn: Connection, rows_from: sql.Composable) -> int:
    row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(rows_from)).fetchone()
    return int(row[0]) if row else 0
