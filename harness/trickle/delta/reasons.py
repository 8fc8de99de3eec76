"""Why a query, or a part of it, has no incremental form."""

from __future__ import annotations


class NotIncrementalError(Exception):
    """A construct that only recomputing can follow; never leaves `harness.trickle`.

    Args:
        construct: what it is, as a person calls it.
        detail: where, or which one.
    """

    def __init__(self, construct: str, detail: str = "") -> None:
        super().__init__(f"{construct}: {detail}" if detail else construct)
        self.construct = construct
        self.detail = detail
