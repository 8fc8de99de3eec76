"""Looks as one JSON document (harness/report/schema/inspect-1.json)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness import __version__
from harness.inspectors.contract import Finding, Severity, Status
from harness.inspectors.report.model import Look, Report
from harness.inspectors.report.shapes import to_json
from harness.logs import redact
from harness.report.text import finite, show_count, show_s, without_surrogates

# Identity and version of the document; equal to `$id` of the published schema. A field may be added within a
# version; one that goes or changes its meaning makes the next. Rows and facts are each inspector's own.
SCHEMA = "harness/inspect/1"


def describe_report(report: Report) -> str:
    """The verdict in one sentence that claims nothing that was not looked at."""
    statuses = Counter(look.envelope.status for look in report.looks)
    severities = Counter(each.severity for each in report.findings)
    parts = [
        ", ".join(show_count(severities[each], each.value) for each in Severity) if report.findings else "no findings"
    ]
    parts += [f"{statuses[Status.OK]} of {show_count(len(report.looks), 'inspector')} answered in full"]
    parts += [f"{statuses[each]} {each.value}" for each in Status if each is not Status.OK and statuses[each]]
    parts += [f"{len(report.skipped)} not asked"] if report.skipped else []
    return f"{'; '.join((parts[0], ', '.join(parts[1:])))}; {show_s(report.elapsed_s)}"


def to_document(report: Report, command: str) -> dict[str, Any]:
    """The report as a JSON document.

    Args:
        report: of one or more looks.
        command: the command that repeats it, without a password.

    Returns:
        Only dicts, lists, texts that UTF-8 can hold, booleans, None and finite numbers. ``started_at``, every
        ``elapsed`` and what an inspector lists as ``volatile`` differ between two looks; nothing else does.
    """
    return {
        "schema": SCHEMA,
        "harness_version": __version__,
        "passed": report.passed,
        "verdict": describe_report(report),
        "place": _text(report.place),
        "command": _text(command),
        "started_at": report.started_at,
        "elapsed_s": finite(report.elapsed_s),
        "finding_counts": {each.value: report.count(each) for each in Severity},
        "findings": [finding_document(each) for each in report.findings],
        "inspectors": [_look(each) for each in report.looks],
        "skipped": [{"name": each.name, "why": _text(each.why)} for each in report.skipped],
    }


def finding_document(finding: Finding) -> dict[str, str]:
    """A finding as JSON."""
    return {
        "rule": finding.rule,
        "severity": finding.severity.value,
        "scope": finding.scope,
        "target": _text(finding.target),
        "title": _text(finding.title),
        "evidence": _text(finding.evidence),
        "suggestion": _text(finding.suggestion),
    }


def _look(look: Look) -> dict[str, Any]:
    envelope: dict[str, Any] = to_json(look.envelope)
    return envelope | {
        "elapsed_ms": finite(look.elapsed_ms, 3),
        "findings": [finding_document(each) for each in look.findings],
    }


def _text(text: str) -> str:
    return without_surrogates(redact(text))
