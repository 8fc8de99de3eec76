"""Row 6 of the plan's matrix: distributed and reference tables, local stream table.

The plan: A frontier of several modes, mixed capture.
A real cluster: Each source keeps its own marker, LSN or workers' horizons, and both are read before the
delta: one transaction that writes to both sources is seen whole or not at all.
Verdict: holds.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_06_mixed_sources import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_06_distributed_and_reference_tables_keep_both_markers(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
