"""Row 4 of the plan's matrix: hash-distributed table, reference stream table.

The plan: Triggers on the workers, a sequence frontier, MERGE into the reference table.
A real cluster: Citus refuses a reference table as the target of MERGE (F22): the delta is applied by DELETE
and INSERT .. ON CONFLICT, in one transaction over all replicas.
Verdict: holds changed.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_04_distributed_to_reference import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_04_distributed_table_into_reference_stream_table(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
