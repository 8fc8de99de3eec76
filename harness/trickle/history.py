"""Whether a node's history is the one that a stream table stopped in (D5): what each worker notes of its refreshes.

A worker that was restored, replaced or promoted with loss knows of another last refresh than the coordinator's
catalog, and so does one whose coordinator went back. The rules are in the database
(``pgtrickle.note_refresh``, migrations/sql/0010_up.sql); docs/identity.md tells the whole.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

# What a worker says that has no marks yet, since it was added and has no shard (migrations/sql/0010_up.sql).
NO_MARKS = "no marks"


class HistoryChangedError(Exception):
    """A node is not where the stream table last stopped; the refresh did nothing, and has to fill it anew.

    Attributes:
        reason: for people; names the node and what differs.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Identity:
    """Which server a node is.

    Attributes:
        system: its system identifier.
        timeline: of its write-ahead log; a promotion or a restore to a point in time begins another one.
    """

    system: str
    timeline: int

    def __str__(self) -> str:
        return f"server {self.system} on timeline {self.timeline}"


@dataclass(frozen=True)
class History:
    """What the catalog keeps of the nodes beside their snapshots (``pgtrickle.st_history``).

    Attributes:
        history: under which name the nodes note this stream table's refreshes.
        refresh: the last one that was committed; None: none was noted yet.
        nodes: which server each worker was then, by group; None for one that this client could not ask by itself.
    """

    history: str
    refresh: str | None = None
    nodes: Mapping[int, Identity | None] = field(default_factory=dict)

    def as_entry(self) -> dict[str, Any]:
        """As the catalog keeps it."""
        nodes = {
            str(group): None if one is None else {"system": one.system, "timeline": one.timeline}
            for group, one in sorted(self.nodes.items())
        }
        return {"history": self.history, "refresh": self.refresh, "nodes": nodes}


def read_history(entry: Mapping[str, Any] | None) -> History:
    """What the catalog knows; a new name where it knows nothing.

    Args:
        entry: the row of ``st_history`` of a stream table; None where it has none.
    """
    if entry is None:
        return History(secrets.token_hex(12))
    nodes = {
        int(group): None if one is None else Identity(str(one["system"]), int(one["timeline"]))
        for group, one in entry["nodes"].items()
    }
    return History(str(entry["history"]), str(entry["refresh"]), nodes)


@dataclass(frozen=True)
class Note:
    """What each worker is asked, and told, in the round trip that reads its snapshot.

    Attributes:
        had: what the catalog knows.
        next: the refresh that begins; None: only look.
        is_kept_here: whether the stream table's rows are on workers: then it matters whether they kept the commit.
        is_forced: whether the table is filled anew anyhow.
    """

    had: History
    next: str | None
    is_kept_here: bool
    is_forced: bool = False

    def call(self, group: int, position: tuple[int, str]) -> sql.Composed:
        """The call of ``pgtrickle.note_refresh`` for a worker.

        Args:
            group: the worker's.
            position: timeline and WAL position of the coordinator.
        """
        had = self.had.refresh if group in self.had.nodes else None  # one that came later has nothing to know
        return sql.SQL("pgtrickle.note_refresh({}, {}, {}, {}, {}, {}, {})").format(
            *(
                sql.Literal(value)
                for value in (
                    self.had.history,
                    had,
                    self.next,
                    *position,
                    self.is_kept_here,
                    self.is_forced,
                )
            )
        )

    def refuse(self, group: int, address: tuple[str, int], answer: str | None, identity: Identity | None) -> None:
        """Refuse to go on where the worker's answer says that its history is another one.

        Raises:
            HistoryChangedError: names it.
        """
        if answer in {None, NO_MARKS} or self.is_forced:
            return
        was = self.had.nodes.get(group)
        servers = f"; it was {was}, and is {identity}" if was is not None and identity not in {None, was} else ""
        raise HistoryChangedError(
            f"worker {address[0]}:{address[1]} (group {group}) is not where the stream table last stopped:"
            f" {answer}{servers}"
        )

    def noted(self, nodes: Mapping[int, Identity | None]) -> History:
        """What the catalog keeps once the refresh is committed."""
        return replace(self.had, refresh=self.next, nodes=dict(nodes))


def new_refresh() -> str:
    """A name that no other refresh has."""
    return secrets.token_hex(12)


def adopt_database(connection: psycopg.Connection[Any]) -> str | None:
    """Make a catalog that came from another database, as in a restored dump, this one's.

    Args:
        connection: to the coordinator, in autocommit, idle.

    Returns:
        Why every stream table was marked to be filled anew; None: nothing was to be done.
    """
    row = connection.execute("SELECT pgtrickle.adopt_database()").fetchone()
    return None if row is None or row[0] is None else str(row[0])
