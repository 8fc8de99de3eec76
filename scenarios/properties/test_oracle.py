"""The oracle itself: it finds each kind of difference, and no difference where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from harness.chain.runner import upgrade
from harness.clusters import Cluster
from harness.errors import CheckFailedError, StreamTableNotFoundError
from harness.postgres import Node
from harness.postgres.deadlines import DeadlineConnection
from harness.trickle.oracle import assert_equal, compare

UPDATE = sql.SQL("UPDATE {} SET {}")
ROWS = "INSERT INTO source VALUES (1, 'a', 1.50, NULL), (1, 'a', 1.50, NULL), (2, NULL, NULL, now()), (3, '', 0, NULL)"


@pytest.fixture
def connection(database: Node) -> Iterator[DeadlineConnection]:
    """A database at head with a source, and a table beside it that says of itself that it is a stream table."""
    upgrade(database.dsn())
    with database.connect() as opened:
        opened.execute("CREATE TABLE source (id integer, name text, amount numeric, at timestamptz)")
        opened.execute("CREATE TABLE kept (__pgt_row_id bigint, id integer, name text, amount numeric, at timestamptz)")
        opened.execute(ROWS)
        opened.execute("INSERT INTO kept SELECT row_number() OVER (), * FROM source")
        _register(opened, "kept", "SELECT id, name, amount, at FROM public.source")
        yield opened


def _register(connection: psycopg.Connection[tuple[object, ...]], table: str, query: str) -> None:
    connection.execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_name, pgt_schema, defining_query)"
        " VALUES (%s::regclass, %s, 'public', %s)",
        [table, table, query],
    )


def test_oracle_equal_tables_differ_in_nothing(connection: DeadlineConnection) -> None:
    assert compare(connection, "kept").is_equal
    assert compare(connection, "public.kept").is_equal
    assert_equal(connection, "kept")
    assert connection.execute("SELECT count(*) FROM pg_class WHERE relname ~ 'oracle'").fetchone() == (0,)


@pytest.mark.parametrize(
    ("change", "missing", "extra"),
    [
        ("DELETE FROM kept WHERE id = 3", 1, 0),
        ("DELETE FROM kept WHERE __pgt_row_id = 1", 1, 0),
        ("INSERT INTO kept SELECT * FROM kept WHERE id = 3", 0, 1),
        ("INSERT INTO kept SELECT * FROM kept WHERE id = 1", 0, 2),
        ("UPDATE kept SET amount = 0.01 WHERE id = 3", 1, 1),
        ("UPDATE kept SET amount = 0 WHERE id = 2", 1, 1),
        ("UPDATE kept SET name = NULL WHERE id = 3", 1, 1),
        ("INSERT INTO kept VALUES (9, NULL, NULL, NULL, NULL)", 0, 1),
        ("TRUNCATE kept", 4, 0),
        ("TRUNCATE source", 0, 4),
    ],
    ids=[
        "row-gone",
        "one-of-equals",
        "row-doubled",
        "both-doubled",
        "value",
        "null",
        "to-null",
        "nulls",
        "all",
        "none",
    ],
)
def test_oracle_difference_is_found(connection: DeadlineConnection, change: str, missing: int, extra: int) -> None:
    connection.execute(sql.SQL(change))
    found = compare(connection, "kept")
    assert (found.missing, found.extra) == (missing, extra)
    assert sum(example.startswith("missing") for example in found.examples) == missing
    with pytest.raises(AssertionError, match=f"{missing} rows missing, {extra} extra"):
        assert_equal(connection, "kept")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE kept SET amount = 1.500000 WHERE id = 1",
        "UPDATE kept SET __pgt_row_id = -__pgt_row_id",
        "ALTER TABLE kept ADD COLUMN __pgt_count bigint DEFAULT 7",
    ],
    ids=["scale-of-a-numeric", "row-ids", "hidden-columns"],
)
def test_oracle_what_is_no_difference_is_none(connection: DeadlineConnection, change: str) -> None:
    connection.execute(sql.SQL(change))
    assert compare(connection, "kept").is_equal


def test_oracle_as_text_tells_equal_values_apart(connection: DeadlineConnection) -> None:
    assert compare(connection, "kept", as_text=True).is_equal
    connection.execute("UPDATE kept SET amount = 1.500 WHERE id = 1")
    assert compare(connection, "kept").is_equal
    found = compare(connection, "kept", as_text=True)
    assert (found.missing, found.extra) == (2, 2)


def test_oracle_values_without_equality_are_compared_as_text(connection: DeadlineConnection) -> None:
    connection.execute("CREATE DOMAIN document AS json")
    connection.execute(
        "CREATE TABLE odd AS SELECT '{\"a\": 1}'::json AS j, '(1,2)'::point AS p, '[1,2]'::document AS d,"
        " ARRAY['{}'::json] AS many, 'x'::varchar(9) AS v, NULL::box AS b"
    )
    connection.execute("CREATE TABLE kept_odd AS TABLE odd")
    _register(connection, "kept_odd", "SELECT j, p, d, many, v, b FROM public.odd")
    assert compare(connection, "kept_odd").is_equal
    for change in ("j = '{}'", "p = '(1,3)'", "d = NULL", "many = '{}'", "v = 'y'", "b = '(1,1),(2,2)'"):
        with connection.transaction(force_rollback=True):
            connection.execute(UPDATE.format(sql.Identifier("kept_odd"), sql.SQL(change)))
            assert not compare(connection, "kept_odd").is_equal, change


def test_oracle_floats_are_compared_by_their_significant_digits(connection: DeadlineConnection) -> None:
    connection.execute(
        "CREATE TABLE floats AS SELECT v, CASE WHEN v < 1 THEN v::float4 END AS r"
        " FROM unnest('{0.3, 1e300, -1e-30, NaN, Infinity, NULL}'::float8[]) v"
    )
    connection.execute("CREATE TABLE kept_floats AS TABLE floats")
    _register(connection, "kept_floats", "SELECT v, r FROM public.floats")
    assert compare(connection, "kept_floats").is_equal
    connection.execute("UPDATE kept_floats SET v = 0.1::float8 + 0.2, r = 0.30000002 WHERE v BETWEEN 0.2 AND 0.4")
    assert compare(connection, "kept_floats").is_equal
    for change in (
        "v = 0.30000001 WHERE v < 0.31",
        "v = 1 WHERE v = 'NaN'",
        "v = 0 WHERE v IS NULL",
        "v = -v",
        "r = 0.3001",
    ):
        with connection.transaction(force_rollback=True):
            connection.execute(UPDATE.format(sql.Identifier("kept_floats"), sql.SQL(change)))
            assert not compare(connection, "kept_floats").is_equal, change


def test_oracle_columns_of_any_name_are_compared(connection: DeadlineConnection) -> None:
    connection.execute('CREATE TABLE named AS SELECT 1 AS m, 2 AS e, 3 AS kept, 4 AS wanted, 5 AS missing, 6 AS "Q"')
    connection.execute("CREATE TABLE kept_named AS SELECT * FROM named WHERE false")
    _register(connection, "kept_named", "SELECT * FROM public.named")
    assert compare(connection, "kept_named").examples == ("missing (1,2,3,4,5,6)",)


def test_oracle_unknown_stream_table_is_named(connection: DeadlineConnection) -> None:
    with pytest.raises(StreamTableNotFoundError, match="nowhere"):
        compare(connection, "nowhere")
    with pytest.raises(StreamTableNotFoundError, match="source"):
        compare(connection, "source")


def test_oracle_other_columns_than_the_query_has_are_an_error(connection: DeadlineConnection) -> None:
    connection.execute("ALTER TABLE kept ADD COLUMN stray integer")
    with pytest.raises(CheckFailedError, match="5 columns"):
        compare(connection, "kept")


@pytest.mark.citus(">= 13")
@pytest.mark.parametrize("placement", ["local", "reference", "distributed"])
def test_oracle_on_citus_finds_the_same(citus_database: Cluster, placement: str) -> None:
    coordinator = citus_database.coordinator
    upgrade(coordinator.dsn())
    with coordinator.connect() as connection:
        connection.execute("CREATE TABLE a (id integer, other integer)")
        connection.execute("CREATE TABLE b (id integer, name text)")
        connection.execute("CREATE TABLE kept (__pgt_row_id bigint, id integer, name text)")
        for table in ("a", "b"):
            connection.execute("SELECT create_distributed_table(%s, 'id')", [table])
        if placement == "distributed":
            connection.execute("SELECT create_distributed_table('kept', '__pgt_row_id')")
        elif placement == "reference":
            connection.execute("SELECT create_reference_table('kept')")
        connection.execute("INSERT INTO a SELECT i, i % 7 FROM generate_series(1, 50) i")
        connection.execute("INSERT INTO b SELECT i, 'n' || i FROM generate_series(0, 6) i")
        # A join on other columns than the distribution columns: it has to be repartitioned (F23).
        query = "SELECT a.id, b.name FROM public.a JOIN public.b ON a.other = b.id"
        with connection.transaction():
            connection.execute("SET LOCAL citus.enable_repartition_joins = on")
            connection.execute("CREATE TEMPORARY TABLE made AS SELECT a.id, b.name FROM a JOIN b ON a.other = b.id")
        connection.execute("INSERT INTO kept SELECT id, id, name FROM made")
        _register(connection, "kept", query)
        assert compare(connection, "kept").is_equal
        connection.execute("DELETE FROM kept WHERE id = 4")
        connection.execute("UPDATE kept SET name = 'other' WHERE __pgt_row_id = 5")
        found = compare(connection, "kept")
        assert (found.missing, found.extra) == (2, 1)
        assert "extra (5,other)" in found.examples
