"""The revisions of the packaged chain, in order."""

from __future__ import annotations

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012", "0013")


def revisions_after(revision: str | None) -> tuple[str, ...]:
    """Those that are still to run, in order; all of them where the chain never ran or the revision is none of ours."""
    return REVISIONS[REVISIONS.index(revision) + 1 :] if revision in REVISIONS else REVISIONS
