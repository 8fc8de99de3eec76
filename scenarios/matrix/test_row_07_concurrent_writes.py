"""Row 7 of the plan's matrix: distributed table, distributed stream table, writes while it refreshes.

The plan: Workers write while the coordinator refreshes.
A real cluster: Four clients, one through each worker and two through the coordinator, and nothing is lost:
what a horizon does not cover waits for the next refresh. With the plan's sequence frontier it would be lost
(F19).
Verdict: holds changed.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_07_concurrent_writes import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_07_writes_on_every_node_while_it_refreshes_lose_nothing(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
    assert int(report.topology["refreshes among their writes"]) >= 3
