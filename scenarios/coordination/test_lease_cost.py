"""What a lease costs beside an advisory lock (the plan's risk 7): measured in one run, interleaved; printed."""

from __future__ import annotations

import statistics
import time
from typing import cast

import pytest

from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from harness.trickle.leases import Kind
from scenarios.coordination.stages import change, prepare

KINDS: tuple[Kind, ...] = ("advisory", "lease")
ROUNDS = 200


@pytest.mark.parametrize("where", ["plain", pytest.param("citus", marks=pytest.mark.citus(">= 13"))])
def test_lease_costs_little_beside_a_refresh(request: pytest.FixtureRequest, where: str) -> None:
    if where == "plain":
        node = cast("Node", request.getfixturevalue("database"))
    else:
        node = cast("Cluster", request.getfixturevalue("citus_database")).coordinator
    prepare(node, is_distributed=where == "citus")
    right: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    idle: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    busy: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    with node.connect() as connection:
        engines = {kind: StreamTables(connection, lease_kind=kind) for kind in KINDS}
        number = engines["lease"].list()[0].pgt_id
        for tables in engines.values():
            tables.refresh("balances")
        for round_ in range(ROUNDS):
            for kind, tables in engines.items():
                begun = time.perf_counter()
                with tables.leases.held(number, "balances"):
                    pass
                right[kind].append(time.perf_counter() - begun)
                begun = time.perf_counter()
                tables.refresh("balances")
                idle[kind].append(time.perf_counter() - begun)
                if round_ % 10 == 0:
                    change(node)
                    begun = time.perf_counter()
                    tables.refresh("balances")
                    busy[kind].append(time.perf_counter() - begun)
        for tables in engines.values():
            tables.close()
    medians = {
        what: {kind: statistics.median(values[kind]) * 1000 for kind in KINDS}
        for what, values in (("the right alone", right), ("a refresh without changes", idle), ("one change", busy))
    }
    for what, found in medians.items():
        ratio = found["lease"] / found["advisory"]
        print(  # noqa: T201
            f"{where}, {what}: advisory {found['advisory']:.3f} ms, lease {found['lease']:.3f} ms, {ratio:.2f}x"
        )
    # A lease writes two rows where an advisory lock writes none, whatever the refresh does.
    assert medians["the right alone"]["lease"] < 20
    assert medians["one change"]["lease"] < medians["one change"]["advisory"] * 3
