"""Queries that no stream table can have: refused by name, and nothing is created or changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.errors import MissingPrivilegeError, RefusedError
from harness.matrix.play import TOTALS
from harness.matrix.workload import Orders
from harness.postgres import Node, Server
from harness.trickle import StreamTables

# All that creating a stream table could leave, in one text.
STATE = """
SELECT (SELECT string_agg(c.oid::regclass::text, ',' ORDER BY c.oid) FROM pg_class c WHERE c.relnamespace >= 16384),
       (SELECT string_agg(t.tgname, ',' ORDER BY t.oid) FROM pg_trigger t),
       (SELECT string_agg(p.oid::regprocedure::text, ',' ORDER BY p.oid) FROM pg_proc p WHERE p.oid >= 16384),
       (SELECT string_agg(s::text, ',' ORDER BY s.pgt_id) FROM pgtrickle.pgt_stream_tables s),
       (SELECT string_agg(d::text, ',' ORDER BY d.pgt_id, d.source_relid) FROM pgtrickle.pgt_dependencies d),
       (SELECT string_agg(k::text, ',' ORDER BY k.source_relid) FROM pgtrickle.pgt_change_tracking k),
       (SELECT count(*)::text FROM pgtrickle.pgt_refresh_history)"""

# What is wrong, and what the error has to name.
BAD_QUERIES: dict[str, tuple[str, str | None]] = {
    "syntax_error": ("SELEKT id FROM orders", "SELEKT|syntax error"),
    "syntax_error_inside": ("SELECT id FROM orders GROUP WHERE", "GROUP|WHERE"),
    "empty": ("   ", None),
    "unknown_table": ("SELECT id FROM nowhere", "nowhere"),
    "unknown_schema": ("SELECT id FROM nowhere.orders", "nowhere"),
    "unknown_column": ("SELECT missing FROM orders", "missing"),
    "unknown_function": ("SELECT no_such_function(id) FROM orders", "no_such_function"),
    "not_grouped": ("SELECT region, note, count(*) FROM orders GROUP BY region", "note"),
    "two_statements": ("SELECT id FROM orders; DROP TABLE orders", None),
    "no_query": ("DELETE FROM orders RETURNING id", None),
    "writing_cte": ("WITH gone AS (DELETE FROM orders RETURNING id) SELECT id FROM gone", None),
    "parameter": ("SELECT id FROM orders WHERE id = $1", r"\$1|parameter"),
    "two_columns_of_one_name": ("SELECT id, region AS id FROM orders", "id"),
    "no_name_and_no_type": ("SELECT ROW(id, region) FROM orders", None),
    "random_values": ("SELECT id, random() AS dice FROM orders", "random"),
    "current_time": ("SELECT id, clock_timestamp() AS seen_at FROM orders", "clock_timestamp"),
    "sequence": ("SELECT id, nextval('numbers') AS number FROM orders", "nextval"),
    "volatile_function_of_a_user": ("SELECT id, dice(id) AS thrown FROM orders", "dice"),
    "own_column": ("SELECT id AS __pgt_row_id, region FROM orders", "__pgt_row_id"),
}


@pytest.fixture
def node(database: Node) -> Node:
    """A database at head with a table, a sequence and a volatile function."""
    upgrade(database.dsn())
    with database.connect() as connection:
        orders = Orders()
        orders.create(connection, "local")
        orders.insert(connection)
        connection.execute("CREATE SEQUENCE numbers")
        connection.execute(
            "CREATE FUNCTION dice(bigint) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT $1 + random()::bigint'"
        )
        connection.execute("CREATE TABLE taken (id int)")
        connection.execute("CREATE VIEW a_view AS SELECT 1 AS id")
    return database


@contextmanager
def nothing_changes(node: Node) -> Iterator[None]:
    """The block leaves the database as it was."""
    before = node.row(STATE)
    yield
    assert node.row(STATE) == before


@pytest.mark.parametrize(("query", "named"), BAD_QUERIES.values(), ids=list(BAD_QUERIES))
def test_bad_query_is_refused_and_nothing_is_created(node: Node, query: str, named: str | None) -> None:
    with node.connect() as connection, StreamTables(connection) as tables, nothing_changes(node):
        with pytest.raises(RefusedError, match=named) as refused:
            tables.create("wrong", query, mode="DIFFERENTIAL")
        assert refused.value.exit_code == 2
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert tables.list() == []


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("taken", "taken"),
        ("a_view", "a_view"),
        ("no_such_schema.totals", "no_such_schema"),
        ("", None),
        ("a.b.c.d", "a.b.c.d|name"),
        ('"unfinished', "unfinished|name"),
        ("pgtrickle.mine", "pgtrickle"),
    ],
)
def test_bad_name_is_refused_and_nothing_is_created(node: Node, name: str, named: str | None) -> None:
    with (
        node.connect() as connection,
        StreamTables(connection) as tables,
        nothing_changes(node),
        pytest.raises(RefusedError, match=named),
    ):
        tables.create(name, TOTALS)


def test_name_of_a_stream_table_is_taken(node: Node) -> None:
    with node.connect() as connection, StreamTables(connection) as tables:
        tables.create("totals", TOTALS)
        with nothing_changes(node), pytest.raises(RefusedError, match="totals"):
            tables.create("totals", "SELECT id FROM orders")


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "SOMETIMES"},
        {"placement": "nearby"},
        {"schedule": "now and then"},
        {"schedule": "-5s"},
        {"placement": "distributed"},
    ],
    ids=lambda options: "_".join(*options.items()).replace(" ", "_"),
)
def test_bad_option_is_refused_by_its_value(node: Node, options: dict[str, str]) -> None:
    ((_, value),) = options.items()
    with (
        node.connect() as connection,
        StreamTables(connection) as tables,
        nothing_changes(node),
        pytest.raises(RefusedError, match=value),
    ):
        tables.create("totals", TOTALS, **options)


def test_verbs_on_a_stream_table_that_is_not_there_name_it(node: Node) -> None:
    with node.connect() as connection, StreamTables(connection) as tables, nothing_changes(node):
        for verb in (tables.refresh, tables.suspend, tables.resume, tables.drop, tables.explain, tables.status):
            with pytest.raises(RefusedError, match="nobody"):
                verb("nobody")
        with pytest.raises(RefusedError, match="nobody"):
            tables.alter("nobody", schedule="5m")


def test_bad_new_query_leaves_the_old_one(node: Node) -> None:
    with node.connect() as connection, StreamTables(connection) as tables:
        tables.create("totals", TOTALS, mode="DIFFERENTIAL")
        with nothing_changes(node), pytest.raises(RefusedError, match="nowhere"):
            tables.alter("totals", query="SELECT id FROM nowhere")
        assert tables.refresh("totals").action == "NO_DATA"


def test_source_without_the_right_to_read_it_is_refused_by_name(node: Node, server: Server) -> None:
    role = f"reader_of_nothing_{node.name}"
    server.create_role(role)
    try:
        with psycopg.connect(server.dsn(node.name, user=role), autocommit=True) as connection:
            with nothing_changes(node), pytest.raises(MissingPrivilegeError, match="pgtrickle"):
                StreamTables(connection)
            node.sql(sql.SQL("GRANT USAGE ON SCHEMA pgtrickle TO {}").format(sql.Identifier(role)))
            node.sql(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA pgtrickle TO {}").format(sql.Identifier(role)))
            with nothing_changes(node), pytest.raises(MissingPrivilegeError, match="orders"):
                StreamTables(connection).create("totals", TOTALS)
    finally:
        node.sql(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        server.sql(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
