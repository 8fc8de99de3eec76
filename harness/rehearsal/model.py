"""What travels from a rehearsal to its report: frozen values, nothing that acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """How a step or a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class LatencySample:
    """One write of a live writer.

    Attributes:
        at_s: when it began, in seconds since the rehearsal's start (monotonic).
        latency_ms: how long until its commit returned, in milliseconds.
        source: ``schema.table``, quoted where needed.
        writer: which writer, by number.
    """

    at_s: float
    latency_ms: float
    source: str
    writer: int


@dataclass(frozen=True)
class SourceStall:
    """The longest write on one source, and during which revision (None: between two)."""

    source: str
    stall_ms: float
    at_s: float
    revision: str | None


@dataclass(frozen=True)
class WaitedFor:
    """Somebody whose transaction the chain had to wait for."""

    source: str
    holder: str
    waited_ms: float


@dataclass(frozen=True)
class RevisionRun:
    """One revision, one way.

    Attributes:
        revision: its id, such as ``0002``.
        direction: ``up`` or ``down``.
        started_s, ended_s: seconds since the rehearsal's start (monotonic).
        sources_moved: how many sources had a transaction of their own.
        source_ms: the time of each of those transactions, in milliseconds, by source.
        pending_rows: captured rows that were in the buffers when it ended.
        lock_retries: how often a lock was not granted within ``lock_timeout``.
        waits: for whom it waited.
        crashes: how often the server was killed while it ran.
        longest_stall_ms: the slowest write of a live writer while it ran, None without writers.
    """

    revision: str
    direction: str
    started_s: float
    ended_s: float
    sources_moved: int = 0
    source_ms: Mapping[str, float] = field(default_factory=dict)
    pending_rows: int = 0
    lock_retries: int = 0
    waits: tuple[WaitedFor, ...] = ()
    crashes: int = 0
    longest_stall_ms: float | None = None


@dataclass(frozen=True)
class CheckResult:
    """One check of one thing.

    Attributes:
        name: a stable word, such as ``contents_equal_first_plus_changes``.
        phase: after which step it ran, such as ``copy``, ``up``, ``down``, ``up_again``.
        subject: what was checked, such as ``public.orders``.
        verdict: passed, failed or skipped.
        detail: what was found, in one line; the difference where it failed.
        was_wrong_before: True for a stream table that was wrong before anything was done; then the verdict is passed.
    """

    name: str
    phase: str
    subject: str
    verdict: Verdict
    detail: str = ""
    was_wrong_before: bool = False


@dataclass(frozen=True)
class StepResult:
    """One step of the rehearsal: look, copy, check, up, down, up_again, compare."""

    name: str
    verdict: Verdict
    started_s: float
    elapsed_s: float
    detail: str = ""


@dataclass(frozen=True)
class RehearsalResult:
    """All of one rehearsal.

    Attributes:
        passed: True when every step and check passed.
        source_dsn: where the installation came from, without password; ``demonstration`` for the built-in one.
        seed: of everything that was random; the same seed repeats the run.
        upgrade_s: from the first statement of the first upgrade to its last, in seconds.
        longest_stall_ms: the slowest write of any live writer during a revision, in milliseconds.
        sources, stream_tables, rows: how many there were.
        writes: how many writes the live writers committed.
        facts: the machine, the versions, the settings that matter.
        needs_reinit: stream tables that the downgrade marked, since an LSN frontier can't say what they know.
    """

    passed: bool
    source_dsn: str
    seed: int
    started_at: str
    elapsed_s: float
    upgrade_s: float
    longest_stall_ms: float
    sources: int
    stream_tables: int
    rows: int
    writes: int
    steps: tuple[StepResult, ...]
    revisions: tuple[RevisionRun, ...]
    checks: tuple[CheckResult, ...]
    stalls: tuple[SourceStall, ...]
    samples: tuple[LatencySample, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    needs_reinit: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
