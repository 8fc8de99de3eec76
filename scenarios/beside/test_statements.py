"""Each kind of statement on a source, on both engines: the stream tables that read it follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from scenarios.beside.shops import Shop
from scenarios.beside.sources import Source, make, read
from scenarios.capture import test_statements

QUERIES: dict[str, LiteralString] = {
    "rows": "SELECT id, k, v, n FROM {t}",
    "groups": "SELECT k, count(*) AS c, count(v) AS w, sum(n) AS s, max(v) AS m FROM {t} GROUP BY k",
}
KEY: LiteralString = "UPDATE {t} SET id = id + 1000 WHERE id <= 5"


@pytest.fixture
def source(shop: Shop) -> Iterator[Source]:
    with read(make(shop, test_statements.COLUMNS, test_statements.ROWS), QUERIES) as made:
        yield made


def test_each_kind_of_statement_is_followed(source: Source) -> None:
    for name, (statement, _gone, _come) in test_statements.STATEMENTS.items():
        source.run(statement)
        try:
            source.refreshed()
        except AssertionError as error:
            error.add_note(f"after {name}")
            raise
        source.run("DELETE FROM {t}")
        source.run(test_statements.ROWS)
        source.refreshed()


def test_update_of_a_key_is_followed(source: Source) -> None:
    source.run(KEY)
    source.refreshed()


def test_copy_is_followed(source: Source) -> None:
    test_statements.copy_rows(source, range(500, 560))
    source.refreshed()


def test_copy_that_fails_leaves_nothing(source: Source) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        test_statements.copy_rows(source, (900, 901, 902, 900))
    source.refreshed()


def test_merge_is_followed(source: Source, shop: Shop) -> None:
    other = make(shop, test_statements.MERGED_COLUMNS, name="other")
    test_statements.fill_merged(shop.connection, other.table)
    test_statements.merge_rows(source, other.table)
    source.refreshed()


def test_truncate_is_followed_with_what_comes_after_it(source: Source) -> None:
    source.run("DELETE FROM {t} WHERE id < 5")
    source.run("TRUNCATE {t}")
    source.run("INSERT INTO {t} VALUES (1, 1, 'after', 1)")
    source.refreshed()
    source.run("UPDATE {t} SET n = 2")
    source.refreshed()


def test_truncate_rolled_back_leaves_nothing(source: Source) -> None:
    with source.connection.transaction(force_rollback=True):
        source.run("TRUNCATE {t}")
    source.refreshed()


def test_cascade_of_a_foreign_key_is_followed(shop: Shop) -> None:
    parent = make(shop, "(id integer PRIMARY KEY)", "INSERT INTO {t} SELECT generate_series(1, 10)", "parent")
    child = make(
        shop,
        "(id integer REFERENCES parent ON DELETE CASCADE, c integer, PRIMARY KEY (id, c))",
        "INSERT INTO {t} SELECT i, c FROM generate_series(1, 10) i, generate_series(1, 3) c",
        "child",
    )
    with read(child, {"per_c": "SELECT c, count(*) AS n FROM {t} GROUP BY c"}) as source:
        parent.run("DELETE FROM {t} WHERE id <= 4")
        source.refreshed()


def test_cursor_that_updates_where_it_stands_is_followed(source: Source) -> None:
    with source.connection.transaction():
        source.run("DECLARE walking CURSOR FOR SELECT * FROM {t} ORDER BY id, k FOR UPDATE")
        for _row in range(3):
            source.run("FETCH walking")
            source.run("UPDATE {t} SET n = n + 10 WHERE CURRENT OF walking")
        source.run("FETCH walking")
        source.run("DELETE FROM {t} WHERE CURRENT OF walking")
    source.refreshed()


def test_two_writes_in_one_statement_are_followed(source: Source) -> None:
    source.run(
        "WITH gone AS (DELETE FROM {t} WHERE id <= 10 RETURNING *), new AS"
        " (INSERT INTO {t} SELECT id + 500, k, v, n FROM gone RETURNING *)"
        " UPDATE {t} SET v = 'both' FROM new WHERE {t}.id = new.id - 480"
    )
    source.refreshed()


def test_statement_on_a_row_named_twice_is_followed(source: Source) -> None:
    """One row is updated, deleted and comes again under its key, in one transaction."""
    with source.connection.transaction():
        source.run("UPDATE {t} SET n = 100 WHERE id = 7")
        source.run("DELETE FROM {t} WHERE id = 7")
        source.run("INSERT INTO {t} VALUES (7, 1, 'again', 7)")
        source.connection.execute(sql.SQL("UPDATE {} SET k = 2 WHERE id = 7").format(source.table))
    source.refreshed()
