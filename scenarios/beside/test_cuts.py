"""Who loses what: transactions that are open across a cut, and writers beside many cuts (F19, F20)."""

from __future__ import annotations

import pytest

from harness.engines.losses import cuts_beside_writers, open_transaction, require_exact
from scenarios.fixtures.engines import Ground


@pytest.mark.pg_trickle(
    "lost", match=r"^1 of 3 committed rows are missing", reason="0.67: the row of the open transaction, for good"
)
def test_transaction_open_across_a_cut_loses_nothing(ground: Ground) -> None:
    require_exact(open_transaction(ground.engine, ground.cluster.coordinator))


def test_transaction_rolled_back_after_a_cut_leaves_nothing(ground: Ground) -> None:
    require_exact(open_transaction(ground.engine, ground.cluster.coordinator, is_undone=True))


@pytest.mark.slow
@pytest.mark.pg_trickle(
    "lost", match=r"^[1-9]\d* of \d+ committed rows are missing", reason="0.67: rows of transactions open across a cut"
)
def test_cuts_beside_six_writers_lose_nothing(ground: Ground) -> None:
    require_exact(cuts_beside_writers(ground.engine, ground.cluster.coordinator))
