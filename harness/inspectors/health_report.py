"""`citus_health_report`: every inspector asked once, a line each; the whole is as good as the worst of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.inspectors import registry
from harness.inspectors.advisor import EXPECTED, findings_of, is_judged, require_some
from harness.inspectors.contract import Cost, Envelope, Found, Inspector, Reason, Severity, Status
from harness.inspectors.inputs import Listing, required
from harness.inspectors.run import look_within
from harness.inspectors.session import Session

NAME = "citus_health_report"
ADVISOR = "citus_advisor"
# What the role of `harness inspect setup-role` does not see, by design: told in its row, and no more.
_BEYOND_THE_ROLE = frozenset({("citus_rebalance_plan", Reason.INSUFFICIENT_PRIVILEGE)})


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Nothing beside the limits: ask an inspector itself for more."""


@dataclass(frozen=True)
class Row:
    """One inspector's answer, summed up.

    Attributes:
        position: in the order of the registry.
        name, status, reason, message: of its envelope.
        row_count: how many rows it gave.
        truncated: whether it had more.
        nodes_failed: which nodes did not answer.
        errors, warnings, infos: its findings by severity; `citus_advisor` lists them.
    """

    position: int
    name: str
    status: str
    reason: str | None
    message: str
    row_count: int
    truncated: bool
    nodes_failed: tuple[str, ...]
    errors: int
    warnings: int
    infos: int


def _row(position: int, envelope: Envelope[Any]) -> Row:
    severities = Counter(each.severity for each in findings_of(envelope))
    return Row(
        position=position,
        name=envelope.name,
        status=envelope.status.value,
        reason=envelope.reason.value if envelope.reason else None,
        message=envelope.message,
        row_count=len(envelope.rows),
        truncated=envelope.truncated,
        nodes_failed=tuple(node.node for node in envelope.nodes.failed),
        errors=severities[Severity.ERROR],
        warnings=severities[Severity.WARNING],
        infos=severities[Severity.INFO],
    )


def _is_unseen(envelope: Envelope[Any]) -> bool:
    if is_judged(envelope) or envelope.reason in EXPECTED:
        return False
    return (envelope.name, envelope.reason) not in _BEYOND_THE_ROLE


def _overall(envelopes: list[Envelope[Any]], rows: list[Row]) -> str:
    """``error``, ``warning``, ``incomplete`` (nothing wrong was seen, and not all could be), or ``ok``."""
    if any(row.errors for row in rows) or any(each.status is Status.ERROR for each in envelopes):
        return "error"
    if any(row.warnings for row in rows):
        return "warning"
    if any(_is_unseen(each) for each in envelopes):
        return "incomplete"
    return "ok"


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    envelopes: list[Envelope[Any]] = []
    skipped: dict[str, str] = {}
    # The advisor comes after what it judges, and asks none of it again.
    names = [name for name in registry.names() if name not in (NAME, ADVISOR)]
    for name in (*names, ADVISOR):
        if needed := required(registry.get(name).inputs):
            skipped[name] = f"it needs {', '.join(needed)}"
        else:
            envelopes.append(look_within(session, name))
    require_some(envelopes)
    rows = [_row(position, each) for position, each in enumerate(envelopes, start=1)]
    unseen = [each.name for each in envelopes if _is_unseen(each)]
    # Without the advisor's, which says them again.
    findings = tuple(each for envelope in envelopes[:-1] for each in findings_of(envelope))
    severities = Counter(each.severity for each in findings)
    missing = Reason.INTERNAL if any(each.status is Status.ERROR for each in envelopes) else Reason.INPUT_INCOMPLETE
    return Found(
        rows,
        reason=missing if unseen else None,
        message=f"not seen, or not all of it: {', '.join(unseen)}" if unseen else "",
        facts={
            "overall": _overall(envelopes, rows),
            "findings": {each.value: severities[each] for each in Severity},
            "skipped": skipped,
        },
        findings=findings,
    )


INSPECTOR = Inspector(
    name=NAME,
    summary="How the cluster is: every inspector asked once, its status, its findings, and what was not asked",
    cost=Cost.SUM,
    least_role="pg_monitor",
    inputs=Inputs,
    row=Row,
    ordering=("position",),
    volatile=frozenset({"row_count"}),
    sources=(),
    look=_look,
    needs_citus=False,
)
