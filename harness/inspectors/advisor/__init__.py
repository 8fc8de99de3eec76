"""`citus_advisor`: what other inspectors found that a person should act on, worst first; no SQL of its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.inspectors.advisor.rules import (
    EXPECTED,
    FOCUSES,
    RULES,
    SOURCES,
    Rule,
    findings_of,
    focus_of,
    is_judged,
    require_some,
)
from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Reason, Severity
from harness.inspectors.inputs import Listing, choice
from harness.inspectors.run import look_within
from harness.inspectors.session import Session

__all__ = ["EXPECTED", "INSPECTOR", "Inputs", "Row", "findings_of", "is_judged", "require_some"]

_RANKS = {severity: rank for rank, severity in enumerate(Severity, start=1)}


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Which findings. Thresholds are those of the inspectors: ask them with others."""

    focus: str = choice("all", ("all", *FOCUSES), "only findings about this")
    severity: str = choice("info", tuple(Severity), "only findings at least so bad")


@dataclass(frozen=True)
class Row:
    """One finding.

    Attributes:
        id: of rule, scope and target, without measured values: the same in the next look.
        rank: 1 error, 2 warning, 3 info.
        rule, severity, scope, target, title, evidence, suggestion: see `harness.inspectors.contract.Finding`.
        focus: what kind of trouble it is.
        source: the inspector that says more.
        source_status: how that one's look ended: of one that is ``partial`` there may be more.
    """

    id: str
    rank: int
    rule: str
    severity: str
    focus: str
    scope: str
    target: str
    title: str
    evidence: str
    suggestion: str
    source: str
    source_status: str


def _id(finding: Finding) -> str:
    key = "\0".join((finding.rule, finding.scope, finding.target))
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _row(finding: Finding, envelope: Envelope[Any]) -> Row:
    return Row(
        id=_id(finding),
        rank=_RANKS[finding.severity],
        rule=finding.rule,
        severity=finding.severity.value,
        focus=focus_of(finding.rule),
        scope=finding.scope,
        target=finding.target,
        title=finding.title,
        evidence=finding.evidence,
        suggestion=finding.suggestion,
        source=envelope.name,
        source_status=envelope.status.value,
    )


def _verdict(rule: Rule, envelope: Envelope[Any], counts: Counter[tuple[str, str]]) -> str:
    """What became of a rule; an answer that is not whole never makes it ``ok``."""
    count = counts[envelope.name, rule.name]
    if count:
        return f"{count} found"
    if not is_judged(envelope):
        return f"skipped: {envelope.reason or envelope.status}"
    return "ok"


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    envelopes = [look_within(session, name) for name in SOURCES]
    require_some(envelopes)
    rows = [_row(finding, envelope) for envelope in envelopes for finding in findings_of(envelope)]
    counts = Counter((row.source, _rule_name(row.rule)) for row in rows)
    verdicts = {
        f"{rule.name} ({rule.source})": _verdict(rule, envelope, counts)
        for envelope in envelopes
        for rule in RULES
        if rule.source == envelope.name and inputs.focus in ("all", rule.focus)
    }
    skipped = sorted(name for name, verdict in verdicts.items() if verdict.startswith("skipped"))
    wanted = [
        row for row in rows if inputs.focus in ("all", row.focus) and row.rank <= _RANKS[Severity(inputs.severity)]
    ]
    excused = {f"skipped: {reason}" for reason in EXPECTED}
    unseen = [name for name in skipped if verdicts[name] not in excused]
    return Found(
        wanted,
        reason=Reason.INPUT_INCOMPLETE if unseen else None,
        message=f"{len(unseen)} of {len(verdicts)} rules could not be applied: see facts.rules" if unseen else "",
        facts={"rules": verdicts, "rules_skipped": skipped},
    )


def _rule_name(name: str) -> str:
    return next((rule.name for rule in RULES if name == rule.name or name.startswith(f"{rule.name}_")), name)


def _severity(envelope: Envelope[Row]) -> list[Finding]:
    return [
        Finding(row.rule, Severity(row.severity), row.scope, row.target, row.title, row.evidence, row.suggestion)
        for row in envelope.rows
    ]


INSPECTOR = Inspector(
    name="citus_advisor",
    summary="What needs somebody's attention, worst first, with the evidence and what to do; rules that could not look",
    cost=Cost.SUM,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    ordering=("rank", "rule", "scope", "target", "source"),
    volatile=frozenset({"evidence"}),
    sources=(),
    look=_look,
    severity=_severity,
    needs_citus=False,
)
