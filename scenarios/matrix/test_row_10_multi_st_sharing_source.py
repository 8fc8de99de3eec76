"""Row 10 of the plan's matrix: two stream tables on one distributed table.

The plan: One buffer for both, and TRUNCATE is safe.
A real cluster: Rows go when the slower reader is past them. TRUNCATE fires once, on the coordinator (F11),
and makes each reader rebuild at its own next refresh.
Verdict: holds.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_10_multi_st_sharing_source import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_10_two_readers_of_one_source_share_its_buffer(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
    assert report.topology["rows that both have seen are deleted"] == "0 rows"
