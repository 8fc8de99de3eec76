"""Sources that grow and stream tables over them, of one shape wherever they live."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from harness.bench.model import Check
from harness.bench.places import BenchPlace
from harness.trickle import Refresh, StreamTables
from harness.trickle.oracle import compare

# Groups of each stream table: small beside its source, as totals are.
GROUPS = 1_000

_CREATE = sql.SQL("CREATE TABLE {} (id bigint NOT NULL, place bigint NOT NULL, amount bigint NOT NULL, note text)")
_FILL = sql.SQL(
    "INSERT INTO {} SELECT i, i %% %s + 1, i %% 100, 'a row' FROM generate_series(%s::bigint, %s::bigint) AS i"
)
_TOTALS = sql.SQL("SELECT place, count(*) AS n, sum(amount) AS total FROM {} GROUP BY place")


@dataclass
class Grown:
    """A source and its stream table.

    Attributes:
        connection: to the coordinator or the one server.
        stream_tables: of the same connection.
        source: its name.
        totals: the stream table's name.
        row_count: rows of the source so far.
    """

    connection: psycopg.Connection[Any]
    stream_tables: StreamTables
    source: str
    totals: str
    row_count: int = field(default=0)

    def change(self, rows: int) -> None:
        """Insert so many rows, in one statement."""
        begin = self.row_count + 1
        self.row_count += rows
        self.connection.execute(_FILL.format(sql.Identifier(self.source)), [GROUPS, begin, self.row_count])

    def refresh(self) -> Refresh:
        """By the delta, however many rows it has."""
        return self.stream_tables.refresh(self.totals, mode="DIFFERENTIAL")

    def check(self) -> Check:
        """Whether the stream table, once more refreshed, is what its query returns."""
        self.refresh()
        found = compare(self.connection, self.totals)
        return Check(self.totals, found.is_equal, str(found))


def make_source(
    connection: psycopg.Connection[Any], place: BenchPlace, name: str, *, shards: int, rows: int = 0
) -> None:
    """A table, distributed by ``place`` on a cluster.

    Args:
        connection: to the coordinator or the one server.
        place: where.
        name: of the table.
        shards: on a cluster.
        rows: that it has.
    """
    table = sql.Identifier(name)
    connection.execute(_CREATE.format(table))
    if place.site.has_citus:
        connection.execute(
            "SELECT create_distributed_table(%s, 'place', colocate_with => 'none', shard_count => %s)",
            [table.as_string(connection), shards],
        )
    if rows:
        connection.execute(_FILL.format(table), [GROUPS, 1, rows])


def totals_query(name: str) -> str:
    """The query of a stream table over a source."""
    return _TOTALS.format(sql.Identifier(name)).as_string()


def grow(
    connection: psycopg.Connection[Any],
    stream_tables: StreamTables,
    place: BenchPlace,
    name: str,
    *,
    shards: int = 4,
    rows: int = 10_000,
) -> Grown:
    """A source with a stream table over it; on a cluster all of it is colocated.

    Args:
        connection: to the coordinator or the one server.
        stream_tables: of the same connection.
        place: where.
        name: of the source.
        shards: on a cluster.
        rows: that the source has.
    """
    make_source(connection, place, name, shards=shards, rows=rows)
    placement = "distributed" if place.site.has_citus else "local"
    totals = f"{name}_totals"
    stream_tables.create(totals, totals_query(name), None, "AUTO", placement)
    return Grown(connection, stream_tables, name, totals, rows)
