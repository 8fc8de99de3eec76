"""What a look found, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Finding:
    """Something that should not be.

    Attributes:
        code: a word for programs, such as ``orphan_function``.
        node: ``coordinator``, or the address of a worker.
        subject: what it is about, by name.
        detail: what is wrong with it.
        action: what was done; empty where nothing was.
        is_mended: whether it is as it should be now.
        error: why it could not be mended; empty where nothing was in the way.
    """

    code: str
    node: str
    subject: str
    detail: str
    action: str = ""
    is_mended: bool = False
    error: str = ""

    def __str__(self) -> str:
        what = f"{self.node}: {self.subject} {self.detail}"
        if self.is_mended:
            return f"{what}; {self.action}"
        return f"{what}; {self.error}" if self.error else what


@dataclass(frozen=True)
class RepairReport:
    """All that was found.

    Attributes:
        findings: one each.
        is_check: whether it was only looked.
    """

    findings: tuple[Finding, ...]
    is_check: bool = False

    @property
    def left(self) -> tuple[Finding, ...]:
        """What is still wrong."""
        return tuple(finding for finding in self.findings if not finding.is_mended)

    @property
    def passed(self) -> bool:
        """Whether everything is as it should be now."""
        return not self.left
