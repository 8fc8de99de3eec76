"""The forms that a capture can have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import LiteralString

from harness.errors import BadInputError


class Level(StrEnum):
    """How often the trigger fires."""

    STATEMENT = "statement"
    ROW = "row"


class Dispatch(StrEnum):
    """How the function of a distributed table's shard finds its part of the buffer.

    SHELL names the buffer itself, and Citus routes the row. LOOKUP writes the colocated shard by a dynamic statement,
    the shard's name looked up once a session and kept in a setting (F15). BRANCHES has one static statement a shard,
    chosen by the name of the table that fired, so that its plan is kept. An ordinary table has one buffer, and all
    three are alike.
    """

    SHELL = "shell"
    LOOKUP = "lookup"
    BRANCHES = "branches"


@dataclass(frozen=True)
class Position:
    """What says where a captured change stands among the others.

    Attributes:
        name: words separated by slashes.
        type: of the buffer's column.
        expression: what gives its value, in the function; DEFAULT: the column's own.
        is_once: whether once a statement rather than once a row.
        default: of the buffer's column; empty: none.
        needs_citus: whether one server knows it not.
    """

    name: str
    type: LiteralString
    expression: LiteralString
    is_once: bool = False
    default: LiteralString = ""
    needs_citus: bool = False


@dataclass(frozen=True)
class Form:
    """A form of capture.

    Attributes:
        level: how often the trigger fires.
        dispatch: how it finds its buffer.
        position: what beside the transaction id each row has; None: nothing.
        has_xid: whether each row has its transaction id.
        indexes: on the buffer: 0, 1 (the transaction id), or 2 (and the new key).
        is_identity_full: REPLICA IDENTITY FULL rather than NOTHING.
        only_changed: an UPDATE is captured where one of these columns changed; empty: always.
    """

    level: Level = Level.STATEMENT
    dispatch: Dispatch = Dispatch.BRANCHES
    position: Position | None = None
    has_xid: bool = True
    indexes: int = 0
    is_identity_full: bool = True
    only_changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be made.

        Raises:
            BadInputError: more indexes than there are columns for.
        """
        if self.indexes > 1 + self.has_xid:
            raise BadInputError(f"{self.indexes} indexes on a buffer with {1 + self.has_xid} columns for them")
