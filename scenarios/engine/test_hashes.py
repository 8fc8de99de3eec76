"""Two different keys with one hash: found, never merged."""

from __future__ import annotations

import pytest
from psycopg import sql

from harness.errors import HashCollisionError
from harness.postgres import Node
from harness.trickle.delta.rows import row_hash
from scenarios.engine.shop import Connection, open_shop, refreshed

# Groups by json, which has no hash of its own, with one that is the same for all of them: a collision that is real.
COLLIDING = """
CREATE FUNCTION same_json(json, json) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT $1::text = $2::text $$;
CREATE FUNCTION seven(json) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT 7 $$;
CREATE FUNCTION seven(json, bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS $$ SELECT 7::bigint $$;
CREATE OPERATOR pg_catalog.= (leftarg = json, rightarg = json, function = same_json, hashes, merges, commutator =
    OPERATOR(pg_catalog.=));
CREATE OPERATOR CLASS all_seven DEFAULT FOR TYPE json USING hash AS OPERATOR 1 pg_catalog.=, FUNCTION 1 seven(json),
    FUNCTION 2 seven(json, bigint);
CREATE TABLE keyed (id int PRIMARY KEY, k json, v int);
INSERT INTO keyed VALUES (1, '"a"', 1), (2, '"a"', 2);
"""
BY_KEY = "SELECT k, count(*) AS n, sum(v) AS s FROM keyed GROUP BY k"


def test_second_key_of_one_hash_is_an_error_that_changes_nothing(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        _be_able_to_write_the_catalog(connection)
        stream_tables.create("by_key", BY_KEY, None, "DIFFERENTIAL")
        connection.execute("INSERT INTO keyed VALUES (3, '\"b\"', 5), (4, '\"a\"', 3)")
        for attempt in (1, 2):
            with pytest.raises(HashCollisionError, match="by_key") as raised:
                stream_tables.refresh("by_key")
            assert raised.value.hint
            assert connection.execute("SELECT k::text, n, s FROM by_key").fetchall() == [('"a"', 2, 3)]
            (status,) = stream_tables.status()
            assert status.pending == {"public.keyed": 2}, "nothing was consumed"
            assert status.stream_table.consecutive_errors == attempt
        connection.execute("DELETE FROM keyed WHERE id = 3")
        refreshed(connection, stream_tables, "by_key")
        assert connection.execute("SELECT k::text, n, s FROM by_key").fetchall() == [('"a"', 3, 6)]


def test_table_whose_keys_have_one_hash_is_not_created(database: Node) -> None:
    with open_shop(database) as (connection, stream_tables):
        _be_able_to_write_the_catalog(connection)
        connection.execute("INSERT INTO keyed VALUES (3, '\"b\"', 5)")
        with pytest.raises(HashCollisionError, match="by_key"):
            stream_tables.create("by_key", BY_KEY, None, "DIFFERENTIAL")
        assert stream_tables.list() == []
        assert connection.execute("SELECT to_regclass('by_key')").fetchone() == (None,)
        assert connection.execute("SELECT count(*) FROM pgtrickle.pgt_change_tracking").fetchone() == (0,)


def _be_able_to_write_the_catalog(connection: Connection) -> None:
    connection.execute("SET allow_system_table_mods = on")
    connection.execute(COLLIDING)
    connection.execute("RESET allow_system_table_mods")


@pytest.mark.parametrize("query", ["SELECT note FROM orders", "SELECT id, note FROM orders"])
def test_row_with_the_hash_of_another_is_not_taken_for_it(database: Node, query: str) -> None:
    """The stored row 'n1' gets the row id of the row that comes."""
    with open_shop(database) as (connection, stream_tables):
        stream_tables.create("notes", query, None, "DIFFERENTIAL")
        came = "'new'::text" if query.startswith("SELECT note") else "9001, 'new'::text"
        connection.execute("BEGIN")
        connection.execute("SET LOCAL pgtrickle.refreshing = 'on'")
        connection.execute(
            sql.SQL(
                "UPDATE notes SET __pgt_row_id = {} WHERE ctid = (SELECT ctid FROM notes WHERE note = 'n1' AND"
                " __pgt_ordinal = 0 LIMIT 1)"
            ).format(row_hash([sql.SQL(came)]))
        )
        connection.execute("COMMIT")
        connection.execute("INSERT INTO orders (id, customer, note) VALUES (9001, 1, 'new')")
        refreshed(connection, stream_tables, "notes")
        row = connection.execute("SELECT count(*) FROM notes WHERE note = 'new'").fetchone()
        assert row == (1,)
