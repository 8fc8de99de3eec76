"""A table whose changes are captured, where it may live, and the sum that its change buffer must have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import LiteralString, Protocol

import psycopg
import pytest
from _pytest.mark import ParameterSet
from psycopg import sql
from psycopg.rows import TupleRow

from harness.clusters import Cluster
from harness.postgres import Node

Connection = psycopg.Connection[TupleRow]
# plain: a server without Citus. The others live on a 1+2.
GROUNDS = ("plain", "local", "reference", "distributed")

_CAPTURED_COLUMNS = """
SELECT array_agg(c ->> 'name' ORDER BY place) FROM pgtrickle.pgt_change_tracking k,
    jsonb_array_elements(k.captured_columns) WITH ORDINALITY AS e(c, place) WHERE k.source_relid = %s::regclass"""
_LEFT = """
SELECT 'relation ' || c.relname FROM pg_class c WHERE c.relnamespace = 'pgtrickle_changes'::regnamespace
UNION ALL SELECT 'function ' || p.proname FROM pg_proc p WHERE p.pronamespace = 'pgtrickle_changes'::regnamespace
UNION ALL SELECT 'trigger ' || t.tgname FROM pg_trigger t WHERE t.tgname ~ '^pg_trickle_'
UNION ALL SELECT 'prepared ' || x.gid FROM pg_prepared_xacts x WHERE x.database = current_database()"""


def grounds(*names: str) -> list[ParameterSet]:
    """Parameters of the fixture `any_ground`; those on a cluster are marked so."""
    return [pytest.param(name, marks=() if name == "plain" else pytest.mark.citus(">= 13")) for name in names]


class Written(Protocol):
    """A table that a scenario writes to, whoever follows its changes."""

    @property
    def connection(self) -> Connection:
        """Autocommit, to the node where it is written."""

    @property
    def table(self) -> sql.Identifier:
        """For statements."""

    def run(self, statement: LiteralString) -> None:
        """Run a statement in which ``{t}`` is the table."""


@dataclass
class Captured:
    """A table with capture, and what it held when capture began.

    Attributes:
        node: the coordinator, or the plain server.
        connection: to it, autocommit.
        name: of the table.
        stable: its stable name.
        placement: plain, local, reference or distributed.
        before: its rows when capture began, as PostgreSQL writes a row of the captured columns, each with its number.
    """

    node: Node
    connection: Connection
    name: str
    stable: str
    placement: str
    before: Counter[str] = field(default_factory=Counter)

    @property
    def table(self) -> sql.Identifier:
        """For statements."""
        return sql.Identifier(self.name)

    @property
    def buffer(self) -> sql.Identifier:
        """Its change buffer."""
        return sql.Identifier("pgtrickle_changes", f"changes_{self.stable}")

    def run(self, statement: LiteralString, *, on: Connection | None = None) -> None:
        """Run a statement in which ``{t}`` is the table."""
        (on or self.connection).execute(sql.SQL(statement).format(t=self.table))

    def rows(self) -> Counter[str]:
        """What the table holds now, in the captured columns."""
        return self._count(
            sql.SQL("SELECT ROW({})::text, 1 FROM {}").format(self._columns(""), self.table),
        )

    def net(self) -> Counter[str]:
        """The sum of what was captured: rows that came count +1, rows that went -1; those that cancel are left out."""
        came = sql.SQL("SELECT ROW({})::text, 1 FROM {} WHERE action = 'I'").format(self._columns("new_"), self.buffer)
        went = sql.SQL("SELECT ROW({})::text, -1 FROM {} WHERE action = 'D'").format(self._columns("old_"), self.buffer)
        found = self._count(came)
        found.update(self._count(went))
        return Counter({row: weight for row, weight in found.items() if weight})

    def actions(self) -> Mapping[str, int]:
        """How many rows of each action wait in the buffer."""
        return dict(
            self.connection.execute(
                sql.SQL("SELECT action, count(*)::int FROM {} GROUP BY 1 ORDER BY 1").format(self.buffer)
            ).fetchall()
        )

    def writers(self) -> set[int]:
        """The groups whose nodes captured what waits in the buffer of a distributed table (F5)."""
        return {
            int(group)
            for (group,) in self.connection.execute(
                sql.SQL("SELECT DISTINCT (seq_id >> 48)::int FROM {}").format(self.buffer)
            )
        }

    def difference(self) -> Counter[str]:
        """What the table has gained (positive) and lost (negative) since capture began."""
        now = self.rows()
        now.subtract(self.before)
        return Counter({row: weight for row, weight in now.items() if weight})

    def assert_sums(self) -> None:
        """What was captured is what the table gained and lost."""
        net, difference = self.net(), self.difference()
        assert net == difference, f"captured {net - difference} too much, {difference - net} too little"

    def reset(self) -> None:
        """Begin to count anew, with an empty buffer."""
        self.connection.execute(sql.SQL("DELETE FROM {}").format(self.buffer))
        self.before = self.rows()

    def _columns(self, prefix: str) -> sql.Composed:
        found = self.connection.execute(_CAPTURED_COLUMNS, [self.table.as_string()]).fetchone()
        assert found is not None
        # A buffer's column names are cut at 63 bytes, as PostgreSQL cuts them.
        return sql.SQL(", ").join(sql.Identifier((prefix + name)[:63]) for name in found[0])

    def _count(self, query: sql.Composed) -> Counter[str]:
        found: Counter[str] = Counter()
        for row, weight in self.connection.execute(query):
            found[row] += weight
        return found


@dataclass
class Ground:
    """A database at head on which tables of one placement are captured.

    Attributes:
        cluster: the database on all nodes; without workers it is a plain server's.
        placement: where its tables live.
    """

    cluster: Cluster
    placement: str
    _made: int = 0

    @property
    def is_citus(self) -> bool:
        """Whether this is a cluster."""
        return self.placement != "plain"

    def create(self, connection: Connection, columns: LiteralString, *, by: str = "id") -> str:
        """Make a table where this ground's tables live, and return its name.

        Args:
            connection: to the coordinator.
            columns: what stands between ``CREATE TABLE name`` and the end.
            by: the distribution column.
        """
        self._made += 1
        name = f"t{self._made}"
        connection.execute(sql.SQL("CREATE TABLE {} {}").format(sql.Identifier(name), sql.SQL(columns)))
        self.place(connection, name, by=by)
        return name

    def place(self, connection: Connection, name: str, *, by: str = "id") -> None:
        """Make a table that is there a reference or a distributed one, if this ground's are."""
        quoted = sql.Identifier(name).as_string()
        if self.placement == "reference":
            connection.execute("SELECT create_reference_table(%s)", [quoted])
        elif self.placement == "distributed":
            connection.execute("SELECT create_distributed_table(%s, %s, shard_count => 4)", [quoted, by])
            nodes = connection.execute(
                "SELECT count(DISTINCT (nodename, nodeport)) FROM citus_shards WHERE table_name = %s::regclass",
                [quoted],
            ).fetchone()
            assert nodes == (2,), "its shards are on both workers"

    @contextmanager
    def captured(
        self, columns: LiteralString, *, by: str = "id", rows: LiteralString = "", name: str = ""
    ) -> Iterator[Captured]:
        """A new table with capture, dropped afterwards.

        Args:
            columns: as in `create`.
            by: the distribution column.
            rows: a statement that fills it before capture begins, ``{t}`` the table.
            name: of a table that is there already, instead of a new one.
        """
        node = self.cluster.coordinator
        with node.connect() as connection:
            name = name or self.create(connection, columns, by=by)
            table = sql.Identifier(name)
            if rows:
                connection.execute(sql.SQL(rows).format(t=table))
            stable = capture(connection, name)
            made = Captured(node, connection, name, stable, self.placement)
            made.before = made.rows()
            try:
                yield made
            finally:
                connection.rollback()
                connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(table))


def capture(connection: Connection, name: str) -> str:
    """Begin to capture a table; its stable name."""
    found = connection.execute(
        "SELECT pgtrickle.install_capture(%s::regclass)", [sql.Identifier(name).as_string()]
    ).fetchone()
    assert found is not None
    return str(found[0])


def left_of_capture(node: Node) -> list[str]:
    """Buffers, capture functions, capture triggers and prepared transactions of a node, those of shards included."""
    with node.transaction() as connection:
        if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'citus'").fetchone() is not None:
            # Else the catalog hides shards from clients.
            connection.execute("SET LOCAL citus.show_shards_for_app_name_prefixes = '*'")
        return sorted(str(row[0]) for row in connection.execute(_LEFT))
