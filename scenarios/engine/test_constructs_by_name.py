"""One construct, one verdict: recomputed, with the words that say why; or followed by its changes."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest

from harness.errors import QueryRefusedError
from harness.postgres import DsnNode, Server
from harness.trickle import StreamTables
from scenarios.engine.shop import CHANGES, Connection, open_shop, refreshed
from scenarios.fixtures.skips import skip_not_applicable

SURROUNDINGS = """
CREATE SCHEMA app;
CREATE AGGREGATE app.sum(int) (sfunc = int4larger, stype = int);
CREATE FUNCTION app.upper(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'x' || $1 $$;
CREATE FUNCTION app.even(int, int) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT $1 % 2 = $2 % 2 $$;
CREATE OPERATOR app.= (leftarg = int, rightarg = int, function = app.even);
CREATE FUNCTION app.rate() RETURNS numeric STABLE LANGUAGE sql AS $$ SELECT 2.5 $$;
CREATE VIEW dear AS SELECT * FROM orders WHERE amount > 2;
CREATE VIEW dear_regions AS SELECT c.region, d.amount FROM dear d JOIN customers c ON c.id = d.customer;
CREATE VIEW last_three AS SELECT id FROM orders ORDER BY id DESC LIMIT 3;
CREATE TABLE doubled (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED);
DO $$ BEGIN IF current_setting('server_version_num')::int >= 180000 THEN
    EXECUTE 'ALTER TABLE doubled ADD c int GENERATED ALWAYS AS (a * 3) VIRTUAL';
END IF; END $$;
INSERT INTO doubled (id, a) SELECT i, i % 9 FROM generate_series(1, 50) i;
"""
MORE_CHANGES = """
UPDATE doubled SET a = a + 1 WHERE id % 7 = 0;
UPDATE customers SET region = 'r' || (id + 1) % 4 WHERE id % 6 = 0;
"""
# Query, and a word of the reason.
RECOMPUTED = {
    "values": ("SELECT v.i FROM (VALUES (1), (2)) v(i) JOIN orders o ON o.id = v.i", "list of values"),
    "values alone": ("VALUES (1), (2)", "values"),
    "function in from": ("SELECT o.id FROM orders o JOIN lower('N1') f ON f = o.note", "function"),
    "set-returning in from": ("SELECT o.id, u FROM orders o, unnest(ARRAY[1, 2]) u", "unnest"),
    "set-returning in select": (
        "SELECT id, regexp_split_to_table(note, 'n') AS p FROM orders",
        "regexp_split_to_table",
    ),
    "stable function": ("SELECT id, amount * app.rate() AS a FROM orders", "app.rate"),
    "stable function in a view": ("SELECT * FROM (SELECT id FROM orders WHERE placed < now()) x", "now"),
    "current_date": ("SELECT id, current_date AS today FROM orders", "CURRENT_DATE"),
    "current_user": ("SELECT id, current_user AS who FROM orders", "changes by itself"),
    "cast by settings": ("SELECT id, placed::text AS placed FROM orders", "timestamp with time zone"),
    "cast by time zone": ("SELECT id, placed::date AS day FROM orders", "date"),
    "whole row": ("SELECT o FROM orders o", "*"),
    "whole row in an aggregate": ("SELECT customer, count(o) AS n FROM orders o GROUP BY customer", "*"),
    "right join": ("SELECT o.id FROM orders o RIGHT JOIN customers c ON c.id = o.customer", "RIGHT JOIN"),
    "offset": ("SELECT id FROM orders OFFSET 3", "OFFSET"),
    "fetch": ("SELECT id FROM orders ORDER BY id FETCH FIRST 3 ROWS ONLY", "LIMIT"),
    "limit in a view": ("SELECT id FROM last_three", "LIMIT"),
    "limit below": ("SELECT x.id FROM (SELECT id FROM orders ORDER BY id LIMIT 3) x", "LIMIT"),
    "only": ("SELECT id FROM ONLY orders", "ONLY"),
    "for update": ("SELECT id FROM orders FOR UPDATE", "FOR UPDATE"),
    "window by name": ("SELECT id, rank() OVER w AS r FROM orders WINDOW w AS (ORDER BY id)", "window"),
    "aggregate as window": ("SELECT id, sum(amount) OVER (ORDER BY id) AS s FROM orders", "window"),
    "within group": (
        "SELECT customer, percentile_cont(0.5) WITHIN GROUP (ORDER BY id) AS m FROM orders GROUP BY customer",
        "percentile_cont",
    ),
    "aggregate of the same name": ("SELECT customer, app.sum(id) AS s FROM orders GROUP BY customer", "sum"),
    "array_agg": ("SELECT customer, array_agg(id ORDER BY id) AS ids FROM orders GROUP BY customer", "array_agg"),
    "bool_and": ("SELECT customer, bool_and(amount > 1) AS b FROM orders GROUP BY customer", "bool_and"),
    "grouping sets": (
        "SELECT customer, note, count(*) AS n FROM orders GROUP BY GROUPING SETS ((customer), (note))",
        "GROUPING SETS",
    ),
    "cube": ("SELECT customer, note, count(*) AS n FROM orders GROUP BY CUBE (customer, note)", "CUBE"),
    "scalar subquery": ("SELECT id, (SELECT max(id) FROM customers) AS m FROM orders", "subquery in an expression"),
    "array of a query": ("SELECT id, ARRAY(SELECT id FROM customers ORDER BY id) AS a FROM orders", "subquery"),
    "not in": ("SELECT id FROM orders WHERE customer NOT IN (SELECT id FROM customers WHERE vip)", "subquery"),
    "except all": ("SELECT customer FROM orders EXCEPT ALL SELECT id FROM customers", "EXCEPT"),
    "intersect below": (
        "SELECT x.c FROM (SELECT customer AS c FROM orders INTERSECT SELECT id FROM customers) x",
        "INTERSECT",
    ),
    "unary plus": ("SELECT id, +id AS p FROM orders", "reads otherwise than PostgreSQL"),
    "no from": ("SELECT 1 AS one", "without FROM"),
}
INCREMENTAL = {
    "view of views": "SELECT region, count(*) AS n, sum(amount) AS total FROM dear_regions GROUP BY region",
    "cte of ctes": "WITH a AS (SELECT id, customer FROM orders), b AS (SELECT * FROM a WHERE id > 9) SELECT b.id,"
    " c.region FROM b JOIN customers c ON c.id = b.customer",
    "cte read twice": "WITH a AS (SELECT id, customer FROM orders) SELECT x.id, y.id AS other FROM a x JOIN a y ON"
    " x.customer = y.customer AND x.id < y.id WHERE x.id < 40",
    "natural join": "SELECT * FROM orders NATURAL JOIN (SELECT id, region FROM customers) c",
    "cross join": "SELECT o.id, c.id AS c FROM orders o CROSS JOIN customers c WHERE o.id < 20",
    "three tables": "SELECT o.id, c.region, d.a FROM orders o JOIN customers c ON c.id = o.customer JOIN doubled d ON"
    " d.id = c.id",
    "names in upper case": 'SELECT o."id" AS "Id", count(*) AS "sum" FROM orders o GROUP BY "Id"',
    "order by": "SELECT id FROM orders ORDER BY id DESC",
    "table": "TABLE customers",
    "negative constants": "SELECT id, - 1 AS m, -amount AS a, 2 - -3 AS five FROM orders WHERE amount > -1",
    "casts": "SELECT id, note::varchar(1) AS v, amount::numeric(5, 1) AS n, id::float4 AS f, CAST(amount AS int) AS i,"
    " note::text::bytea AS b, '2020-01-01'::date + id AS d FROM orders",
    "strings": r"SELECT id, 'a\b' || note AS x, E'a\nb' AS y, 'it''s' AS z, $$do'l$$ AS w FROM orders"
    r" WHERE note <> 'a\b'",
    "words of sql": "SELECT id, substring(note from 1 for 1) AS a, position('n' in note) AS b, trim(both 'n' from note)"
    " AS c, overlay(note placing 'x' from 1) AS d, note LIKE 'n%' AS e, note SIMILAR TO 'n(1|2)' AS f FROM orders",
    "case": "SELECT id, CASE note WHEN 'n1' THEN 1 WHEN NULL THEN 2 END AS a, CASE WHEN amount > 3 THEN 'x' ELSE"
    " note END AS b, coalesce(note, '-') AS c, nullif(amount, 3) AS d, greatest(amount, id) AS e FROM orders",
    "comparisons": "SELECT id FROM orders WHERE amount BETWEEN 1 AND 5 AND amount IN (1, 2, 3) AND note IS DISTINCT"
    " FROM 'n1' AND (customer, id) > (2, 5) AND amount = ANY (ARRAY[1, 2]) AND NOT (note IS NULL)",
    "arrays and rows": "SELECT id, ARRAY[id, customer] AS a, (ARRAY[id, customer])[1] AS b, ROW(id, note)::text AS r"
    " FROM orders",
    "field of a row": "SELECT o.id, (o).note AS note FROM orders o",
    "function of one's own": "SELECT id, app.upper(note) AS u, upper(note) AS v FROM orders",
    "operator of one's own": "SELECT id FROM orders WHERE id OPERATOR(app.=) 3",
    "stored generated column": "SELECT b, count(*) AS n FROM doubled GROUP BY b",
    "virtual generated column": "SELECT id, c FROM doubled WHERE c > 6",
    "having without group by": "SELECT count(*) AS n, sum(amount) AS s FROM orders HAVING count(*) > 3",
    "union in from": "SELECT x.v, count(*) AS n FROM (SELECT note AS v FROM orders UNION ALL SELECT region FROM"
    " customers) x GROUP BY x.v",
    "distinct over groups": "SELECT DISTINCT count(*) AS n FROM orders GROUP BY customer",
    "filter": "SELECT customer, count(*) FILTER (WHERE amount > 2) AS f, sum(amount) FILTER (WHERE note = 'n1') AS s"
    " FROM orders GROUP BY customer",
}
# By what a server must be to know it.
SINCE = {"virtual generated column": ">= 18"}
VOLATILE = ("random()", "clock_timestamp()", "gen_random_uuid()", "nextval('tickets')")
LOOSE: LiteralString = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
BY_LOOSE_NOTE = "SELECT note COLLATE loose AS note, count(*) AS n FROM orders GROUP BY 1"

Shop = tuple[Connection, StreamTables]
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[Shop]:
    """One shop for all constructs: each makes a stream table of its own, and drops it."""
    dbname = f"test_{secrets.token_hex(6)}"
    server.create_database(dbname)
    node = DsnNode(dbname, server.dsn(dbname))
    try:
        with open_shop(node) as (connection, stream_tables):
            connection.execute(SURROUNDINGS)
            yield connection, stream_tables
    finally:
        node.close()
        server.drop_database(dbname)


@pytest.mark.parametrize("construct", RECOMPUTED)
def test_construct_is_recomputed_and_the_reason_names_it(shop: Shop, construct: str) -> None:
    connection, stream_tables = shop
    query, word = RECOMPUTED[construct]
    name = f"recomputed_{next(_NUMBERS)}"
    with pytest.raises(QueryRefusedError, match="has no incremental form"):
        stream_tables.create(name, query, None, "DIFFERENTIAL")
    stream_tables.create(name, query, None)
    try:
        explained = stream_tables.explain(name)
        assert explained.mode == "FULL"
        assert word.lower() in explained.reason.lower()
        connection.execute(CHANGES)
        done = refreshed(connection, stream_tables, name)
        assert (done.action, done.reason) == ("FULL", explained.reason)
        with pytest.raises(QueryRefusedError, match="has no incremental form"):
            stream_tables.refresh(name, mode="DIFFERENTIAL")
        assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)
    finally:
        stream_tables.drop(name)


@pytest.mark.parametrize(
    "construct",
    [pytest.param(name, marks=pytest.mark.postgres(SINCE[name]) if name in SINCE else ()) for name in INCREMENTAL],
)
def test_construct_follows_its_changes(shop: Shop, construct: str) -> None:
    connection, stream_tables = shop
    name = f"incremental_{next(_NUMBERS)}"
    stream_tables.create(name, INCREMENTAL[construct], None, "DIFFERENTIAL")
    try:
        for _round in range(2):
            connection.execute(CHANGES)
            connection.execute(MORE_CHANGES)
            done = refreshed(connection, stream_tables, name)
            assert done.action == "DIFFERENTIAL", done.reason
            assert done.change_count > 0
    finally:
        stream_tables.drop(name)
    assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)


@pytest.mark.parametrize("function", VOLATILE)
def test_volatile_function_is_refused_by_name_and_accepted_in_full(shop: Shop, function: str) -> None:
    connection, stream_tables = shop
    connection.execute("CREATE SEQUENCE IF NOT EXISTS tickets")
    connection.execute("DROP VIEW IF EXISTS lots")
    connection.execute(b"CREATE VIEW lots AS SELECT id, " + function.encode() + b" AS lot FROM orders")
    for query in ("SELECT id, lot FROM lots", "SELECT id FROM lots WHERE lot IS NOT NULL"):
        for mode in ("AUTO", "DIFFERENTIAL"):
            with pytest.raises(QueryRefusedError, match=function.partition("(")[0]):
                stream_tables.create("lottery", query, None, mode)
        assert stream_tables.create("lottery", query, None, "FULL").is_populated
        assert stream_tables.refresh("lottery").action == "FULL"
        stream_tables.drop("lottery")


def test_collation_that_equates_different_texts_is_recomputed(shop: Shop) -> None:
    connection, stream_tables = shop
    try:
        connection.execute(LOOSE)
    except psycopg.errors.FeatureNotSupported:
        skip_not_applicable("PostgreSQL was built without ICU, and only its collations can be non-deterministic")
    stream_tables.create("by_note", BY_LOOSE_NOTE, None)
    explained = stream_tables.explain("by_note")
    assert (explained.mode, "loose" in explained.reason) == ("FULL", True)
    stream_tables.drop("by_note")
