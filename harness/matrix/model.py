"""What travels from a row of the matrix to its report: frozen values, nothing that acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from harness.rehearsal.model import Verdict

SCHEMA = "harness/matrix/1"


class Claim(StrEnum):
    """What became of a claim of the plan on a real cluster."""

    HOLDS = "holds"
    HOLDS_CHANGED = "holds changed"
    FAILS = "fails"


@dataclass(frozen=True)
class RowReport:
    """What a row leaves when it passed.

    Attributes:
        topology: what was proven of the cluster, each fact with what was seen.
        counts: what the workload counted itself, and what the tables hold: they are equal.
    """

    topology: Mapping[str, str]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Row:
    """One row of the plan's table (P7.2).

    Attributes:
        number: its place in the table, from 1.
        name: a word for machines, such as ``local_regression``.
        title: as the plan has it.
        claim: what the plan says that happens.
        reality: what a real cluster does.
        finding: what became of the claim.
        run: ``run(cluster, engine=OURS)`` runs the row in a database without stream tables, on the coordinator; leaves
            its tables there. Raises CheckFailedError where a proof or the oracle fails.
        needs_citus: it has no meaning on one server.
    """

    number: int
    name: str
    title: str
    claim: str
    reality: str
    finding: Claim
    run: Callable[..., RowReport]
    needs_citus: bool = True


@dataclass(frozen=True)
class RowResult:
    """How one row ended.

    Attributes:
        number: its place in the plan's table.
        name: a word for machines.
        title: as the plan has it.
        verdict: passed, failed or skipped.
        finding: what became of the plan's claim; its words are in ``claim`` and ``reality``.
        topology: what was proven before it worked; empty where it did not come so far.
        counts: rows counted by the workload itself.
        elapsed_s: in seconds, without the time for its database.
        reason: why it was skipped or failed; empty where it passed.
    """

    number: int
    name: str
    title: str
    verdict: Verdict
    claim: str
    reality: str
    finding: Claim
    topology: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class MatrixResult:
    """A run of the matrix.

    Attributes:
        rows: in the plan's order.
        started_at: ISO 8601, UTC.
        elapsed_s: from the start of the cluster to its end, in seconds.
        start_s: until the cluster was ready, in seconds.
        missing: what this machine lacks, where rows were skipped or failed for it.
        facts: versions, machine.
    """

    rows: tuple[RowResult, ...]
    started_at: str
    elapsed_s: float
    start_s: float
    missing: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """No row failed, and one at least passed."""
        verdicts = [row.verdict for row in self.rows]
        return Verdict.FAILED not in verdicts and Verdict.PASSED in verdicts

    def count(self, verdict: Verdict) -> int:
        """How many rows ended so."""
        return sum(row.verdict is verdict for row in self.rows)
