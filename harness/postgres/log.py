"""A server's log: remember a place, read and search from there."""

from __future__ import annotations

import abc
import re
from dataclasses import dataclass
from pathlib import Path

from harness.logs import redact
from harness.waiting import wait_until

# A start that fails says why in its last lines; forty hold the longest such story seen.
_TAIL_LINES = 40


@dataclass(frozen=True, order=True)
class LogMark:
    """A place in a log.

    Attributes:
        offset_bytes: how much had been written.
    """

    offset_bytes: int


BEGINNING = LogMark(0)


class Log(abc.ABC):
    """What one server wrote, over all its starts.

    Attributes:
        where: where it is, for messages.
    """

    where: str

    @abc.abstractmethod
    def mark(self) -> LogMark:
        """The present end."""

    @abc.abstractmethod
    def since(self, mark: LogMark = BEGINNING) -> str:
        """All that was written after ``mark``."""

    def search(self, pattern: str | re.Pattern[str], mark: LogMark = BEGINNING) -> list[str]:
        """The lines after ``mark`` in which the regular expression ``pattern`` is found."""
        wanted = re.compile(pattern)
        return [line for line in self.since(mark).splitlines() if wanted.search(line)]

    def wait_for(self, pattern: str | re.Pattern[str], mark: LogMark = BEGINNING, deadline_s: float = 10.0) -> str:
        """Wait for a line after ``mark`` that matches, and return it.

        Args:
            pattern: a regular expression.
            mark: where to begin.
            deadline_s: how long to wait, in seconds.

        Raises:
            WaitTimeoutError: no such line came.
        """
        label = f"a line like {getattr(pattern, 'pattern', pattern)!r} in {self.where}"
        return wait_until(label, lambda: self.search(pattern, mark), deadline_s=deadline_s)[0]

    def tail(self, mark: LogMark = BEGINNING) -> str:
        """The last lines after ``mark``, without passwords, for messages."""
        return redact("\n".join(self.since(mark).splitlines()[-_TAIL_LINES:]))


class ServerLog(Log):
    """The log of a local process: one file.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)

    def mark(self) -> LogMark:
        """The present end."""
        return LogMark(self.path.stat().st_size if self.path.exists() else 0)

    def since(self, mark: LogMark = BEGINNING) -> str:
        """All that was written after ``mark``."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(mark.offset_bytes)
            return file.read().decode("utf-8", errors="replace")
