"""Where a refresh stopped: a snapshot a node. What lies in it was taken, the rest comes later (D5, F19, F20).

A horizon (the oldest transaction of a snapshot) alone would make every row above it wait for that transaction. The
whole snapshot tells them apart: only the rows of transactions that were still open wait. Both are kept, the horizons
for the plan's rule in the database (``pgtrickle.is_pending``) and for the way down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

# Group 0 is the coordinator, everywhere in Citus; without Citus it is the server.
COORDINATOR = 0
# The node that wrote a row of a distributed buffer: Citus gives each group its own range of a sequence (F5).
GROUP_BITS = 48


@dataclass(frozen=True)
class Cut:
    """A place in the history of a cluster: which transactions are in, on each node.

    Attributes:
        snapshots: ``pg_snapshot`` as text, by Citus group.
        groups: the highest group that was known. A group up to it that has no snapshot was gone: all that it wrote is
            in. One above it came later: nothing that it wrote is in.
    """

    snapshots: Mapping[int, str]
    groups: int = 0

    def holds(self, xid: sql.Composable, node: sql.Composable | None = None) -> sql.Composed:
        """A condition: the transaction is in.

        Args:
            xid: an expression of type xid8.
            node: an expression for the group that wrote it; None: the coordinator.
        """
        if node is None:
            return _is_in(xid, self.snapshots[COORDINATOR])
        cases = [
            sql.SQL("WHEN {} THEN {}").format(sql.Literal(group), _is_in(xid, snapshot))
            for group, snapshot in sorted(self.snapshots.items())
        ]
        return sql.SQL("CASE {node} {cases} ELSE {node} <= {groups} END").format(
            node=node, cases=sql.SQL(" ").join(cases), groups=sql.Literal(self.groups)
        )

    def as_entry(self, *, lsn: str, at: str, seq_id: int | None, only: int | None = None) -> dict[str, Any]:
        """What the catalog keeps of it for one source, in ``frontier -> 'sources' -> <stable name>``.

        Args:
            lsn: the coordinator's WAL position.
            at: when, as 0.2 writes it.
            seq_id: the highest sequence value taken so far; None for a source that has none.
            only: keep this group's snapshot alone.
        """
        kept = {group: text for group, text in self.snapshots.items() if only is None or group == only}
        entry: dict[str, Any] = {
            "lsn": lsn,
            "snapshot_ts": at,
            "horizons": {str(group): horizon(text) for group, text in kept.items()},
            "snapshots": {str(group): text for group, text in kept.items()},
            "groups": self.groups,
        }
        if seq_id is not None:
            entry["seq_id"] = seq_id
        return entry


@dataclass(frozen=True)
class MarkedCut(Cut):
    """Stands for a cut in statements that are kept and used again with others.

    Attributes:
        mark: what stands in a statement where the condition of a cut goes.
    """

    mark: str = ""

    def holds(self, xid: sql.Composable, node: sql.Composable | None = None) -> sql.Composed:
        """The mark; whoever replaces it knows the expressions."""
        return sql.Composed([raw_mark(self.mark)])


def raw_mark(mark: str) -> sql.SQL:
    """A mark as a part of a statement: it is made here, of letters and digits."""
    return sql.SQL(mark)


def _is_in(xid: sql.Composable, snapshot: str) -> sql.Composed:
    newest = snapshot.split(":")[1]
    if not in_progress(snapshot):
        # The same, and a comparison of numbers: a call for each of many rows would cost more than their use does.
        return sql.SQL("{} < {}::pg_catalog.xid8").format(xid, sql.Literal(newest))
    return sql.SQL("pg_catalog.pg_visible_in_snapshot({}, {}::pg_catalog.pg_snapshot)").format(
        xid, sql.Literal(snapshot)
    )


def horizon(snapshot: str) -> str:
    """The oldest transaction that was running in a snapshot, as text."""
    return snapshot.partition(":")[0]


def read_cut(frontier: Mapping[str, Any] | None, stable_name: str) -> Cut | None:
    """The cut that a catalog's frontier has for a source.

    Args:
        frontier: of a stream table; None where it has none.
        stable_name: of the source.

    Returns:
        The cut; None where this project's refresh never stopped at one.
    """
    entry = (frontier or {}).get("sources", {}).get(stable_name)
    if not isinstance(entry, dict) or not entry.get("snapshots"):
        return None
    return Cut({int(group): str(text) for group, text in entry["snapshots"].items()}, int(entry.get("groups", 0)))


def in_progress(snapshot: str) -> frozenset[str]:
    """The transactions that were running in a snapshot, as text."""
    return frozenset(filter(None, snapshot.rsplit(":", 1)[-1].split(",")))
