"""Makes reports: one inspector, or all of them on one connection, and what of it a person must act on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from harness.chain.connection import describe_dsn
from harness.errors import ConnectionRefusedByInput, LockedError
from harness.inspectors import registry
from harness.inspectors.advisor import findings_of
from harness.inspectors.contract import Cost, Envelope, Inspector, Reason, Status
from harness.inspectors.inputs import required
from harness.inspectors.report.model import Look, Report, Skipped
from harness.inspectors.run import Inspection
from harness.logs import redact

# A pipeline that waits for a report of a broken cluster: a hung node costs each inspector its timeout.
DEADLINE_S = 60.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def look_once(
    inspection: Inspection,
    name: str,
    values: Mapping[str, Any] | None = None,
    *,
    known: Mapping[str, Envelope[Any]] | None = None,
) -> Look:
    """One inspector, and what of its answer a person must act on.

    Args:
        inspection: of the cluster.
        name: of the inspector.
        values: its inputs.
        known: answers that an inspector which rests on others takes instead of asking again.

    Raises:
        BadInputError: there is no such inspector, or an input cannot be used.
        ConnectionRefusedByInput: the coordinator was lost before, and cannot be reached.
    """
    started = time.monotonic()
    envelope = inspection.inspect(name, values, known=known)
    return Look(envelope, (time.monotonic() - started) * 1000, findings_of(envelope))


def report_one(inspection: Inspection, dsn: str, name: str, values: Mapping[str, Any] | None = None) -> Report:
    """One look as a report (arguments and errors: see `look_once`)."""
    started_at = _now()
    look = look_once(inspection, name, values)
    return Report((look,), (), describe_dsn(dsn), started_at, look.elapsed_ms / 1000)


def report_all(inspection: Inspection, dsn: str, *, deadline_s: float = DEADLINE_S) -> Report:
    """Every inspector of the registry with the inputs that it has by itself; each runs once.

    Those that rest on others (`Cost.SUM`) get the answers that are there already. One that must be told what to look
    at is skipped. When the time is up, the rest is ``unavailable``.

    Args:
        inspection: of the cluster.
        dsn: where that is, for people.
        deadline_s: how long all of it may take, in seconds; a look that has begun ends by its own timeouts.

    Raises:
        ConnectionRefusedByInput, LockedError: the first look could not be made. Of a later one that is told in its
            place: what was seen before is not lost.
    """
    started, started_at = time.monotonic(), _now()
    looks: list[Look] = []
    skipped: list[Skipped] = []
    known: dict[str, Envelope[Any]] = {}
    gone = ""
    for inspector in sorted(registry.all_(), key=lambda each: each.cost is Cost.SUM):
        if needed := required(inspector.inputs):
            skipped.append(Skipped(inspector.name, f"it needs {', '.join(needed)}"))
            continue
        is_late = time.monotonic() - started >= deadline_s and inspector.cost is not Cost.SUM
        if gone:
            look = _not_asked(inspector, Reason.SERVER_GONE, gone)
        elif is_late:
            look = _not_asked(inspector, Reason.STATEMENT_TIMEOUT, "not asked: the time for the report was up")
        else:
            try:
                look = look_once(inspection, inspector.name, known=known)
            except (ConnectionRefusedByInput, LockedError) as error:
                if not looks:
                    raise
                is_gone = isinstance(error, ConnectionRefusedByInput)
                gone = redact(error.message) if is_gone else ""
                reason = Reason.SERVER_GONE if is_gone else Reason.STATEMENT_TIMEOUT
                look = _not_asked(inspector, reason, redact(error.message))
        looks.append(look)
        known[inspector.name] = look.envelope
    return Report(tuple(looks), tuple(skipped), describe_dsn(dsn), started_at, time.monotonic() - started)


def _not_asked(inspector: Inspector[Any, Any], reason: Reason, why: str) -> Look:
    envelope: Envelope[Any] = Envelope(
        inspector.name,
        Status.UNAVAILABLE,
        reason,
        why,
        ordering=inspector.ordering,
        volatile=tuple(sorted(inspector.volatile)),
    )
    return Look(envelope, 0.0)
