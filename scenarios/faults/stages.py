"""A cluster or a server to break, with a stream table of each placement on it; what must hold after any fault."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from harness.chain.runner import upgrade
from harness.faults import Site, fetch_prepared, insist, recover, wait_for_workers
from harness.trickle import StreamTables
from harness.trickle.catalog import Refresh
from harness.trickle.names import stable_name
from harness.trickle.oracle import assert_equal
from harness.waiting import wait_until

DBNAME = "faults"
QUERY = "SELECT account, count(*) AS n, sum(amount) AS total FROM {} GROUP BY account"
PLACEMENTS = ("local", "reference", "distributed")
ROWS = 200


@dataclass
class Stage:
    """A site with sources, each with a stream table over it.

    Attributes:
        site: the servers.
        shard_count: of each source.
        names: of the stream tables; each reads ``entries_<name>``, but ``shared_too`` reads ``entries_shared``.
        counts: how many rows each source must have: what was acknowledged.
    """

    site: Site
    names: tuple[str, ...] = ()
    shard_count: int = 4
    counts: dict[str, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(ROWS + 1))
    _tables: StreamTables | None = None
    _session: psycopg.Connection[tuple[Any, ...]] | None = None

    @property
    def dsn(self) -> str:
        """Of the database on the coordinator."""
        return self.site.coordinator.dsn(DBNAME)

    @property
    def tables(self) -> StreamTables:
        """Stream tables over a session that goes on from fault to fault, as a scheduler's; a new one if it was lost."""
        if self._tables is None or self._session is None or not self._answers(self._session):
            self.hang_up()
            self._session = self.connect()
            self._tables = StreamTables(self._session)
        return self._tables

    @property
    def session(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The session of `tables`."""
        tables, session = self.tables, self._session
        assert tables is not None
        assert session is not None
        return session

    @staticmethod
    def _answers(session: psycopg.Connection[Any]) -> bool:
        with contextlib.suppress(psycopg.Error):
            return not session.closed and session.execute("SELECT 1").fetchone() == (1,)
        return False

    def hang_up(self) -> None:
        """Close that session; the next use opens another."""
        if self._tables is not None and self._session is not None:
            self._tables.close()
            self._session.close()
        self._tables = self._session = None

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A session of its own on the coordinator."""
        return self.site.coordinator.connect(DBNAME, deadline_s=60)

    def source(self, name: str) -> sql.Identifier:
        """What a stream table reads."""
        return sql.Identifier(f"entries_{'shared' if name == 'shared_too' else name}")

    def make(self, names: Sequence[str]) -> None:
        """Sources and stream tables; a name is that of a placement, or ``shared``, which has two readers."""
        with contextlib.closing(self.connect()) as connection, StreamTables(connection) as tables:
            for name in names:
                source = self.source(name)
                connection.execute(
                    sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, account integer NOT NULL, amount integer)").format(
                        source
                    )
                )
                if self.site.has_citus:
                    connection.execute(
                        "SELECT create_distributed_table(%s::regclass, 'id', 'hash', 'none', %s)",
                        [source.as_string(connection), self.shard_count],
                    )
                connection.execute(
                    sql.SQL("INSERT INTO {} SELECT i, i % 7, i FROM generate_series(1, {}) i").format(source, ROWS)
                )
                self.counts[name] = ROWS
                query = QUERY.format(f"entries_{name}")
                placement = name if name in PLACEMENTS else "auto"
                tables.create(name, query, None, "DIFFERENTIAL", placement)
                if name == "shared":
                    tables.create("shared_too", query, None, "DIFFERENTIAL")
        self.names = (*self.names, *names)

    def change(self, name: str, *, connection: psycopg.Connection[Any] | None = None) -> None:
        """Rows come, change and go, on every shard, in one transaction; their number is kept."""
        source = self.source(name)
        number = next(self._numbers)
        used = connection or self.session
        with used.transaction():
            used.execute(
                sql.SQL("INSERT INTO {} SELECT {} * 1000 + i, i % 7, i FROM generate_series(1, 6) i").format(
                    source, number
                )
            )
            used.execute(sql.SQL("UPDATE {} SET amount = amount + 1 WHERE id % 5 = {}").format(source, number % 5))
            gone = used.execute(sql.SQL("DELETE FROM {} WHERE id % 101 = {}").format(source, number % 101)).rowcount
        self.counts["shared" if name == "shared_too" else name] += 6 - gone

    def refresh(self, name: str, *, wait_s: float = 30.0) -> Refresh:
        """Once, by `tables`."""
        return self.tables.refresh(name, wait_s=wait_s)

    def require(self, name: str) -> None:
        """The oracle, and the count that is kept here.

        Raises:
            AssertionError: a row is lost, or doubled.
        """
        source = "shared" if name == "shared_too" else name
        assert_equal(self.session, name)
        row = self.session.execute(sql.SQL("SELECT sum(n) FROM {}").format(sql.Identifier(name))).fetchone()
        assert row == (self.counts[source],), name

    def require_nothing_left(self, name: str) -> None:
        """No lease, nothing prepared, no row in the buffer that everybody has.

        Raises:
            AssertionError: something is.
        """
        connection = self.session
        leases = connection.execute("SELECT holder, deadline FROM pgtrickle.st_locks").fetchall()
        assert leases == [], name
        locks = connection.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2").fetchall()
        assert locks == [] or self.site.has_citus, name
        buffer = sql.Identifier("pgtrickle_changes", f"changes_{stable_name('public', self._source_text(name))}")
        captured = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(buffer)).fetchone()
        assert captured == (0,), name
        assert fetch_prepared(self.site) == {}

    def _source_text(self, name: str) -> str:
        return f"entries_{'shared' if name == 'shared_too' else name}"

    def settle(self) -> None:
        """All nodes answer, and reach each other; what Citus' commits left prepared is resolved: it is our cluster."""
        for node in self.site.nodes:
            insist(f"{node.name} to answer", lambda node=node: node.rows("SELECT 1", dbname=DBNAME))  # type: ignore[misc]
        if self.site.workers:
            wait_for_workers(self.site)
            wait_until("prepared transactions to be resolved", self._resolved, deadline_s=30)

    def _resolved(self) -> bool:
        if not fetch_prepared(self.site):
            return True
        recover(self.site)
        return not fetch_prepared(self.site)

    def right_again(self, name: str, since: float, *, may_rebuild: bool = False) -> float:
        """One refresh, after which the stream table is right; seconds since then (monotonic clock).

        Args:
            name: of the stream table.
            since: on the monotonic clock, in seconds.
            may_rebuild: whether it may have been filled anew; else it took what came, and nothing else.
        """
        done = self.refresh(name)
        elapsed_s = time.monotonic() - since
        allowed = {"DIFFERENTIAL", "NO_DATA", *({"REINITIALIZE"} if may_rebuild else ())}
        assert done.action in allowed, done
        self.require(name)
        return elapsed_s

    def all_right_again(self, names: Sequence[str], since: float) -> float:
        """Until each of these was refreshed and is right; seconds since then. A refresh that fails is tried again."""
        for name in names:
            insist(f"a refresh of {name}", lambda name=name: self.refresh(name))  # type: ignore[misc]
            self.require(name)
        return time.monotonic() - since

    def fault(
        self,
        label: str,
        fault: contextlib.AbstractContextManager[Any],
        record: Callable[[str, object], None],
        *,
        names: Sequence[str] | None = None,
        held: str | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        """A fault around a block; after it everything is right one refresh later, and nothing is left.

        Args:
            label: what the time is recorded as.
            fault: undone at the end.
            record: pytest's ``record_property``; gets the seconds from the end of the block until all tables are right,
                the undoing included.
            names: the tables; None: all.
            held: one of them that somebody else is refreshing just now.
        """
        return self._fault(label, fault, record, names or self.names, held)

    @contextlib.contextmanager
    def _fault(
        self,
        label: str,
        fault: contextlib.AbstractContextManager[Any],
        record: Callable[[str, object], None],
        names: Sequence[str],
        held: str | None,
    ) -> Iterator[None]:
        for name in names:
            if name == held:
                continue
            self.refresh(name)  # knows from now on how the table follows its query
            self.change(name)
        shape = self.shape()
        with fault:
            yield
            ended_at = time.monotonic()
        elapsed_s = self.all_right_again(names, ended_at)
        where = "1+2" if self.site.has_citus else "one server"
        record(f"{label}, {where}: seconds to the next right refresh", round(elapsed_s, 2))
        print(f"| {label} | {where} | {elapsed_s:.2f} |")  # noqa: T201
        self.settle()
        if "shared" in names:
            self.refresh("shared_too")
        for name in names:
            self.require_nothing_left(name)
        assert self.shape() == shape

    def shape(self) -> dict[str, list[tuple[Any, ...]]]:
        """What each node says of the cluster: addresses, and whether shards may be there."""
        if not self.site.has_citus:
            return {}
        return {
            node.name: node.rows(
                "SELECT nodename, nodeport, noderole::text, isactive, metadatasynced, shouldhaveshards"
                " FROM pg_catalog.pg_dist_node ORDER BY 1, 2",
                dbname=self.site.dbname,
            )
            for node in self.site.nodes
        }


def prepare(site: Site, names: Sequence[str], *, shard_count: int = 4) -> Stage:
    """A database at the chain's end on a site, and stream tables in it."""
    stage = Stage(site, shard_count=shard_count)
    upgrade(stage.dsn)
    stage.make(names)
    return stage
