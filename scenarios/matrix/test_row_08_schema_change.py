"""Row 8 of the plan's matrix: schema change on a distributed source.

The plan: A DDL event trigger rebuilds the triggers on the workers.
A real cluster: The event trigger on the coordinator changes buffer and function in the user's own
transaction, or the next write would fail (F24 to F26); the triggers stay. New names are followed in the
queries; a column that a query reads is dropped with CASCADE only, and the refresh after that is refused by its
name.
Verdict: holds changed.
"""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.matrix.rows.row_08_schema_change import ROW
from scenarios.matrix.reports import assert_proven


@pytest.mark.citus(">= 13")
def test_row_08_schema_change_of_a_distributed_source_is_followed(citus_database: Cluster) -> None:
    report = ROW.run(citus_database)
    assert_proven(ROW, report, workers=2)
