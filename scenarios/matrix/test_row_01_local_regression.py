"""Row 1 of the plan's matrix: local tables, local stream table.

The plan: All existing behaviour stays as it is where no table is distributed.
A real cluster: The same engine on one server and on a coordinator: ten queries stay equal to themselves
through every kind of statement, and what has no incremental form is recomputed and says so.
Verdict: holds.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_01_local_regression import ROW
from harness.postgres import Node
from scenarios.matrix.reports import assert_proven


def test_row_01_local_tables_keep_all_behaviour_on_plain_postgresql(database: Node) -> None:
    report = ROW.run(Cluster("plain", database, ()))
    assert_proven(ROW, report, workers=0)


@pytest.mark.citus(">= 13")
def test_row_01_local_tables_keep_all_behaviour_on_a_coordinator(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
