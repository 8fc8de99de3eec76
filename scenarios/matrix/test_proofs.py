"""A proof that cannot fail proves nothing: a source whose capture is not what it should be."""

from __future__ import annotations

import pytest

from harness.clusters import Cluster
from harness.errors import CheckFailedError
from harness.matrix.play import TOTALS
from harness.matrix.proofs import prove_source
from harness.matrix.stage import open_stage
from harness.matrix.workload import Orders
from harness.postgres import Node


def test_trigger_too_many_on_a_local_source_is_found(database: Node) -> None:
    with open_stage(Cluster("plain", database, ())) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        stage.tables.create("totals", TOTALS, schedule=None, mode="DIFFERENTIAL", placement="local")
        prove_source(stage, orders.table, "local")
        stage.run("CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        stage.run("CREATE TRIGGER pg_trickle_cdc_ins_again AFTER INSERT ON orders EXECUTE FUNCTION again()")
        with pytest.raises(CheckFailedError, match="orders has its triggers"):
            prove_source(stage, orders.table, "local")
