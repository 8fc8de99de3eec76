"""Which modes of a table's lock exclude each other."""

from __future__ import annotations

# PostgreSQL's manual, "Conflicting Lock Modes" (Table 13.2); the other kinds of locks use the same eight modes.
_MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
# For each mode from the weakest on, the modes that it excludes, as places in `_MODES`.
_EXCLUDES = ((7,), (6, 7), (4, 5, 6, 7), (3, 4, 5, 6, 7), (2, 3, 5, 6, 7), (2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 6, 7))
_CONFLICTS = {
    mode: frozenset(_MODES[place] for place in (_EXCLUDES[at] if at < len(_EXCLUDES) else range(len(_MODES))))
    for at, mode in enumerate(_MODES)
}


def conflicts(wanted: str, held: str) -> bool:
    """Whether a lock of the mode ``wanted`` waits for one of the mode ``held``; unknown modes always do."""
    return wanted not in _CONFLICTS or held not in _CONFLICTS or held in _CONFLICTS[wanted]
