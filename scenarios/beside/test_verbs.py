"""Each verb of the interface, on both engines: create, refresh, alter, drop, status, and what capture leaves."""

from __future__ import annotations

import psycopg
import pytest

from harness.engines import EngineRefusedError
from harness.errors import RefusedError, StreamTableNotFoundError
from harness.matrix.stage import open_stage
from harness.matrix.workload import Orders
from scenarios.fixtures.engines import Ground

COUNTS = "SELECT region, count(*) AS orders FROM orders GROUP BY region"
SUMS = "SELECT region, sum(amount) AS amount FROM orders GROUP BY region"


def test_life_of_a_stream_table(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        orders.insert(stage.connection)
        assert stage.tables.footprint("public", "orders").is_empty
        stage.tables.create("counts", COUNTS, mode="DIFFERENTIAL")
        stage.require_oracle("counts")
        standing = stage.tables.standing("counts")
        assert (standing.name, standing.mode, standing.status) == ('"public"."counts"', "DIFFERENTIAL", "ACTIVE")
        assert standing.is_populated
        assert standing.consecutive_errors == 0

        orders.churn(stage.connection)
        found = stage.tables.footprint("public", "orders")
        assert found.events == {"INSERT", "UPDATE", "DELETE", "TRUNCATE"}
        assert not found.is_by_row, "statement triggers, with transition tables"
        assert found.waiting > 0
        assert found.size_bytes > 0
        assert found.functions
        stage.tables.refresh("counts")
        stage.require_oracle("counts")

        stage.tables.alter("counts", query=SUMS)
        stage.require_oracle("counts")
        orders.churn(stage.connection)
        stage.tables.refresh("counts")
        stage.require_oracle("counts")

        stage.tables.drop("counts")
        assert stage.tables.footprint("public", "orders").is_empty, "nothing of capture stays"
        assert stage.value("SELECT to_regclass('counts')") is None
        with pytest.raises(StreamTableNotFoundError):
            stage.tables.standing("counts")
        orders.churn(stage.connection)
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")


def test_nonsense_is_refused_and_leaves_nothing(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        Orders().create(stage.connection, "local")
        for query in ("SELECT nothing FROM orders", "SELECT FROM WHERE", "DELETE FROM orders"):
            with pytest.raises(RefusedError):
                stage.tables.create("kept", query)
        assert stage.value("SELECT to_regclass('kept')") is None
        assert stage.tables.footprint("public", "orders").is_empty
        with pytest.raises(RefusedError):
            stage.tables.refresh("nowhere")
        with pytest.raises(RefusedError):
            stage.tables.drop("nowhere")


def test_direct_writes_to_a_stream_table_are_refused(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        orders.insert(stage.connection)
        stage.tables.create("counts", COUNTS, mode="DIFFERENTIAL")
        for statement in ("DELETE FROM counts", "UPDATE counts SET orders = 0", "TRUNCATE counts"):
            with pytest.raises(psycopg.Error):
                stage.run(statement)
        stage.require_oracle("counts")


def test_two_readers_have_one_capture(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        orders.insert(stage.connection)
        stage.tables.create("counts", COUNTS, mode="DIFFERENTIAL")
        one = stage.tables.footprint("public", "orders")
        stage.tables.create("sums", SUMS, mode="DIFFERENTIAL")
        assert stage.tables.footprint("public", "orders").triggers == one.triggers
        orders.churn(stage.connection)
        for name in ("counts", "sums"):
            stage.tables.refresh(name)
        stage.require_oracle("counts", "sums")
        stage.tables.drop("counts")
        orders.churn(stage.connection)
        stage.tables.refresh("sums")
        stage.require_oracle("sums")


def test_refused_error_keeps_the_servers_code() -> None:
    error = EngineRefusedError("words", sqlstate="0A000")
    assert isinstance(error, RefusedError)
    assert (error.sqlstate, error.exit_code) == ("0A000", 2)
