"""The JSON document of a rehearsal, and the published schema that it follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from harness import __version__
from harness.logs import redact
from harness.rehearsal.model import CheckResult, RehearsalResult, RevisionRun
from harness.report.figures import (
    count_checks,
    describe_verdict,
    longest_stall,
    summarise_latency,
    summarise_sources,
)
from harness.report.plot import downsample
from harness.report.text import finite, without_surrogates

# Identity and version of the document; equal to `$id` of the published schema. A field may be added within a
# version; one that goes or changes its meaning makes the next.
SCHEMA = "urn:pgtrickle-citus-harness:rehearsal:1"

# Points of the timeline in the document: enough to see every stall, small enough to keep (some 60 kB).
TIMELINE_POINTS = 600


def load_schema(name: str = "rehearsal-1") -> dict[str, Any]:
    """A published JSON schema (draft 2020-12).

    Args:
        name: ``rehearsal-1`` of :func:`to_document`, or ``matrix-1`` of `harness.report.matrix.to_matrix_document`.
    """
    text = resources.files("harness.report").joinpath(f"schema/{name}.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def to_document(result: RehearsalResult, command: str) -> dict[str, Any]:
    """The result as a JSON document.

    Args:
        result: of one rehearsal.
        command: the command that repeats it, without a password.

    Returns:
        Only dicts, lists, texts that UTF-8 can hold, booleans, None and finite numbers. Identifiers are as they
        are in the database; texts are without passwords.
    """
    latency = summarise_latency(result)
    document = {
        "schema": SCHEMA,
        "harness_version": __version__,
        "passed": result.passed,
        "verdict": describe_verdict(result),
        "source_dsn": redact(result.source_dsn),
        "seed": result.seed,
        "command": redact(command),
        "started_at": result.started_at,
        "elapsed_s": finite(result.elapsed_s),
        "upgrade_s": finite(result.upgrade_s),
        "longest_stall_ms": finite(longest_stall(result), 3),
        "sources": result.sources,
        "stream_tables": result.stream_tables,
        "rows": result.rows,
        "writes": result.writes,
        "write_latency_ms": None
        if latency is None
        else {
            "median": finite(latency.median_ms, 3),
            "p99": finite(latency.p99_ms, 3),
            "max": finite(latency.max_ms, 3),
        },
        "steps": [
            {
                "name": step.name,
                "verdict": step.verdict.value,
                "started_s": finite(step.started_s),
                "elapsed_s": finite(step.elapsed_s),
                "detail": redact(step.detail),
            }
            for step in result.steps
        ],
        "revisions": [_revision(run) for run in result.revisions],
        "check_counts": _counts(result),
        "checks": [_check(check) for check in result.checks],
        "stalls": [
            {
                "source": stall.source,
                "stall_ms": finite(stall.stall_ms, 3),
                "at_s": finite(stall.at_s),
                "revision": stall.revision,
            }
            for stall in result.stalls
        ],
        "timeline": _timeline(result),
        "needs_reinit": list(result.needs_reinit),
        "warnings": [redact(warning) for warning in result.warnings],
        "facts": {name: redact(value) for name, value in result.facts.items()},
    }
    cleaned: dict[str, Any] = _clean(document)
    return cleaned


def dump_document(document: Mapping[str, Any]) -> str:
    """The document as text, with a line end at its end.

    Raises:
        ValueError: a number is not finite (a bug of :func:`to_document`).
    """
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _revision(run: RevisionRun) -> dict[str, Any]:
    times = summarise_sources(run)
    return {
        "revision": run.revision,
        "direction": run.direction,
        "started_s": finite(run.started_s),
        "elapsed_s": finite(run.ended_s - run.started_s),
        "sources_moved": run.sources_moved,
        "source_ms": None
        if times is None
        else {
            "median": finite(times.median_ms, 3),
            "max": finite(times.max_ms, 3),
            "slowest": times.slowest,
            "by_source": {source: finite(value, 3) for source, value in run.source_ms.items()},
        },
        "pending_rows": run.pending_rows,
        "lock_retries": run.lock_retries,
        "waits": [
            {"source": wait.source, "holder": redact(wait.holder), "waited_ms": finite(wait.waited_ms, 3)}
            for wait in run.waits
        ],
        "crashes": run.crashes,
        "longest_stall_ms": finite(run.longest_stall_ms, 3),
    }


def _check(check: CheckResult) -> dict[str, Any]:
    return {
        "name": check.name,
        "phase": check.phase,
        "subject": check.subject,
        "verdict": check.verdict.value,
        "detail": redact(check.detail),
        "was_wrong_before": check.was_wrong_before,
    }


def _counts(result: RehearsalResult) -> dict[str, int]:
    counts = count_checks(result.checks)
    return {
        "passed": counts.passed,
        "failed": counts.failed,
        "skipped": counts.skipped,
        "wrong_before": counts.wrong_before,
    }


def _timeline(result: RehearsalResult) -> list[dict[str, Any]]:
    if not result.samples:
        return []
    start_s = min(sample.at_s for sample in result.samples)
    end_s = max(sample.at_s for sample in result.samples)
    return [
        {
            "at_s": finite(bucket.at_s),
            "median_ms": finite(bucket.median_ms, 3),
            "max_ms": finite(bucket.max_ms, 3),
            "source": bucket.source,
            "writes": bucket.writes,
        }
        for bucket in downsample(result.samples, start_s, end_s, TIMELINE_POINTS)
    ]


def _clean(value: Any) -> Any:
    match value:
        case str():
            return without_surrogates(value)
        case dict():
            return {without_surrogates(key): _clean(item) for key, item in value.items()}
        case list():
            return [_clean(item) for item in value]
        case _:
            return value
