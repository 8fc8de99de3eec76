"""Each verb of the interface, on both engines: create, refresh, alter, drop, status, and what capture leaves."""

from __future__ import annotations

import psycopg
import pytest

from harness.engines import EngineRefusedError
from harness.errors import RefusedError, StreamTableNotFoundError
from harness.matrix.play import TOTALS
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


@pytest.mark.pg_trickle(
    "wrong",
    match=r"counts does not equal its query: \d rows are missing, \d are too many",
    reason="0.67: the column of the old query is renamed and keeps its type, so that sums lose their cents",
)
def test_another_query_by_alter_is_followed(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        orders.insert(stage.connection)
        stage.tables.create("counts", COUNTS, mode="DIFFERENTIAL")
        stage.tables.alter("counts", query=SUMS)
        stage.require_oracle("counts")
        orders.churn(stage.connection)
        stage.tables.refresh("counts")
        stage.require_oracle("counts")


@pytest.mark.pg_trickle(
    "unlike",
    match="relation changes_d6ad704b2cddddcd",
    reason="0.67: the change buffer stays, with its rows, after its last reader is dropped",
)
def test_drop_leaves_nothing_and_the_source_goes_on(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        orders.insert(stage.connection)
        stage.tables.create("counts", COUNTS, mode="DIFFERENTIAL")
        orders.churn(stage.connection)
        stage.tables.drop("counts")
        assert stage.value("SELECT to_regclass('counts')") is None
        with pytest.raises(StreamTableNotFoundError):
            stage.tables.standing("counts")
        orders.churn(stage.connection)
        stage.require_count(orders.table.identifier, len(orders.rows), "orders")
        left = stage.tables.footprint("public", "orders")
        assert left.is_empty, f"trigger {left.triggers}, relation {', '.join(left.relations)}, {left.waiting} rows"


@pytest.mark.pg_trickle(
    "wrong",
    match='column "amount" of relation "changes_d6ad704b2cddddcd" does not exist',
    reason="0.67: the buffer that stayed lacks the columns of the next reader, and every write to the source fails",
)
def test_reader_of_other_columns_after_the_last_one_was_dropped(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        orders.insert(stage.connection)
        stage.tables.create("counts", COUNTS, mode="DIFFERENTIAL")
        stage.tables.drop("counts")
        stage.tables.create("sums", SUMS, mode="DIFFERENTIAL")
        try:
            orders.churn(stage.connection)
        except psycopg.Error as error:
            pytest.fail(f"a write to the source failed: {error}", pytrace=False)
        stage.tables.refresh("sums")
        stage.require_oracle("sums")


@pytest.mark.pg_trickle(
    "unlike",
    match='prepared statement "__pgt_merge_1" does not exist',
    reason="0.67: psycopg sends DEALLOCATE ALL by itself after a ROLLBACK or a DROP; the session's next refresh fails",
)
def test_session_that_deallocates_all_still_refreshes(ground: Ground) -> None:
    with open_stage(ground.cluster, ground.engine) as stage:
        orders = Orders()
        orders.create(stage.connection, "local")
        orders.insert(stage.connection, 2000)
        stage.tables.create("totals", TOTALS, mode="DIFFERENTIAL")
        for _round in range(6):
            orders.raise_amounts(stage.connection, orders.some(3))
            stage.tables.refresh("totals")
            stage.require_oracle("totals")
            stage.run("DEALLOCATE ALL")


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
