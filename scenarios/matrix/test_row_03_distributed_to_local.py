"""Row 3 of the plan's matrix: hash-distributed table, local stream table.

The plan: Triggers on the workers, a sequence frontier, MERGE on the coordinator.
A real cluster: The triggers are made on the coordinator and live on the shards (F7, F8). A frontier that is a
sequence value loses changes; one that is a transaction horizon per node loses none (F19, F20). MERGE takes a
delta that was materialised first (F22).
Verdict: holds changed.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_03_distributed_to_local import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_03_distributed_table_into_local_stream_table(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
