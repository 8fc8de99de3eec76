"""A statement on every node, with each node's failure named; what Citus does not say itself is found out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from harness.citus.catalog import Connection, fetch_nodes, has_citus
from harness.clusters.topology import NodeRecord
from harness.errors import ServerError

Statement = LiteralString | sql.Composable
# Citus passes on the first line of an error's message and no SQLSTATE: the wrapper writes it into that line.
_MARKED = re.compile(r"^[^#]{0,40}#([0-9A-Z]{5})# ?(.*)$", re.DOTALL)
_WRAPPER: LiteralString = (
    "BEGIN EXECUTE {}; EXCEPTION WHEN OTHERS THEN"
    " RAISE EXCEPTION USING MESSAGE = '#' OPERATOR(pg_catalog.||) SQLSTATE OPERATOR(pg_catalog.||) '# '"
    " OPERATOR(pg_catalog.||) SQLERRM, ERRCODE = SQLSTATE; END"
)


@dataclass(frozen=True)
class NodeAnswer:
    """What one node made of a statement.

    Attributes:
        node: its record; None for a plain server, or a coordinator that was never registered.
        succeeded: whether it did it.
        result: the value, or the command tag; empty for NULL (Citus does not tell them apart) and after a failure.
        message: why it failed, the first line; empty if it did not.
        sqlstate: the failure's code where it is known: not when the node could not be reached.
    """

    node: NodeRecord | None
    succeeded: bool
    result: str = ""
    message: str = ""
    sqlstate: str | None = None

    @property
    def label(self) -> str:
        """The node, for people: role, address and group."""
        if self.node is None:
            return "the node of this connection"
        if self.node.group_id == 0:
            return f"coordinator {self.node.host}:{self.node.port}"
        return f"worker {self.node.host}:{self.node.port} (group {self.node.group_id})"

    def __str__(self) -> str:
        if self.succeeded:
            return f"{self.label}: {self.result}"
        return f"{self.label}: {self.message}" + (f" ({self.sqlstate})" if self.sqlstate else "")


class NodesFailedError(ServerError):
    """Nodes did not do what all were asked; ``failures`` has each, ``answers`` has all."""

    def __init__(self, answers: Sequence[NodeAnswer]) -> None:
        self.answers = tuple(answers)
        self.failures = tuple(answer for answer in answers if not answer.succeeded)
        done = len(self.answers) - len(self.failures)
        states = {failure.sqlstate for failure in self.failures}
        super().__init__(
            f"{len(self.failures)} of {len(self.answers)} nodes failed: " + "; ".join(map(str, self.failures)),
            hint=f"each node is a transaction of its own: {done} did it and nothing undoes that" if done else "",
            node=self.failures[0].label if len(self.failures) == 1 else None,
            sqlstate=states.pop() if len(states) == 1 else None,
        )


def require_all(answers: Sequence[NodeAnswer]) -> tuple[NodeAnswer, ...]:
    """The answers, if every node succeeded.

    Raises:
        NodesFailedError: some did not; names each.
    """
    if all(answer.succeeded for answer in answers):
        return tuple(answers)
    raise NodesFailedError(answers)


def run_on_nodes(
    connection: Connection, statement: Statement, *, workers_only: bool = False, is_wrapped: bool = True
) -> tuple[NodeAnswer, ...]:
    """Run a statement on the coordinator and every worker, at once, and say what became of it on each.

    It runs outside the transaction of the connection: a rollback does not undo it (seen on Citus 14.0.1). On a plain
    server it runs there, in the transaction of the connection if there is one.

    Args:
        connection: to the coordinator, or a plain server.
        statement: what to run; values must be in it, as ``sql.Literal``.
        workers_only: leave the coordinator out. A plain server is no worker: the answer is empty.
        is_wrapped: run it inside a block that reports SQLSTATE. False for what cannot run in one, such as VACUUM.

    Returns:
        One answer a node, by group. A node that is registered and was not asked, since it is not active, has failed.

    Raises:
        psycopg.Error: the connection's own node did not take the request at all.
        CitusMissingError: the extension is there, its library is not.
    """
    text = _as_text(statement, connection)
    if is_wrapped:
        body = sql.SQL(_WRAPPER).format(sql.Literal(text)).as_string(connection)
        text = sql.SQL("DO {}").format(sql.Literal(body)).as_string(connection)
    return _send(connection, text, workers_only=workers_only)


def ask_nodes(connection: Connection, query: Statement, *, workers_only: bool = False) -> tuple[NodeAnswer, ...]:
    """As `run_on_nodes`, for a query of one row and one column; its text is the result, its SQLSTATE is not known."""
    return _send(connection, _as_text(query, connection), workers_only=workers_only)


def _as_text(statement: Statement, connection: Connection) -> str:
    return statement.as_string(connection) if isinstance(statement, sql.Composable) else statement


def _send(connection: Connection, text: str, *, workers_only: bool) -> tuple[NodeAnswer, ...]:
    if not has_citus(connection):
        return () if workers_only else (_run_here(connection, text),)
    nodes = [node for node in fetch_nodes(connection) if node.role == "primary"]
    by_id: dict[int, NodeRecord] = {node.node_id: node for node in nodes}
    answers: dict[int, NodeAnswer] = {}
    # run_command_on_workers names no node id, and counts a registered coordinator only when it has shards.
    rows = connection.execute(
        "SELECT nodeid, success, result FROM pg_catalog.run_command_on_all_nodes(%s)"
        if not workers_only
        else "SELECT n.nodeid, r.success, r.result FROM pg_catalog.run_command_on_workers(%s) r"
        " JOIN pg_catalog.pg_dist_node n ON n.nodename = r.nodename AND n.nodeport = r.nodeport",
        [text],
    ).fetchall()
    for node_id, succeeded, result in rows:
        answers[node_id] = _answer(by_id.get(node_id), succeeded, result or "")
    for node in nodes:
        if node.node_id not in answers and not (workers_only and node.group_id == 0):
            answers[node.node_id] = NodeAnswer(node, False, message="it is not active and was not asked")
    return tuple(sorted(answers.values(), key=lambda answer: answer.node.group_id if answer.node else 0))


def _answer(node: NodeRecord | None, succeeded: bool, result: str) -> NodeAnswer:
    if succeeded:
        return NodeAnswer(node, True, result)
    marked = _MARKED.match(result)
    if marked is None:
        return NodeAnswer(node, False, message=result)
    return NodeAnswer(node, False, message=marked[2], sqlstate=marked[1])


def _run_here(connection: Connection, text: str) -> NodeAnswer:
    try:
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            with connection.transaction():
                cursor = connection.execute(text.encode())
        else:
            cursor = connection.execute(text.encode())
    except psycopg.Error as error:
        if connection.closed:
            raise
        message = (error.diag.message_primary or str(error)).splitlines()[0]
        marked = _MARKED.match(message)
        return NodeAnswer(None, False, message=marked[2] if marked else message, sqlstate=error.sqlstate)
    if cursor.description is None:
        return NodeAnswer(None, True, cursor.statusmessage or "")
    row = cursor.fetchone()
    return NodeAnswer(None, True, "" if row is None or row[0] is None else str(row[0]))
