"""Sends one statement to many nodes: who is slow is found out, and does not take the answers of the others along."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from harness.inspectors.contract import Cost, Reason
from harness.inspectors.fan_out import ClusterNode, is_unreachable
from harness.inspectors.limits import Limits

Answers = dict[int, tuple[bool, str]]
_ALL: LiteralString = "SELECT nodeid, success, result FROM pg_catalog.run_command_on_all_nodes({statement})"
# What run_command_on_all_nodes calls itself, with all nodes; here with those that are left. A node comes back by its
# place: two of them may have one name only by mistake.
_SOME: LiteralString = """
    SELECT n.nodeid, r.success, r.result
      FROM pg_catalog.master_run_on_worker({hosts}::text[], {ports}::int[], {statements}::text[], true)
           WITH ORDINALITY AS r(host, port, success, result, place)
      JOIN ROWS FROM (pg_catalog.unnest({ids}::int[])) WITH ORDINALITY AS n(nodeid, place) USING (place)
"""
# How long a node that did not answer in time is left alone by later looks of the same inspection, in seconds: a report
# of everything must not wait for it twenty times.
_REST_S = 10.0
_SLOW_S = 0.5
# How long a node has at least when it is asked alone, if there is so much time.
_LEAST_TURN_MS = 1000


@dataclass
class Silent:
    """Nodes that let us wait, for the looks of one inspection: why, and until when they are not asked again."""

    nodes: dict[int, tuple[str, float]] = field(default_factory=dict)

    def note(self, nodeid: int, why: str) -> None:
        """This node let us wait just now."""
        self.nodes[nodeid] = (why, time.monotonic() + _REST_S)

    def why(self, nodeid: int) -> str | None:
        """Why a node is not asked again yet; None: it is asked."""
        why, until = self.nodes.get(nodeid, ("", 0.0))
        return why if time.monotonic() < until else None


@dataclass
class Asker:
    """Asks nodes, within a time.

    Cancelling a fan-out loses the answers of all nodes, since they are handed over together. So it has a part of the
    look's time only; in the rest each node is asked alone, and only those that let us wait again are missing.

    Attributes:
        connection: the coordinator's, in a transaction.
        limits, cost: how long it may take.
        silent: who is not asked, and is told of new ones.
    """

    connection: psycopg.Connection[Any]
    limits: Limits
    cost: Cost
    silent: Silent

    def ask(self, nodes: Sequence[ClusterNode], text: str) -> Answers:
        """One statement, on all these nodes at once.

        Args:
            nodes: active primaries, all that there are.
            text: one row, one column.

        Returns:
            (success, result) by node id; of one that could not be asked, or was too slow, why.

        Raises:
            psycopg.Error: the coordinator itself said no.
        """
        rested = {node.nodeid: why for node in nodes if (why := self.silent.why(node.nodeid)) is not None}
        left = [node for node in nodes if node.nodeid not in rested]
        started = time.monotonic()
        try:
            query = _some(left, text) if rested else sql.SQL(_ALL).format(statement=sql.Literal(text))
            answers = self._run(query, self.limits.first_round_ms(self.cost))
        except psycopg.errors.QueryCanceled:
            answers = self._each(left, text)
        else:
            if time.monotonic() - started > _SLOW_S:
                self._note_unreachable(answers)
        return answers | {nodeid: (False, why) for nodeid, why in rested.items()}

    def _each(self, nodes: Sequence[ClusterNode], text: str) -> Answers:
        """The second round: one node after another, for as long as there is time."""
        answers: Answers = {}
        late: list[int] = []
        deadline = time.monotonic() + self.limits.second_round_ms(self.cost) / 1000
        why = str(Reason.STATEMENT_TIMEOUT)
        for place, node in enumerate(nodes, start=1):
            left_ms = int((deadline - time.monotonic()) * 1000)
            # Half of what is left, while others wait for their turn.
            share_ms = left_ms if place == len(nodes) else left_ms // 2
            turn_ms = min(left_ms, max(self.limits.turn_ms(self.cost), min(_LEAST_TURN_MS, share_ms)))
            if turn_ms > 0:
                try:
                    answers |= self._run(_some([node], text), turn_ms)
                    continue
                except psycopg.errors.QueryCanceled:
                    late.append(node.nodeid)
            answers[node.nodeid] = (False, why)
        self._note_unreachable(answers)
        # Where nobody answered in time, it is the question that is slow, or the machine.
        if any(succeeded for succeeded, _ in answers.values()):
            for nodeid in late:
                self.silent.note(nodeid, why)
        return answers

    def _note_unreachable(self, answers: Answers) -> None:
        """Who said no has answered: another question may be one that it takes."""
        for nodeid, (succeeded, result) in answers.items():
            if not succeeded and is_unreachable(result):
                self.silent.note(nodeid, result)

    def _run(self, query: sql.Composed, timeout_ms: int) -> Answers:
        """In one round trip, with its own time; the transaction goes on if it was not enough."""
        before, after = sql.Literal(str(timeout_ms)), sql.Literal(str(self.limits.timeout_ms(self.cost)))
        try:
            cursor = self.connection.execute(
                sql.SQL("SAVEPOINT ask; SET LOCAL statement_timeout = {}; {}; SET LOCAL statement_timeout = {}").format(
                    before, query, after
                )
            )
        except psycopg.errors.QueryCanceled:
            self.connection.execute("ROLLBACK TO SAVEPOINT ask")
            raise
        while cursor.description is None and cursor.nextset():
            pass
        return {nodeid or 0: (succeeded, result or "") for nodeid, succeeded, result in cursor.fetchall()}


def _some(nodes: Sequence[ClusterNode], text: str) -> sql.Composed:
    return sql.SQL(_SOME).format(
        hosts=sql.Literal([node.host for node in nodes]),
        ports=sql.Literal([node.port for node in nodes]),
        statements=sql.Literal([text for _ in nodes]),
        ids=sql.Literal([node.nodeid for node in nodes]),
    )
