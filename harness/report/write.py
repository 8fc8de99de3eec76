"""Writes the files of a report, each whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInputError, DiskFullError, RefusedError
from harness.rehearsal.model import RehearsalResult
from harness.report.document import dump_document, to_document
from harness.report.junit import to_junit
from harness.report.page import to_page

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ReportPaths:
    """Where the files of a report are."""

    page: Path
    document: Path
    junit: Path


def prepare_directory(directory: Path) -> Path:
    """Make the directory if it is missing and prove that a file can be written there, before anything long begins.

    Returns:
        Its absolute path.

    Raises:
        BadInputError: it is no directory, or nothing can be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise BadInputError(
            f"--report {directory}: no report can be written there: {error.strerror}",
            hint="name a directory that you may write to",
        ) from None
    return directory.resolve()


def write_report(result: RehearsalResult, directory: Path, command: str) -> ReportPaths:
    """Write ``report.html``, ``report.json`` and ``junit.xml``; files of those names are replaced.

    Args:
        result: of one rehearsal.
        directory: where to; made if it is missing.
        command: the command that repeats the rehearsal, without a password.

    Raises:
        BadInputError: the directory cannot be written to.
        DiskFullError: there is no room for the files.
    """
    directory = prepare_directory(directory)
    paths = ReportPaths(directory / "report.html", directory / "report.json", directory / "junit.xml")
    write_file(paths.document, dump_document(to_document(result, command)).encode())
    write_file(paths.junit, to_junit(result, command))
    write_file(paths.page, to_page(result, command).encode())
    return paths


def write_file(path: Path, content: bytes, *, option: str = "--report") -> None:
    """Write beside, then rename: a reader never sees half a file.

    Args:
        path: which file; replaced if it is there.
        content: all of it.
        option: of the command line, which named the place.

    Raises:
        RefusedError: it cannot be written.
        DiskFullError: there is no room for it.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        reason = f"{path} cannot be written: {error.strerror}"
        if error.errno in _FULL:
            raise DiskFullError(reason, hint=f"make room, or name another place with {option}") from None
        raise RefusedError(reason, hint=f"name another place with {option}") from None
