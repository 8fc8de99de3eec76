"""Stream tables: what is captured becomes, at each refresh, what their queries say."""

from __future__ import annotations

from harness.trickle.catalog import Dependency, Refresh, StreamTable
from harness.trickle.explain import Explanation
from harness.trickle.status import Holder, Status
from harness.trickle.stream_tables import StreamTables

__all__ = ["Dependency", "Explanation", "Holder", "Refresh", "Status", "StreamTable", "StreamTables"]
