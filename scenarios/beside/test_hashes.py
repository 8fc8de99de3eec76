"""Two different keys with one 64-bit hash, on both engines: neither merged nor lost."""

from __future__ import annotations

from typing import LiteralString

import pytest

from scenarios.beside.expected import ONE_HASH
from scenarios.beside.shops import Shop, each_of
from scenarios.beside.sources import make, read

# One xxHash64 with the extension's seed 0x517cc1b727220a95: the first eight bytes change a lane, the eight after 32
# undo it (found in 2,478 attempts, by arithmetic modulo 2^64).
SAME_HASH = (
    "the text of the fillers and morestripe 2 of the fillers and more",
    "abswrbrs of the fillers and moreXPjc!^kV of the fillers and more",
)
# One text, where values are joined with a record separator before they are hashed.
SAME_JOINED = (("a\x1eb", "c"), ("a", "b\x1ec"))
QUERIES: dict[str, LiteralString] = {
    "groups": "SELECT a, count(*) AS n, sum(v) AS s FROM {t} GROUP BY a",
    "pairs": "SELECT a, b, count(*) AS n, sum(v) AS s FROM {t} GROUP BY a, b",
    "distinct": "SELECT DISTINCT a FROM {t}",
    "values": "SELECT a FROM {t}",
    "rows": "SELECT a, b, v FROM {t}",
    "joined": "SELECT x.a, y.v FROM {t} x JOIN {t} y ON y.a = x.a",
}
COLUMNS: dict[str, LiteralString] = {
    "key": "(a text, b text, v integer, PRIMARY KEY (a, b))",
    "without": "(a text, b text, v integer)",
}


CASES = [f"{kind}, {query}, {key}" for kind in ("texts", "pairs") for query in QUERIES for key in COLUMNS]


@pytest.mark.parametrize("case", each_of({case: case for case in CASES}, ONE_HASH))
def test_keys_of_one_hash_are_told_apart(shop: Shop, case: str) -> None:
    kind, query, columns = case.split(", ")
    rows = SAME_JOINED if kind == "pairs" else tuple((text, "b") for text in SAME_HASH)
    insert = "INSERT INTO source VALUES (%s, %s, %s)"
    table = make(shop, COLUMNS[columns])
    shop.connection.execute(insert, [*rows[0], 1])
    with read(table, {query: QUERIES[query]}) as source:
        shop.connection.execute(insert, [*rows[1], 10])
        source.refreshed()
        shop.connection.execute("UPDATE source SET v = v + 1 WHERE (a, b) = (%s, %s)", [*rows[0]])
        source.refreshed()
        shop.connection.execute("DELETE FROM source WHERE (a, b) = (%s, %s)", [*rows[0]])
        source.refreshed()


def test_texts_have_one_hash_in_the_extension(shop: Shop) -> None:
    """This engine hashes with PostgreSQL's own functions; what collides there is in scenarios/engine/test_hashes.py."""
    one, other = (
        shop.connection.execute("SELECT pgtrickle.pg_trickle_hash(%s::text)", [text]).fetchone() for text in SAME_HASH
    )
    assert one == other
    assert len(set(SAME_HASH)) == 2
