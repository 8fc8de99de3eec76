"""What the rows about one distributed table share: the orders, two stream tables of them, where all of it is."""

from __future__ import annotations

from harness.matrix.play import LARGE, TOTALS
from harness.matrix.proofs import prove_captured_on_workers, prove_source, prove_storage
from harness.matrix.stage import Stage
from harness.matrix.tables import public
from harness.matrix.workload import Orders

NAMES = ("totals", "large")


def distributed_orders(stage: Stage, placement: str) -> Orders:
    """Make the orders and the stream tables `NAMES` over them, and prove where all of it is.

    Args:
        stage: of the row, on a coordinator with workers.
        placement: of the stream tables.

    Returns:
        The orders, with changes waiting that more than one node captured.

    Raises:
        CheckFailedError: a proof fails.
    """
    orders = Orders()
    orders.create(stage.connection, "distributed")
    orders.insert(stage.connection)
    for name, query in zip(NAMES, (TOTALS, LARGE), strict=True):
        stage.tables.create(name, query, schedule=None, mode="DIFFERENTIAL", placement=placement)
        prove_storage(stage, public(name), placement)
    prove_source(stage, orders.table, "distributed")
    orders.insert(stage.connection)
    prove_captured_on_workers(stage, orders.table)
    return orders


def require_horizons(stage: Stage, orders: Orders) -> None:
    """The frontier has to know every worker.

    Raises:
        CheckFailedError: it does not.
    """
    horizons = set(stage.frontier("totals", orders.table).get("horizons", ()))
    stage.require("the frontier has a horizon of every worker", {"1", "2"} <= horizons, sorted(horizons))
