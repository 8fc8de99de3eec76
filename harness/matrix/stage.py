"""Where a row plays: a database at head, its coordinator's connection, its stream tables, and what was proven there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import sql

from harness.clusters.cluster import Cluster
from harness.engines import OURS, Engine, Tables
from harness.errors import CheckFailedError
from harness.matrix.model import RowReport
from harness.matrix.tables import Table
from harness.postgres.deadlines import DeadlineConnection
from harness.postgres.node import Node, Params, Query
from harness.trickle.names import stable_name

if TYPE_CHECKING:
    from harness.trickle import StreamTables

# One answer of a matrix database; what takes longer waits for a lock that nobody gives back.
ANSWER_DEADLINE_S = 240.0


class Stage:
    """One database of a cluster (or of a plain server) that a row has for itself.

    Args:
        cluster: the database on all nodes; without workers it is a plain server's.
        connection: an autocommit connection to its coordinator.
        tables: the stream tables in it.
        engine: who keeps them.

    Attributes:
        topology: what was proven so far; a row's report shows it.
        counts: what the workload counted, by table.
        places: where each table is, in a word or two.
    """

    def __init__(self, cluster: Cluster, connection: DeadlineConnection, tables: Tables, engine: Engine = OURS) -> None:
        self.cluster = cluster
        self.connection = connection
        self.tables = tables
        self.engine = engine
        self.topology: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.places: dict[str, str] = {}

    @property
    def own(self) -> StreamTables:
        """The stream tables, with what this project's engine alone has.

        Raises:
            TypeError: another engine keeps them.
        """
        from harness.trickle import StreamTables  # noqa: PLC0415 - it brings a SQL parser

        if not isinstance(self.tables, StreamTables):
            raise TypeError(f"these are stream tables of {self.engine}")
        return self.tables

    @property
    def coordinator(self) -> Node:
        """The node that clients talk to."""
        return self.cluster.coordinator

    @property
    def workers(self) -> tuple[Node, ...]:
        """The nodes that hold shards; none on a plain server."""
        return self.cluster.workers

    @property
    def is_citus(self) -> bool:
        """Whether this is a cluster."""
        return bool(self.cluster.workers)

    def run(self, query: Query, params: Params = None) -> None:
        """Run a statement on the coordinator, in a transaction of its own."""
        self.connection.execute(query, params)

    def rows(self, query: Query, params: Params = None) -> list[tuple[Any, ...]]:
        """All rows of a query on the coordinator."""
        return self.connection.execute(query, params).fetchall()

    def value(self, query: Query, params: Params = None) -> Any:
        """The only value of a query on the coordinator."""
        ((value,),) = self.rows(query, params)
        return value

    def require(self, fact: str, holds: bool, seen: object) -> None:
        """Write a fact down, or fail.

        Raises:
            CheckFailedError: it does not hold; says what was seen.
        """
        if not holds:
            raise CheckFailedError(f"{fact}: this does not hold; seen: {seen}")
        self.topology[fact] = str(seen)

    def require_equal(self, what: str, seen: object, expected: object) -> None:
        """Fail unless both are equal.

        Raises:
            CheckFailedError: says both.
        """
        if seen != expected:
            raise CheckFailedError(f"{what}: {seen}, and {expected} was expected")

    def require_count(self, table: sql.Composable, expected: int, name: str) -> None:
        """The table holds as many rows as its writers counted themselves.

        Raises:
            CheckFailedError: says both numbers.
        """
        seen = self.value(sql.SQL("SELECT count(*) FROM {}").format(table))
        self.require_equal(f"rows of {name}", seen, expected)
        self.counts[name] = expected

    def require_oracle(self, *names: str) -> None:
        """Each stream table equals its query as a multiset, both ways; on the coordinator.

        Raises:
            CheckFailedError: says how many rows are missing and how many are too many, and shows some.
        """
        for name in names:
            difference = self.tables.difference(name)
            if not difference.is_equal:
                shown = "; ".join(difference.examples[:5])
                raise CheckFailedError(
                    f"{name} does not equal its query: {difference.missing} rows are missing, "
                    f"{difference.extra} are too many: {shown}"
                )

    def frontier(self, name: str, source: Table) -> Mapping[str, Any]:
        """Where a stream table's refreshes of one source stopped, as the catalog has it; empty before the first."""
        found = self.value(
            "SELECT coalesce(frontier -> 'sources' -> %s, '{}') FROM pgtrickle.pgt_stream_tables WHERE pgt_name = %s",
            [stable_name(source.schema, source.name), name],
        )
        return dict(found)

    def report(self) -> RowReport:
        """What was proven and counted."""
        return RowReport({**self.topology, "tables": self.describe_places()}, dict(self.counts))

    def describe_places(self) -> str:
        """Where the tables are: ``orders 2+2 shards; totals, large local``."""
        by_place: dict[str, list[str]] = {}
        for name, place in self.places.items():
            by_place.setdefault(place, []).append(name)
        return "; ".join(f"{', '.join(names)} {place}" for place, names in by_place.items())


@contextmanager
def open_stage(cluster: Cluster, engine: Engine = OURS) -> Iterator[Stage]:
    """Bring a database to where the engine can work (ours: to head) and open it for a row.

    Args:
        cluster: the database on all nodes, without a catalog so far or at head.
        engine: who keeps the stream tables.
    """
    engine.prepare(cluster.coordinator)
    connection = cluster.coordinator.connect(deadline_s=ANSWER_DEADLINE_S)
    try:
        with engine.open(connection) as tables:
            stage = Stage(cluster, connection, tables, engine)
            shape = f"1+{len(cluster.workers)}" if cluster.workers else "one server"
            stage.topology["cluster"] = shape
            try:
                yield stage
            except Exception as error:
                error.add_note("proven before: " + ", ".join(stage.topology))
                raise
    finally:
        connection.close()
