"""Types whose equality is not in pg_catalog, such as citext: their own is used, wherever a query compares."""

from __future__ import annotations

import pytest

from harness.postgres import Node
from scenarios.engine.shop import open_shop, refreshed
from scenarios.fixtures.skips import skip_environment

TABLE = """
CREATE EXTENSION citext;
CREATE TABLE places (id int PRIMARY KEY, name citext, v int);
INSERT INTO places VALUES (1, 'Aa', 1), (2, 'b', 2), (3, 'aA', 3), (4, NULL, 4);
"""
QUERIES = {
    "group": "SELECT name, count(*) AS n, sum(v) AS s FROM places GROUP BY name",
    "group with extremes": "SELECT name, min(v) AS low, max(v) AS high FROM places GROUP BY name",
    "having": "SELECT name, count(*) AS n FROM places GROUP BY name HAVING count(*) > 1",
    "distinct": "SELECT DISTINCT name FROM places",
    "union": "SELECT name FROM places UNION SELECT name FROM places WHERE v > 1",
    "count distinct": "SELECT v % 2 AS odd, count(DISTINCT name) AS n FROM places GROUP BY 1",
    "on": "SELECT a.id, b.id AS other FROM places a JOIN places b ON a.name = b.name",
    "using": "SELECT a.id, b.id AS other FROM places a JOIN places b USING (name)",
    "case": "SELECT id, CASE name WHEN 'AA' THEN 1 ELSE 0 END AS c FROM places",
    "distinct from": "SELECT id, name IS DISTINCT FROM 'AA'::citext AS c FROM places",
    "nullif": "SELECT id, nullif(name, 'AA') AS c FROM places",
    "extremes of it": "SELECT v % 2 AS odd, min(name) AS low, max(name) AS high FROM places GROUP BY 1",
    "rows": "SELECT name FROM places WHERE name <> 'x'",
}
CHANGES = (
    "INSERT INTO places VALUES (5, 'AA', 5), (6, 'B', 6)",
    "UPDATE places SET name = 'B' WHERE id = 1",
    "DELETE FROM places WHERE id = 2",
    "UPDATE places SET name = upper(name::text)::citext",
)


@pytest.mark.parametrize("mode", ["AUTO", "FULL"])
def test_citext_is_compared_as_citext(database: Node, mode: str) -> None:
    with open_shop(database) as (connection, stream_tables):
        found = connection.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'").fetchone()
        if found == (0,):
            skip_environment("extension citext is not installed")
        connection.execute(TABLE)
        for number, query in enumerate(QUERIES.values()):
            stream_tables.create(f"kept_{number}", query, None, mode)
            refreshed(connection, stream_tables, f"kept_{number}")
        for change in CHANGES:
            connection.execute(change.encode())
            for number, construct in enumerate(QUERIES):
                done = refreshed(connection, stream_tables, f"kept_{number}")
                assert done.action in {"DIFFERENTIAL", "FULL", "NO_DATA"}, (construct, done.reason)
