"""How long a look may take, and how large its answer may be."""

from __future__ import annotations

from dataclasses import dataclass

from harness.inspectors.contract import Cost

# A look that sizes relations reads each one's files.
_STATEMENT_TIMEOUTS_MS = {Cost.SIZES: 15_000, Cost.SUM: 15_000}
_STATEMENT_TIMEOUT_MS = 5_000
_LOCK_TIMEOUT_MS = 1_000
# citus_lock_waits waits for a node twice, and somebody waits for the answer.
_NODE_TIMEOUT_SHARE = 4
_MOST_NODE_TIMEOUT_MS = 1_500
_CONNECT_TIMEOUT_S = 5


@dataclass(frozen=True)
class Limits:
    """How long an inspection may take and how large its answer may be.

    Attributes:
        statement_timeout_ms: of one statement; None: 5 s, and 15 s where relations are sized.
        lock_timeout_ms: how long a statement waits for one lock, on each node.
        connect_timeout_s: for the coordinator, whole seconds, at least 2.
        most_bytes: of an answer as JSON.
    """

    statement_timeout_ms: int | None = None
    lock_timeout_ms: int = _LOCK_TIMEOUT_MS
    connect_timeout_s: int = _CONNECT_TIMEOUT_S
    most_bytes: int = 256 * 1024

    def timeout_ms(self, cost: Cost) -> int:
        """Of one statement of a look that costs so much."""
        if self.statement_timeout_ms is not None:
            return self.statement_timeout_ms
        return _STATEMENT_TIMEOUTS_MS.get(cost, _STATEMENT_TIMEOUT_MS)

    def node_timeout_ms(self, cost: Cost) -> int:
        """How long Citus waits for a connection to a node."""
        return max(10, min(_MOST_NODE_TIMEOUT_MS, self.timeout_ms(cost) // _NODE_TIMEOUT_SHARE))

    def first_round_ms(self, cost: Cost) -> int:
        """How long all nodes together have for an answer: three fifths of the statement's time."""
        return max(1, self.timeout_ms(cost) * 3 // 5)

    def second_round_ms(self, cost: Cost) -> int:
        """How long they have one after another, if that was not enough: the rest."""
        return max(1, self.timeout_ms(cost) - self.first_round_ms(cost))

    def turn_ms(self, cost: Cost) -> int:
        """How long one of them has then."""
        return max(1, self.second_round_ms(cost) // 4)
