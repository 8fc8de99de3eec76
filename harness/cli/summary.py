"""``--summary FILE``: what a command found as Markdown for a job's page, and also why it found nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from harness.errors import BadInputError, HarnessError
from harness.report.markdown import error_markdown
from harness.report.write import write_file

SummaryFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--summary", help="Write Markdown for a job's page, also of a refusal or an error.", metavar="FILE"),
]


def require_place(option: str, path: Path | None) -> None:
    """Before anything long begins: the file's directory is there.

    Raises:
        BadInputError: it is not, or the path is a directory itself.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise BadInputError(f"{option} {path} cannot be written", hint="name a file in a directory that is there")


def write_summary(path: Path | None, text: str) -> None:
    """Write the page, if one was asked for; a file that is there is replaced.

    Raises:
        RefusedError, DiskFullError: it cannot be written.
    """
    if path is not None:
        write_file(path, text.encode(), option="--summary")


@contextlib.contextmanager
def errors_told_in(path: Path | None, title: str) -> Iterator[None]:
    """Write what ends the block early, where it is a `HarnessError`, and let it go on.

    Args:
        path: where to; None: nowhere.
        title: the command, such as ``harness rehearse``.
    """
    try:
        yield
    except HarnessError as error:
        with contextlib.suppress(HarnessError):  # the first error counts
            write_summary(path, error_markdown(title, error))
        raise
