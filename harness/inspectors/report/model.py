"""Several looks at one cluster, and what a person must act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.errors import EXIT_CHECK_FAILED, EXIT_ENVIRONMENT, EXIT_GOOD
from harness.inspectors.contract import Envelope, Finding, Severity, Status

# Of a look that could not be made; `partial` is one that was.
NOT_LOOKED = frozenset({Status.UNAVAILABLE, Status.ERROR})


@dataclass(frozen=True)
class Look:
    """One inspector's answer, how long it took, and what of it a person must act on."""

    envelope: Envelope[Any]
    elapsed_ms: float
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """An inspector that was not asked, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Report:
    """Looks at one cluster.

    Attributes:
        looks: in the order of the registry.
        skipped: what was not asked.
        place: the database, for people; without a password.
        started_at: when, in UTC, ISO 8601.
        elapsed_s: how long all of it took.
    """

    looks: tuple[Look, ...]
    skipped: tuple[Skipped, ...] = ()
    place: str = ""
    started_at: str = ""
    elapsed_s: float = 0.0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all looks, the worst first; what several looks found is there once."""
        order = list(Severity)
        found = {(each.rule, each.scope, each.target): each for look in reversed(self.looks) for each in look.findings}
        return tuple(
            sorted(
                found.values(),
                key=lambda each: (
                    order.index(each.severity),
                    each.rule,
                    each.scope,
                    each.target.encode("utf-8", "surrogatepass"),
                ),
            )
        )

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(each.severity is severity for each in self.findings)

    @property
    def exit_code(self) -> int:
        """0 fine, 1 findings of severity error, 3 nothing could be looked at or an inspector met an error."""
        if self.count(Severity.ERROR):
            return EXIT_CHECK_FAILED
        statuses = [look.envelope.status for look in self.looks]
        if not statuses or Status.ERROR in statuses or all(each in NOT_LOOKED for each in statuses):
            return EXIT_ENVIRONMENT
        return EXIT_GOOD

    @property
    def passed(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == EXIT_GOOD
