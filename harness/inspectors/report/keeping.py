"""Reports as files, whole or not at all; and the one that is kept of a cluster on which something has failed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import psycopg

from harness.errors import HarnessError
from harness.inspectors.limits import Limits
from harness.inspectors.report.document import to_document
from harness.inspectors.report.making import report_all
from harness.inspectors.report.model import Report
from harness.inspectors.report.page import to_inspect_page
from harness.inspectors.run import Inspection
from harness.logs import redact
from harness.report.document import dump_document
from harness.report.write import write_file

# Somebody waits for the result of a failed test: what a broken cluster does not tell in this time, it keeps.
FAILED_DEADLINE_S = 15.0
_FAILED_LIMITS = Limits(statement_timeout_ms=2_000, lock_timeout_ms=300, connect_timeout_s=2)


def write_files(report: Report, command: str, directory: Path, *, name: str = "inspect") -> tuple[Path, Path]:
    """Write ``<name>.html`` and ``<name>.json``; files of those names are replaced.

    Args:
        report: of one or more looks.
        command: the command that repeats it, without a password.
        directory: where to; it is there.
        name: of the files.

    Raises:
        RefusedError, DiskFullError: they cannot be written.
    """
    page, document = directory / f"{name}.html", directory / f"{name}.json"
    write_file(document, dump_document(to_document(report, command)).encode())
    write_file(page, to_inspect_page(report, command).encode())
    return page, document


def keep_report(dsn: str, directory: Path, *, name: str = "inspect", deadline_s: float = FAILED_DEADLINE_S) -> Path:
    """Look at everything and keep it, whatever state the cluster is in; for the teardown of what has failed.

    Changes nothing in the cluster. Nothing that happens here hides the failure that it is about: what prevents the
    report is what is written instead.

    Args:
        dsn: the coordinator's.
        directory: where the files go; made if it is missing.
        name: of the files.
        deadline_s: how long it may take, in seconds; the look that is under way then ends by its own timeouts.

    Returns:
        The page, or the text file that says why there is none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        with Inspection(dsn, limits=_FAILED_LIMITS) as inspection:
            report = report_all(inspection, dsn, deadline_s=deadline_s)
        return write_files(report, "harness inspect --all --dsn ...", directory, name=name)[0]
    except (HarnessError, psycopg.Error, OSError) as error:
        return _write_why(directory, name, [str(error).strip()], started)
    except Exception:  # a mistake of ours, beside a failure that somebody wants to understand
        return _write_why(directory, name, traceback.format_exc().splitlines(), started)


def _write_why(directory: Path, name: str, lines: Sequence[str], started: float) -> Path:
    path = directory / f"{name}.txt"
    words = [f"no report of the inspectors, after {time.monotonic() - started:.1f} s:", *lines]
    path.write_text(redact("\n".join(words)) + "\n", encoding="utf-8")
    return path
