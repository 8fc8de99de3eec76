"""Row 5 of the plan's matrix: hash-distributed table, distributed stream table.

The plan: The full pipeline: worker triggers, a sequence frontier, INSERT ON CONFLICT.
A real cluster: The buffer is distributed as its source is, not by seq_id (F13, F14), and rows are matched by
a hash that is checked again (D7). A delta straight from colocated buffers may be merged shard by shard (F31,
F33).
Verdict: holds changed.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_05_distributed_to_distributed import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_05_distributed_table_into_distributed_stream_table(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
