"""What explain says: the mode and why, the statements in order, what Citus does where."""

from __future__ import annotations

import pytest

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.postgres import Node
from harness.trickle import StreamTables
from scenarios.engine.shop import CHANGES, TOTALS, open_shop, refreshed

SPREAD_OVER_WORKERS = (
    "CREATE TABLE sales (customer int NOT NULL, id int, amount numeric, kind text, PRIMARY KEY (customer, id))",
    "SELECT create_distributed_table('sales', 'customer', shard_count => 4)",
    "INSERT INTO sales SELECT i % 20, i, i % 7, 'k' || i % 4 FROM generate_series(1, 200) i",
)
BY_CUSTOMER = "SELECT customer, count(*) AS n, sum(amount) AS total FROM sales GROUP BY customer"
BY_KIND = "SELECT kind, count(*) AS n FROM sales GROUP BY kind"


def test_explanation_shows_the_statements_and_runs_none_of_them(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "DIFFERENTIAL")
        before = connection.execute("SELECT * FROM totals ORDER BY customer").fetchall()
        connection.execute(CHANGES)
        pending = stream_tables.status("totals")[0].pending
        explained = stream_tables.explain("totals")
        assert explained.stream_table == '"public"."totals"'
        assert (explained.mode, explained.strategy) == ("DIFFERENTIAL", "groups merge")
        assert [purpose for purpose, _query in explained.statements] == ["the groups follow"]
        assert explained.statements[0][1].count('MERGE INTO "public"."totals"') == 1
        assert "pgtrickle_changes" in explained.statements[0][1]
        assert (explained.pushdown, explained.notes) == ((), ())
        assert connection.execute("SELECT * FROM totals ORDER BY customer").fetchall() == before
        assert stream_tables.status("totals")[0].pending == pending
        assert refreshed(connection, stream_tables, "totals").strategy == explained.strategy


def test_explanation_of_a_recomputed_query_is_the_query(database: Node) -> None:
    with open_shop(database) as (_connection, stream_tables):
        stream_tables.create("newest", "SELECT id FROM orders ORDER BY id DESC LIMIT 3", None)
        explained = stream_tables.explain("newest")
        assert (explained.mode, explained.reason, explained.strategy) == ("FULL", "LIMIT", "whole")
        ((purpose, query),) = explained.statements
        assert purpose == "the query, recomputed"
        assert "LIMIT 3" in query


def test_explanation_of_mode_full_says_that_it_was_asked_for(database: Node) -> None:
    with open_shop(database) as (_connection, stream_tables):
        stream_tables.create("totals", TOTALS, None, "FULL")
        explained = stream_tables.explain("totals")
        assert (explained.mode, explained.reason) == ("FULL", "mode FULL")


def test_explanation_says_from_how_many_changes_on_auto_recomputes(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("totals", TOTALS, None)
        connection.execute("UPDATE pgtrickle.pgt_stream_tables SET last_full_ms = 50, differential_us_per_change = 100")
        assert "from about 500 changes on" in stream_tables.explain("totals").reason
        connection.execute("UPDATE pgtrickle.pgt_stream_tables SET last_full_ms = 0.1")
        assert "from about 100 changes on" in stream_tables.explain("totals").reason, "fewer are no reason"


@pytest.mark.parametrize(
    ("query", "is_noted"),
    [
        ("SELECT customer, sum(score) AS s FROM orders GROUP BY customer", True),
        ("SELECT customer, avg(score::float4) AS s FROM orders GROUP BY customer", True),
        ("SELECT customer, max(score) AS s FROM orders GROUP BY customer", False),
        ("SELECT customer, sum(amount) AS s, avg(id) AS a FROM orders GROUP BY customer", False),
    ],
)
def test_sums_of_floats_are_noted_and_exact_ones_are_not(database: Node, query: str, is_noted: bool) -> None:
    with open_shop(database) as (_connection, stream_tables):
        stream_tables.create("scores", query, None)
        assert bool(stream_tables.explain("scores").notes) == is_noted


@pytest.mark.citus(">= 13")
def test_explanation_says_what_citus_pushes_down(citus_database: Cluster) -> None:
    upgrade(citus_database.coordinator.dsn())
    with citus_database.coordinator.connect() as connection, StreamTables(connection) as stream_tables:
        for statement in SPREAD_OVER_WORKERS:
            connection.execute(statement.encode())
        stream_tables.create("colocated", BY_CUSTOMER, None, "DIFFERENTIAL", "distributed")
        stream_tables.create("by_row_id", BY_KIND, None, "DIFFERENTIAL", "distributed")
        stream_tables.create("everywhere", BY_KIND, None, "DIFFERENTIAL", "reference")
        stream_tables.create("here", BY_KIND, None, "DIFFERENTIAL", "local")
        stream_tables.create("whole", BY_CUSTOMER, None, "FULL", "distributed")

        colocated = stream_tables.explain("colocated")
        assert colocated.strategy == "groups merge"
        assert colocated.pushdown == ("the groups follow: pushed down, 4 tasks",), "one statement, shard by shard"
        for name, strategy in (("by_row_id", "groups staged"), ("everywhere", "groups staged")):
            explained = stream_tables.explain(name)
            assert explained.strategy == strategy
            assert explained.pushdown[0] == "the change of each group: pushed down, 4 tasks"
            assert any("by way of the coordinator" in line for line in explained.pushdown)
        here = stream_tables.explain("here")
        assert here.strategy == "groups staged_merge"
        assert here.pushdown[-1] == "the groups follow: runs on the coordinator"
        assert stream_tables.explain("whole").pushdown == ("the query, recomputed: pushed down, 4 tasks",)
        for name in ("colocated", "by_row_id", "everywhere", "here", "whole"):
            explained = stream_tables.explain(name)
            assert len(explained.pushdown) == len(explained.statements)
            assert not any("no plan" in line for line in explained.pushdown)
