"""Values at the edge: the smallest number that a type has."""

from __future__ import annotations

import pytest

from harness.postgres import Node
from scenarios.engine.shop import open_shop, refreshed

SMALLEST = "INSERT INTO big VALUES (1, -9223372036854775808, -2147483648, -32768)"
SUMS = "SELECT count(*) AS n, sum({0}) AS s, avg({0}) AS a FROM big"


@pytest.mark.parametrize("column", ["b", "i", "s"])
def test_smallest_number_of_its_type_comes_and_goes(database: Node, column: str) -> None:
    """Taken back it is its own negative, which its type does not have."""
    with open_shop(database) as (connection, stream_tables):
        connection.execute("CREATE TABLE big (id int PRIMARY KEY, b bigint, i int, s smallint)")
        connection.execute(SMALLEST)
        connection.execute("INSERT INTO big VALUES (2, 9223372036854775807, 2147483647, 32767)")
        stream_tables.create("sums", SUMS.format(column), None, "DIFFERENTIAL")
        for change in (
            "DELETE FROM big WHERE id = 1",
            SMALLEST,
            "UPDATE big SET b = b + 1, i = i + 1, s = s + 1 WHERE id = 1",
        ):
            connection.execute(change.encode())
            assert refreshed(connection, stream_tables, "sums").action == "DIFFERENTIAL"
