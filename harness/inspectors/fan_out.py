"""One question to every node at once: one connection a node, fixed text, and who did not answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import FailedNode, Reason
from harness.inspectors.redaction import Redactor

# What a node runs. A session that Citus opens has the role's own settings and none of ours (inspectors.md, finding 2):
# they are set inside the statement, for as long as it runs; a target list is evaluated from left to right, and an
# uncorrelated subquery when its value is first needed. transaction_read_only can be switched on at any time: what the
# question calls cannot write. The search path decides how names are spelled, the rest how values are.
_SHIPPED: LiteralString = """SELECT pg_catalog.json_build_object(
  'readonly', pg_catalog.current_setting('default_transaction_read_only'),
  'set', pg_catalog.json_build_array(
    pg_catalog.set_config('transaction_read_only', 'on', true),
    pg_catalog.set_config('lock_timeout', {lock_timeout}, true),
    pg_catalog.set_config('search_path', 'pg_catalog', true),
    pg_catalog.set_config('TimeZone', 'UTC', true),
    pg_catalog.set_config('DateStyle', 'ISO', true),
    pg_catalog.set_config('IntervalStyle', 'postgres', true),
    pg_catalog.set_config('extra_float_digits', '1', true)),
  'rows', coalesce(({question})::json, '[]'::json))::text"""
# How Citus says that it has no connection; its messages are not translated.
_UNREACHABLE = ("failed to connect", "connection to the remote node", "connection not open", "could not establish")
# How PostgreSQL says no, where a node's messages are not translated; Citus hands on no SQLSTATE.
_REFUSALS = (
    ("permission denied", Reason.INSUFFICIENT_PRIVILEGE),
    ("canceling statement due to lock timeout", Reason.LOCK_TIMEOUT),
    ("canceling statement due to statement timeout", Reason.STATEMENT_TIMEOUT),
)


@dataclass(frozen=True)
class ClusterNode:
    """One row of ``pg_dist_node``, or the server itself where Citus has registered none.

    Attributes:
        nodeid, groupid: Citus' numbers; group 0 is the coordinator.
        host, port: where the other nodes reach it.
        role: ``primary`` or ``secondary``.
        is_active: False after ``citus_disable_node``.
        has_metadata, is_metadata_synced: whether it can be queried like the coordinator, and is up to date.
        should_have_shards: whether new shards are placed on it.
        is_clone: whether it is a registered replica that may be promoted (Citus 14).
    """

    nodeid: int
    groupid: int
    host: str
    port: int
    role: str = "primary"
    is_active: bool = True
    has_metadata: bool = True
    is_metadata_synced: bool = True
    should_have_shards: bool = True
    is_clone: bool = False

    @property
    def name(self) -> str:
        """``host:port``, as it stands in every answer."""
        return f"{self.host}:{self.port}"

    @property
    def is_coordinator(self) -> bool:
        """Whether it is the coordinator or a replica of it."""
        return self.groupid == 0

    @property
    def is_asked(self) -> bool:
        """Whether a fan-out asks it: active primaries only, as Citus has it."""
        return self.is_active and self.role == "primary"


@dataclass(frozen=True)
class Gathered:
    """What the nodes answered.

    Attributes:
        rows: each element of each node's array, with its node; by group, in the order of the array.
        answered: the nodes that did.
        failed: those that did not, and why.
        readonly_enforced: whether all that answered say that the role's default is read-only; None: nobody answered.
    """

    rows: tuple[tuple[ClusterNode, dict[str, Any]], ...]
    answered: tuple[ClusterNode, ...]
    failed: tuple[FailedNode, ...]
    readonly_enforced: bool | None = None


def shipped(question: sql.Composable, *, lock_timeout_ms: int) -> sql.Composed:
    """The statement that a node gets: one row, one column, whatever the question finds.

    Args:
        question: one SELECT of one JSON array, all names with their schema. Values of a caller stand in it as
            ``sql.Literal``, to be compared with a catalog's columns and used for nothing else.
        lock_timeout_ms: how long it may wait for one lock on the node.
    """
    return sql.SQL(_SHIPPED).format(lock_timeout=sql.Literal(str(lock_timeout_ms)), question=question)


def gather(nodes: tuple[ClusterNode, ...], answers: Mapping[int, tuple[bool, str]], redactor: Redactor) -> Gathered:
    """The answers by node: ``answers`` has (success, result) by node id; who is missing there has failed."""
    rows: list[tuple[ClusterNode, dict[str, Any]]] = []
    answered: list[ClusterNode] = []
    refused: list[tuple[ClusterNode, str]] = []
    enforced: list[bool] = []
    for node in nodes:
        if not node.is_asked:
            continue
        succeeded, result = answers.get(node.nodeid, (False, ""))
        if not succeeded:
            refused.append((node, result))
            continue
        document = json.loads(result)
        answered.append(node)
        enforced.append(document["readonly"] == "on")
        rows += [(node, each) for each in document["rows"]]
    # What one node lacks is that node's trouble; what all of them lack is not in this version.
    all_lack = not answered and all("does not exist" in result for _, result in refused)
    failed = [FailedNode(node.nodeid, node.name, _why(result, redactor, all_lack=all_lack)) for node, result in refused]
    return Gathered(tuple(rows), tuple(answered), tuple(failed), all(enforced) if enforced else None)


def is_unreachable(result: str) -> bool:
    """Whether Citus says so of a node that it asked: nobody is there, or nobody answers."""
    words = result.strip().removeprefix("ERROR:").strip()
    return not words or words.startswith(_UNREACHABLE)


def _why(result: str, redactor: Redactor, *, all_lack: bool) -> str:
    if result == Reason.STATEMENT_TIMEOUT:
        return f"{Reason.STATEMENT_TIMEOUT}: it did not answer in time"
    words = redactor.message(result)
    reason = Reason.UNSUPPORTED_VERSION if all_lack else Reason.NODE_FAILED
    if is_unreachable(result):
        reason = Reason.NODE_UNREACHABLE
    for beginning, known in _REFUSALS:
        if words.removeprefix("ERROR:").strip().startswith(beginning):
            reason = known
    return f"{reason}: {words}" if words else str(reason)
