"""What capture costs grows with the rows of a statement, and not with their square."""

from __future__ import annotations

import statistics
import time
from typing import LiteralString

import pytest
from psycopg import sql

from scenarios.capture.capturing import Captured, Ground

# Ten times the rows: linear is 10, a nested loop of old and new images is 100 (the public extension: 312x, peer.md).
# Half the way on a logarithmic scale is 32; times of small statements have a constant part, which only makes it less.
MOST = 32.0
ROUNDS = 5


def _elapsed_s(captured: Captured, statement: LiteralString) -> float:
    started = time.perf_counter()
    captured.run(statement)
    elapsed_s = time.perf_counter() - started
    captured.connection.execute(sql.SQL("TRUNCATE {}").format(captured.buffer))
    return elapsed_s


@pytest.mark.parametrize("has_key", [True, False], ids=["key", "no-key"])
def test_update_costs_in_proportion_to_its_rows(ground: Ground, has_key: bool) -> None:
    columns: LiteralString = (
        "(id integer, n integer, v text, PRIMARY KEY (id))" if has_key else "(id integer, n integer, v text)"
    )
    rows: LiteralString = "INSERT INTO {t} SELECT i, 0, 'v' || i FROM generate_series(1, 10000) i"
    with ground.captured(columns, rows=rows) as made:
        small: list[float] = []
        large: list[float] = []
        for _ in range(ROUNDS):  # interleaved: what disturbs one disturbs the other
            small.append(_elapsed_s(made, "UPDATE {t} SET n = n + 1 WHERE id <= 1000"))
            large.append(_elapsed_s(made, "UPDATE {t} SET n = n + 1"))
        ratio = statistics.median(large) / statistics.median(small)
        assert ratio < MOST, f"10,000 rows took {ratio:.1f} times as long as 1,000"
