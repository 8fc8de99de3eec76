"""The plan's ten rows, and the scenarios beside them, on both engines."""

from __future__ import annotations

import pytest

from harness.matrix.model import Row
from harness.matrix.rows import ROWS
from harness.matrix.stage import open_stage
from scenarios.fixtures.engines import Ground
from scenarios.matrix import test_empty_sources, test_null_groups, test_same_row_many_times, test_truncate_two_readers
from scenarios.matrix.reports import assert_proven

ON_CITUS = [pytest.param(row, id=row.name) for row in ROWS if row.needs_citus]


@pytest.mark.pg_trickle(
    "refused",
    match='create regions: syntax error at or near "AS"',
    reason="0.67: DISTINCT over an expression that has a name is not made",
)
def test_row_01_on_one_server(ground: Ground) -> None:
    (row,) = (each for each in ROWS if not each.needs_citus)
    assert_proven(row, row.run(ground.cluster, ground.engine), workers=0)


@pytest.mark.citus(">= 13")
@pytest.mark.pg_trickle(
    "refused",
    match="triggers are not supported on (distributed|reference) tables|cannot distribute .* because it has triggers",
    reason="0.67 on Citus 14: no stream table of a distributed or reference source can be made, in any mode",
)
@pytest.mark.parametrize("row", ON_CITUS)
def test_row_on_a_cluster(citus_ground: Ground, row: Row) -> None:
    assert_proven(row, row.run(citus_ground.cluster, citus_ground.engine), workers=2)


@pytest.mark.pg_trickle(
    "failed",
    match='refresh twice: column "id" does not exist',
    reason="0.67: UNION ALL with an expression in its second half is made, and cannot be refreshed",
)
def test_source_goes_from_empty_to_full_and_back(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        test_empty_sources.check(stage, "local", "local")


@pytest.mark.pg_trickle(
    "wrong",
    match=r"pairs does not equal its query: 0 rows are missing, \d+ are too many",
    reason="0.67: rows of nothing but NULLs stay after they were deleted",
)
def test_null_groups_come_and_go(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        test_null_groups.check(stage, "local", "local")


def test_row_changed_ten_times_between_two_refreshes(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        test_same_row_many_times.check(stage)


def test_truncate_with_two_readers(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        test_truncate_two_readers.check(stage, "local")
