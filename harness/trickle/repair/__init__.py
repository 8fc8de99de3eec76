"""What faults and DDL left behind: found, named and mended; a stream table that DDL has marked, settled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg

from harness.trickle import catalog
from harness.trickle.repair.findings import Finding, RepairReport
from harness.trickle.repair.look import findings_of, look
from harness.trickle.repair.mend import mend
from harness.trickle.repair.settle import settle
from harness.trickle.session import refuse_busy

__all__ = ["Finding", "RepairReport", "repair", "settle"]


def repair(connection: psycopg.Connection[Any], *, is_check: bool = False) -> RepairReport:
    """Find what is left of stream tables that are gone, and what capture lacks, on every node; and mend it.

    Done again, it finds nothing. Each thing is mended in a transaction of its own. Where changes may have been missed,
    the stream tables that read them are marked, and their next refresh fills them anew.

    Args:
        connection: to the coordinator, or to a server without Citus; in autocommit, idle, at head, of the catalog's
            owner. Workers are asked through it.
        is_check: only look.

    Returns:
        What was found, what was done, and what is left, such as a worker that does not answer.

    Raises:
        BadInputError: the connection is in the middle of something.
        UnsupportedVersionError: the catalog is missing, or not of this version.
        psycopg.Error: the connection was lost, or the role may not look.
    """
    refuse_busy(connection)
    catalog.check_catalog(connection)
    found = look(connection)
    findings = list(findings_of(found))
    if is_check:
        return RepairReport(tuple(findings), is_check=True)
    done: list[Finding] = []
    rebuilt: dict[str, Finding] = {}
    for finding in findings:
        before = rebuilt.get(finding.subject) if finding.code == "broken_capture" else None
        if before is None:
            before = mend(connection, found, finding)
            if finding.code == "broken_capture":
                rebuilt[finding.subject] = before
        # What made the capture anew mended everything that was wrong with it.
        done.append(replace(finding, action=before.action, is_mended=before.is_mended, error=before.error))
    return RepairReport(tuple(done))
