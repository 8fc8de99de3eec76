"""Row 9 of the plan's matrix: dROP STREAM TABLE on a distributed source.

The plan: Triggers on all workers and the distributed buffer are removed.
A real cluster: With the last reader go triggers, functions, buffer and storage, on every node, in one
transaction; while there is another reader its capture stays.
Verdict: holds.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_09_drop_cleanup import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_09_drop_leaves_nothing_on_any_node(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
    assert report.topology["the catalog is empty"] == "no row"
