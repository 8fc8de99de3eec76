"""Row 2 of the plan's matrix: citus reference table, local stream table.

The plan: A trigger on the coordinator and an LSN frontier.
A real cluster: A trigger on the table fires on every node that has a replica (F10); made on the coordinator's
own replica it fires once. The LSN is kept; the cut is by the coordinator's transaction horizon (F19, F20).
Verdict: holds changed.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_02_reference_source import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_02_reference_table_is_captured_once(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
    assert report.topology["a change is captured once, not once a replica"] == "10 of 10 rows"
