"""What travels in a chaos run: what was asked for, the plan, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from harness.errors import BadInputError

# Identity and version of the document; equal to the `$id` of the published schema.
SCHEMA = "harness/chaos/1"
# A day: what runs longer should be several runs.
MOST_SECONDS = 86_400.0
MOST_RUNS = 100_000
# As PostgreSQL's own bigint: seeds are written into names of transactions.
MOST_SEED = 2**63 - 1

Tell = Callable[[str], None]


class Lane(StrEnum):
    """Which actor carries a step out; the steps of one lane never overlap."""

    FAULT = "fault"
    SHAPE = "shape"
    DDL = "ddl"
    SCHEDULER = "scheduler"


@dataclass(frozen=True)
class Step:
    """Something that is done to the cluster.

    Attributes:
        lane: who does it.
        at_s: when, in seconds after the writers began.
        kind: what, such as ``worker_killed``.
        lasts_s: how long it stays so, in seconds.
        chance: seed of what is still to be chosen when it is done, such as the worker.
    """

    lane: Lane
    at_s: float
    kind: str
    lasts_s: float
    chance: int


@dataclass(frozen=True)
class Plan:
    """All that a seed determines.

    Attributes:
        seed, seconds: what it was made of.
        has_citus: for a cluster, or for one server.
        steps: by time.
        has_links: whether every worker is reached through a proxy from the start.
    """

    seed: int
    seconds: float
    has_citus: bool
    steps: tuple[Step, ...]
    has_links: bool


@dataclass(frozen=True)
class Done:
    """What became of a step.

    Attributes:
        step: the step.
        at_s: when it began, in seconds after the writers.
        until_s: when it was undone.
        target: what was done to whom, in words.
        outcome: ``done``, ``failed`` (refused in the course of other faults), ``not here``, or ``broken`` (a bug).
        detail: why.
    """

    step: Step
    at_s: float
    until_s: float
    target: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True)
class Trouble:
    """Something that must not be; one is enough to fail a run.

    Attributes:
        code: a word for programs, such as ``lost``.
        subject: a table, a stream table, an actor.
        detail: what was seen.
    """

    code: str
    subject: str
    detail: str


@dataclass(frozen=True)
class Judged:
    """A stream table at the end.

    Attributes:
        name: its name.
        row_count: rows in it; None where it could not be read.
        is_equal: the oracle's verdict.
        detail: the difference, or why there is no verdict.
    """

    name: str
    row_count: int | None
    is_equal: bool
    detail: str = ""


@dataclass(frozen=True)
class Recovery:
    """The longest times from one kind of fault to the end of the next good refresh, in seconds.

    Attributes:
        after_begin_s: from the moment when the fault began.
        after_end_s: from the moment when it was undone; 0 where refreshes went on during it.
    """

    after_begin_s: float
    after_end_s: float


@dataclass(frozen=True)
class RunResult:
    """One run, as it ended.

    Attributes:
        plan: what was to be done.
        done: what was done.
        acknowledged: transactions whose commit was acknowledged, to the writers' own count.
        unknown: those whose connection was cut in between; ``unknown_committed`` of them had committed.
        retried: how many of the unknown ones were sent again with their key.
        rolled_back: transactions that were rolled back, on purpose or by an error.
        row_count: rows of the writers' tables that were compared.
        write_errors: by SQLSTATE.
        troubles: what must not be.
        stream_tables: the oracle's verdicts.
        refreshes: by action, everybody's.
        refresh_failures: by class of error.
        recoveries: by kind of fault.
        elapsed_s: all of it, in seconds; ``start_s`` until the writers began, ``settle_s`` from their end.
        examples: by class, what one of the errors said.
        facts: versions and the machine.
        missing: why it was no cluster; empty if it was one.
        kept: where the servers are that were kept.
        notes: what a person should know, such as what repair mended.
    """

    plan: Plan
    done: tuple[Done, ...]
    acknowledged: int
    unknown: int
    unknown_committed: int
    rolled_back: int
    row_count: int
    troubles: tuple[Trouble, ...]
    stream_tables: tuple[Judged, ...]
    refreshes: Mapping[str, int]
    refresh_failures: Mapping[str, int]
    recoveries: Mapping[str, Recovery]
    elapsed_s: float = 0.0
    start_s: float = 0.0
    settle_s: float = 0.0
    retried: int = 0
    write_errors: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    examples: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    missing: str = ""
    kept: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was that must not be."""
        return not self.troubles and all(each.is_equal for each in self.stream_tables)

    def count(self, code: str) -> int:
        """How many troubles of a code."""
        return sum(trouble.code == code for trouble in self.troubles)


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        seconds: how long the actors work, in seconds.
        seed: what determines the plan and the writers' values.
        runs: how many, with the seeds that follow.
        is_plain: one PostgreSQL server also where there is Citus.
        cluster: what the cluster is made of, see `choose_provider`.
        keep: leave the servers running at the end.
    """

    seconds: float = 10.0
    seed: int = 0
    runs: int = 1
    is_plain: bool = False
    cluster: str | None = None
    keep: bool = False

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            BadInputError: names it.
        """
        if not 0.5 <= self.seconds <= MOST_SECONDS:  # NaN compares false
            raise BadInputError(f"--seconds {self.seconds:g} cannot be", hint=f"0.5 to {MOST_SECONDS:.0f}")
        if not 0 <= self.seed <= MOST_SEED:
            raise BadInputError(f"--seed {self.seed} cannot be", hint=f"0 to {MOST_SEED}")
        if not 1 <= self.runs <= MOST_RUNS:
            raise BadInputError(f"--runs {self.runs} cannot be", hint=f"1 to {MOST_RUNS}")
        if self.seed + self.runs - 1 > MOST_SEED:
            raise BadInputError(f"--seed {self.seed} with --runs {self.runs} passes the highest seed")
        if self.keep and self.runs > 1:
            raise BadInputError(
                "--keep with several runs would leave as many clusters", hint="repeat one seed with --keep"
            )
        if self.keep and self.cluster == "containers":
            raise BadInputError("--keep with --cluster containers cannot be", hint="containers go with the command")
        if self.is_plain and self.cluster:
            raise BadInputError("--plain and --cluster say different things", hint="give one of them")
