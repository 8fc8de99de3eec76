"""Row 8, schema change: columns of a distributed source are added, renamed and dropped while it is captured."""

from __future__ import annotations

import psycopg
from psycopg import sql

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine
from harness.errors import CheckFailedError, HarnessError
from harness.matrix.model import Claim, Row, RowReport
from harness.matrix.play import TOTALS, refresh_all, require_totals
from harness.matrix.proofs import prove_captured_on_workers, prove_source, prove_storage
from harness.matrix.stage import Stage, open_stage
from harness.matrix.tables import Table, public
from harness.matrix.workload import Orders

NAMES = ("totals", "channels")
CHANNELS = "SELECT {} AS channel, count(*) AS orders FROM orders GROUP BY 1"


def _buffer_columns(stage: Stage, table: Table) -> dict[str, set[str]]:
    query = (
        "SELECT substr(a.attname, 5) FROM pg_catalog.pg_attribute a WHERE a.attrelid = pg_catalog.to_regclass(%s)"
        " AND a.attnum > 0 AND NOT a.attisdropped AND a.attname LIKE 'new\\_%%'"
    )
    buffer = table.buffer.qualified
    return {node.name: {name for (name,) in node.rows(query, [buffer])} for node in stage.cluster.nodes}


def _prove_buffer_followed(stage: Stage, table: Table, what: str, there: set[str], gone: set[str]) -> None:
    seen = _buffer_columns(stage, table)
    followed = all(there <= columns and not gone & columns for columns in seen.values())
    stage.require(f"after {what} every node's buffer follows", followed, ", ".join(seen) if followed else seen)


def _require_refused(stage: Stage, name: str, column: str) -> None:
    """A refresh of a query whose column is gone is refused, and names it."""
    try:
        stage.tables.refresh(name)
    except HarnessError as error:
        stage.require(f"a refresh without column {column} is refused by its name", column in str(error), column)
        return
    raise CheckFailedError(f"{name} was refreshed without the column {column} of its query")


def _require_kept(stage: Stage, name: str, column: str) -> None:
    """DROP COLUMN without CASCADE is refused, and names the stream table."""
    try:
        stage.run(sql.SQL("ALTER TABLE orders DROP COLUMN {}").format(sql.Identifier(column)))
    except psycopg.errors.DependentObjectsStillExist as error:
        stage.require(f"column {column} is not dropped while {name} reads it", name in str(error), name)
        return
    raise CheckFailedError(f"column {column} was dropped, which {name} reads")


def run(cluster: Cluster, engine: Engine = OURS) -> RowReport:
    """Run the row on a coordinator with workers; leaves its tables in the database.

    Raises:
        CheckFailedError: a proof, the oracle or a count fails.
    """
    with open_stage(cluster, engine) as stage:
        orders = Orders()
        table = orders.table
        orders.create(stage.connection, "distributed")
        orders.insert(stage.connection)
        stage.tables.create("totals", TOTALS, schedule=None, mode="DIFFERENTIAL", placement="local")
        prove_storage(stage, public("totals"), "local")
        prove_source(stage, table, "distributed")

        # What was captured before a change of the table is applied after it, with what came since.
        orders.insert(stage.connection)
        prove_captured_on_workers(stage, table)
        stage.run("ALTER TABLE orders ADD COLUMN channel text DEFAULT 'web'")
        _prove_buffer_followed(stage, table, "ADD COLUMN", {"channel"}, set())
        orders.churn(stage.connection)
        stage.tables.refresh("totals")
        stage.require_oracle("totals")

        query = CHANNELS.format("channel")
        stage.tables.create("channels", query, schedule=None, mode="DIFFERENTIAL", placement="local")
        stage.run("UPDATE orders SET channel = 'shop' WHERE id % 2 = 0")
        stage.run("ALTER TABLE orders RENAME COLUMN note TO remark")
        _prove_buffer_followed(stage, table, "RENAME COLUMN", {"remark"}, {"note"})
        orders.churn(stage.connection)
        stage.run("ALTER TABLE orders DROP COLUMN remark")
        _prove_buffer_followed(stage, table, "DROP COLUMN", set(), {"remark"})
        orders.churn(stage.connection)
        refresh_all(stage, NAMES)

        # A column that a query reads: its new name is followed; only CASCADE drops it, and a new query mends that.
        stage.run("ALTER TABLE orders RENAME COLUMN channel TO medium")
        orders.churn(stage.connection)
        stage.run("UPDATE orders SET medium = 'phone' WHERE id % 3 = 0")
        refresh_all(stage, NAMES)
        _require_kept(stage, "channels", "medium")
        stage.run("ALTER TABLE orders DROP COLUMN medium CASCADE")
        orders.churn(stage.connection)
        _require_refused(stage, "channels", "medium")
        stage.tables.alter("channels", query=CHANNELS.format("customer_id % 2"))
        for name in NAMES:
            stage.tables.refresh(name)
        stage.require_oracle(*NAMES)
        orders.churn(stage.connection)
        refresh_all(stage, NAMES)

        prove_source(stage, table, "distributed")
        stage.require_count(table.identifier, len(orders.rows), "orders")
        require_totals(stage, orders)
        counted = stage.value(sql.SQL("SELECT sum(orders)::int FROM {}").format(sql.Identifier("channels")))
        stage.require_equal("orders in channels", counted, len(orders.rows))
        return stage.report()


ROW = Row(
    number=8,
    name="schema_change",
    title="Schema change on a distributed source",
    claim="A DDL event trigger rebuilds the triggers on the workers.",
    reality="The event trigger on the coordinator changes buffer and function in the user's own transaction, or "
    "the next write would fail (F24 to F26); the triggers stay. New names are followed in the queries; a column "
    "that a query reads is dropped with CASCADE only, and the refresh after that is refused by its name.",
    finding=Claim.HOLDS_CHANGED,
    run=run,
)
