"""What a look may use: queries on the coordinator in a read-only transaction, and one question to all nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from harness.inspectors.asking import Asker, Silent
from harness.inspectors.contract import Cost, FailedNode, Nodes
from harness.inspectors.fan_out import ClusterNode, Gathered, gather, shipped
from harness.inspectors.limits import Limits
from harness.inspectors.redaction import Redactor

if TYPE_CHECKING:
    from harness.inspectors.contract import Envelope

Query = LiteralString | sql.SQL | sql.Composed
_SETTINGS: LiteralString = """
    SELECT n.name, pg_catalog.current_setting(n.name, true) FROM pg_catalog.unnest(%s::text[]) AS n(name)
"""


@dataclass
class Session:
    """A look's view of the cluster. Everything runs on the coordinator, in one READ ONLY transaction.

    Attributes:
        connection: the coordinator's; looks use `rows` and not this.
        nodes: every registered node, by group, primaries first.
        local_group: the group of the node that we are on; 0.
        database: its name.
        citus_version: such as ``14.0.1``; empty without Citus.
        redactor: what is shown of what people wrote.
        limits: how long a look may take; ``lock_timeout_ms`` is how long a statement waits for one lock, on any node.
        cost: of the look, which decides how long a statement may take.
        silent: nodes that let us wait a moment ago: they are not asked, and have failed.
        known: answers of inspectors without inputs in this inspection, by name; looks within each other share it.
        asked, answered, failed, readonly_enforced: what became of the fan-outs; the envelope has them.
    """

    connection: psycopg.Connection[Any]
    nodes: tuple[ClusterNode, ...]
    local_group: int
    database: str
    citus_version: str
    redactor: Redactor
    limits: Limits
    cost: Cost
    silent: Silent = field(default_factory=Silent)
    known: dict[str, Envelope[Any]] = field(default_factory=dict)
    asked: list[ClusterNode] = field(default_factory=list)
    answered: dict[int, ClusterNode] = field(default_factory=dict)
    failed: dict[int, FailedNode] = field(default_factory=dict)
    readonly_enforced: bool | None = None

    def rows(self, query: Query, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query, on the coordinator.

        Args:
            query: a literal of ours, all names with their schema.
            params: its values.

        Raises:
            psycopg.Error: the server said no; `harness.inspectors.run` makes a reason of its SQLSTATE.
        """
        found: list[tuple[Any, ...]] = self.connection.execute(query, params).fetchall()
        return found

    def settings(self, *names: str) -> dict[str, str | None]:
        """Settings of the coordinator as they are shown; None for one that does not exist here.

        Raises:
            psycopg.errors.InsufficientPrivilege: one of them is for ``pg_read_all_settings`` only.
        """
        return dict(self.rows(_SETTINGS, [list(names)]))

    def on_all_nodes(self, query: sql.Composable, *, timeout_ms: int | None = None) -> Gathered:
        """One question to all nodes at once, the coordinator too; who fails is noted for the envelope.

        Each node is asked in a transaction of its own on one connection, as the role that we are. Shards are ordinary
        relations there. Nothing is left behind.

        Args:
            query: see `harness.inspectors.fan_out.shipped`.
            timeout_ms: how long to wait for one lock on a node; None: as the session has it.

        Returns:
            The answers by node. A node that cannot be reached, says no, or lets us wait, is in ``failed``.
        """
        lock_timeout_ms = self.limits.lock_timeout_ms if timeout_ms is None else timeout_ms
        text = shipped(query, lock_timeout_ms=lock_timeout_ms).as_string(self.connection)
        if self.citus_version:
            asker = Asker(self.connection, self.limits, self.cost, self.silent)
            answers = asker.ask([node for node in self.nodes if node.is_asked], text)
        else:
            answers = {0: (True, self.rows(sql.SQL(text))[0][0])}
        gathered = gather(self.nodes, answers, self.redactor)
        self._note(gathered)
        return gathered

    def _note(self, gathered: Gathered) -> None:
        self.asked = [node for node in self.nodes if node.is_asked]
        self.answered = {node.nodeid: node for node in gathered.answered}
        self.failed |= {each.nodeid: each for each in gathered.failed}
        if gathered.readonly_enforced is not None:
            self.readonly_enforced = gathered.readonly_enforced and self.readonly_enforced is not False

    def take(self, inner: Session) -> None:
        """Note what became of the fan-outs of a look within this one."""
        self.asked = self.asked or inner.asked
        self.answered |= inner.answered
        self.failed |= inner.failed
        if inner.readonly_enforced is not None:
            self.readonly_enforced = inner.readonly_enforced and self.readonly_enforced is not False

    def seen(self) -> Nodes:
        """Which nodes were asked, for the envelope."""
        return Nodes(
            tuple(node.name for node in self.asked),
            tuple(node.name for node in self.asked if node.nodeid in self.answered and node.nodeid not in self.failed),
            tuple(sorted(self.failed.values(), key=lambda each: each.nodeid)),
        )
