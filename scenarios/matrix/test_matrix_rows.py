"""The ten rows: in the plan's order, a file each, and each file says what the plan claims and what a cluster does."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from harness.matrix.model import Row
from harness.matrix.rows import ROWS

HERE = Path(__file__).parent


def test_rows_are_ten_in_the_plans_order() -> None:
    assert [row.number for row in ROWS] == list(range(1, 11))
    assert len({row.name for row in ROWS}) == 10
    assert [row.number for row in ROWS if not row.needs_citus] == [1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_has_a_scenario_whose_docstring_says_claim_and_verdict(row: Row) -> None:
    path = HERE / f"test_row_{row.number:02}_{row.name}.py"
    assert path.is_file()
    module = importlib.import_module(f"scenarios.matrix.{path.stem}")
    said = " ".join((module.__doc__ or "").split())
    for words in (row.claim, row.reality, f"Verdict: {row.finding.value}."):
        assert words in said
