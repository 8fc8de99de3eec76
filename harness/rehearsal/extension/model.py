"""What a rehearsed update of the extension found: frozen values that travel to its report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from harness.chain.catalog import CatalogSnapshot
from harness.rehearsal.model import CheckResult, SourceStall, Verdict

#: In the place of the first version: each that can be installed, one after another.
EVERY = "every"
#: Identity and version of the JSON document, equal to ``$id`` of the published schema.
SCHEMA = "urn:pgtrickle-citus-harness:extension-update:1"

FUNCTION_CHECK = "function_runs"
CATALOG_CHECK = "catalog_as_fresh"
REFRESH_CHECK = "stream_table_refreshed"
NEW_CHECK = "new_stream_table_lives"
ROWS_CHECK = "row_count_as_writers_counted"
WRITERS_CHECK = "writers_met_no_error"
# What an application sees while the update is under way; the other checks decide at the last version only, since
# nobody stays at one in between.
ALWAYS_DECIDE = frozenset({ROWS_CHECK, WRITERS_CHECK})
# internal_error, which pgrx gives to every error that a library raises without a code of its own.
LIBRARY_ERROR = "XX000"


class FunctionState(StrEnum):
    """What became of a call of one function."""

    RUNS = "runs"
    REFUSES = "refuses"  # it answered that it won't, by an error that is no defect
    FAILS = "fails"
    NOT_CALLED = "not called"  # no value is known for a parameter; its body was validated


@dataclass(frozen=True)
class FunctionOutcome:
    """One function of the extension: did its body validate, and did it run?

    Attributes:
        identity: name and argument types, as ``regprocedure`` writes them.
        state: what came of it.
        sqlstate: the server's code, empty where there was no error.
        message: the server's first line, or why it was not called.
    """

    identity: str
    state: FunctionState
    sqlstate: str = ""
    message: str = ""


@dataclass(frozen=True)
class Fresh:
    """A fresh installation of one version beside the updated one: ``told`` says whether there is one."""

    told: str
    catalog: CatalogSnapshot | None = None
    functions: tuple[FunctionOutcome, ...] = ()

    def in_state(self, state: FunctionState) -> frozenset[str]:
        """The functions of which this became."""
        return frozenset(one.identity for one in self.functions if one.state is state)


@dataclass(frozen=True)
class UpdateOptions:
    """What to rehearse.

    Attributes:
        start: the version that it begins at, such as ``0.66.0``; `EVERY`: each that can be installed here.
        target: the version that it ends at.
        dsn: a database whose extension is at ``start``, copied with ``pg_basebackup``; None: a demonstration.
        scripts: directories with more install and update scripts than the installation has; PostgreSQL 18.
        seed: of what the writers write.
        keep: keep the temporary server's directory.
        threads: live writers.
        deadline_s: give up on one step after so many seconds.
    """

    start: str
    target: str
    dsn: str | None = field(default=None, repr=False)
    scripts: tuple[Path, ...] = ()
    seed: int = 0
    keep: bool = False
    threads: int = 2
    deadline_s: float = 600.0


@dataclass(frozen=True)
class StepRun:
    """One ``ALTER EXTENSION pg_trickle UPDATE TO``.

    Attributes:
        start, target: the two versions.
        verdict: passed, failed; skipped where a step before it failed.
        started_s, elapsed_s: since the rehearsal's start, and how long, in seconds.
        detail: the server's words where it failed, and how often a deadlock made it begin again.
        longest_stall_ms: the slowest write that overlapped it; None without one.
    """

    start: str
    target: str
    verdict: Verdict
    started_s: float = 0.0
    elapsed_s: float = 0.0
    detail: str = ""
    longest_stall_ms: float | None = None


@dataclass(frozen=True)
class VersionFindings:
    """What was found at one version: a line of the table of versions.

    Attributes:
        version: such as ``0.66.0``; the first is the beginning, with this machine's library.
        fresh: ``installs``, ``no script``, or the server's words where ``CREATE EXTENSION ... VERSION`` fails.
        differences: between the updated catalog and a fresh one's, a line each; None where there is no fresh one.
        functions: what came of each, in the updated database.
        failing_in_fresh: those that fail in a fresh installation of this version as well.
        running_in_fresh: those that run there.
        new_stream_table: what came of making, changing, refreshing and dropping one: empty when all went well.
        refreshed, stream_tables: how many of the database's stream tables were refreshed and equal to their query.
    """

    version: str
    fresh: str
    differences: tuple[str, ...] | None
    functions: tuple[FunctionOutcome, ...]
    failing_in_fresh: frozenset[str]
    running_in_fresh: frozenset[str]
    new_stream_table: str
    refreshed: int
    stream_tables: int

    @property
    def failing(self) -> tuple[FunctionOutcome, ...]:
        """The functions that fail, or refuse what a fresh installation does with an error of the library's own.

        Another refusal may be about the rows, which differ from a fresh one's.
        """
        return tuple(
            one
            for one in self.functions
            if one.state is FunctionState.FAILS
            or (one.sqlstate == LIBRARY_ERROR and one.identity in self.running_in_fresh)
        )


@dataclass(frozen=True)
class UpdateResult:
    """All of one rehearsed update.

    Attributes:
        source_dsn: without password; ``demonstration`` for the built-in one.
        start, target: the versions.
        library_version: the default version of the installation whose library it runs on.
        started_at, elapsed_s: when, and how long in seconds.
        steps: each update, in order.
        versions: what was found at each version that was reached.
        checks: each with the version after which it ran as its phase.
        stalls: the slowest write on each source.
        writes, rows: what the live writers committed, and rows of the sources at the beginning.
        warnings, facts: what a person should know; the machine and the versions.
    """

    source_dsn: str
    seed: int
    start: str
    target: str
    library_version: str
    started_at: str
    elapsed_s: float
    steps: tuple[StepRun, ...]
    versions: tuple[VersionFindings, ...]
    checks: tuple[CheckResult, ...]
    stalls: tuple[SourceStall, ...] = ()
    writes: int = 0
    rows: int = 0
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def deciding(self) -> tuple[CheckResult, ...]:
        """The checks that failed and decide: all of the last version, and what an application saw on the way."""
        return deciding(self.checks, {self.target, *(arrived(step.start, step.target) for step in self.steps)})

    @property
    def passed(self) -> bool:
        """Every step passed, and so did every check that decides."""
        return all(step.verdict is Verdict.PASSED for step in self.steps) and not self.deciding


def deciding(checks: Sequence[CheckResult], ends: Collection[str]) -> tuple[CheckResult, ...]:
    """The failed checks that make a rehearsed update fail; ``ends`` are the phases at which somebody stays."""
    return tuple(
        check
        for check in checks
        if check.verdict is Verdict.FAILED and (check.phase in ends or check.name in ALWAYS_DECIDE)
    )


def arrived(start: str, target: str) -> str:
    """The phase at the last version, where several first ones are rehearsed."""
    return f"{target}, from {start}"


def after_failed(start: str, target: str) -> str:
    """The phase at a version that a step to the next one left as it was."""
    return f"{start}, after {target} failed"
