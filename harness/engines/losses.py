"""What an engine loses: a transaction that is open across a cut, writers beside many cuts. No row may be missing.

The same writes, refreshes and comparison for both engines; the numbers are what was found, not what was hoped for.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.engines.model import Connection, Engine, Tables
from harness.errors import CheckFailedError, WaitTimeoutError
from harness.postgres.node import Node
from harness.waiting import wait_until

WRITERS = 6
CUTS = 60
# Each writer's ids have room of their own.
_ROOM = 1_000_000
# A stuck refresh or writer is an error of its own after this long.
_MOST_S = 120.0
_QUERY = "SELECT id, kind FROM events"
_SOURCE = "CREATE TABLE events (id bigint PRIMARY KEY, kind text NOT NULL)"
# Enough rows that no engine holds recomputing for cheaper than the few that come: that would mend what a cut lost.
_SEED = "INSERT INTO events SELECT -i, 'seed' FROM generate_series(1, 20000) i"


@dataclass(frozen=True)
class Loss:
    """What was lost of what was committed.

    Attributes:
        name: of the way in which it was tried.
        engine: whose.
        committed: rows that the source holds, beside those that it held from the beginning.
        missing: of them, in the stream table after its last refresh.
        extra: rows that it has and the source does not.
        refreshes: how many ran, the last ones when nobody wrote any more.
        rebuilt: how many of them filled it anew, which mends what was lost and hides it.
        elapsed_s: in seconds.
    """

    name: str
    engine: str
    committed: int
    missing: int
    extra: int
    refreshes: int
    rebuilt: int
    elapsed_s: float

    @property
    def is_exact(self) -> bool:
        """Whether nothing was lost and nothing was made up."""
        return not self.missing and not self.extra

    def __str__(self) -> str:
        return (
            f"{self.missing} of {self.committed} committed rows are missing and {self.extra} are too many"
            f" after {self.refreshes} refreshes, {self.rebuilt} of which filled it anew"
        )


def require_exact(loss: Loss) -> None:
    """Fail unless nothing was lost.

    Raises:
        CheckFailedError: says how many rows.
    """
    if not loss.is_exact:
        raise CheckFailedError(str(loss))


@dataclass
class _Kept:
    """A stream table of `events` at work."""

    connection: Connection
    tables: Tables
    name: str
    engine: Engine
    begun_s: float = field(default_factory=time.monotonic)
    actions: list[str] = field(default_factory=list)

    def refresh(self) -> None:
        self.actions.append(self.tables.refresh("kept").action)

    def loss(self) -> Loss:
        row = self.connection.execute("SELECT count(*) FROM events WHERE id > 0").fetchone()
        difference = self.tables.difference("kept")
        return Loss(
            name=self.name,
            engine=str(self.engine),
            committed=int(row[0]) if row else 0,
            missing=difference.missing,
            extra=difference.extra,
            refreshes=len(self.actions),
            rebuilt=sum(action in {"FULL", "REINITIALIZE"} for action in self.actions),
            elapsed_s=time.monotonic() - self.begun_s,
        )


@contextmanager
def _kept(engine: Engine, node: Node, name: str) -> Iterator[_Kept]:
    engine.prepare(node)
    with node.connect() as connection, engine.open(connection) as tables:
        connection.execute(_SOURCE)
        connection.execute(_SEED)
        connection.execute("ANALYZE events")
        tables.create("kept", _QUERY, mode="DIFFERENTIAL")
        # The first refresh after creation is a full one in some engines: it is none of those that count.
        connection.execute("INSERT INTO events VALUES (1, 'first')")
        tables.refresh("kept")
        try:
            yield _Kept(connection, tables, name, engine)
        finally:
            tables.drop("kept")
            connection.execute("DROP TABLE events")


def open_transaction(engine: Engine, node: Node, *, refreshes_after: int = 3, is_undone: bool = False) -> Loss:
    """A writes and stays open, B writes and commits, a refresh cuts, A ends; then refreshes until nothing moves.

    Args:
        engine: whose stream table.
        node: a database of one server, without a table ``events``; left as it was, with the engine in it.
        refreshes_after: how many follow A's end.
        is_undone: A rolls back instead of committing.

    Raises:
        RefusedError: the engine refused the stream table, or a refresh.
    """
    name = "transaction rolled back after a cut" if is_undone else "transaction open across a cut"
    with _kept(engine, node, name) as kept:
        # Autocommit off: READ COMMITTED, as by default.
        with node.connect(autocommit=False) as a, node.connect() as b:
            a.execute("INSERT INTO events VALUES (10, 'early')")
            b.execute("INSERT INTO events VALUES (11, 'late')")
            kept.refresh()
            if is_undone:
                a.rollback()
            else:
                a.commit()
        for _ in range(refreshes_after):
            kept.refresh()
        return kept.loss()


def cuts_beside_writers(engine: Engine, node: Node, *, writers: int = WRITERS, cuts: int = CUTS) -> Loss:
    """Writers whose transactions take a while, and refreshes beside them; compared when all have ended.

    Args:
        engine: whose stream table.
        node: a database of one server, without a table ``events``; left as it was, with the engine in it.
        writers: how many, each on a connection of its own.
        cuts: refreshes beside them.

    Raises:
        RefusedError: the engine refused the stream table, or a refresh.
        WaitTimeoutError: the writers committed nothing, or did not end.
        ExceptionGroup: writers failed.
    """
    with _kept(engine, node, f"{cuts} cuts beside {writers} writers") as kept:
        with _writing(node, writers) as committed:
            for _ in range(cuts):
                _wait_for_more(committed)
                kept.refresh()
        for _ in range(2):
            kept.refresh()
        return kept.loss()


def _wait_for_more(committed: Callable[[], int]) -> None:
    """Until two more transactions have committed, so that each cut has something to take."""
    enough = committed() + 2
    wait_until(
        "the writers to commit", lambda: committed() >= enough, deadline_s=_MOST_S, poll_s=0.001, poll_max_s=0.001
    )


class _Writer:
    """Inserts, changes and deletes its own rows in short transactions, some of which stay open for a moment."""

    def __init__(self, node: Node, number: int, stop: threading.Event) -> None:
        self._node = node
        self._number = number
        self._stop = stop
        self.committed = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        chance = random.Random(self._number)  # noqa: S311 - a workload, no secret
        next_id = _ROOM * (self._number + 1)
        mine: list[int] = []
        try:
            with self._node.connect() as connection:
                while not self._stop.is_set():
                    with connection.transaction():
                        connection.execute("INSERT INTO events VALUES (%s, 'new')", [next_id])
                        if chance.random() < 0.5:  # its place in the buffer is taken, its row not to be seen
                            connection.execute("SELECT pg_sleep(%s)", [chance.random() / 25])
                        if mine and chance.random() < 0.4:
                            connection.execute("UPDATE events SET kind = 'old' WHERE id = %s", [chance.choice(mine)])
                        if len(mine) > 5 and chance.random() < 0.2:
                            gone = mine.pop(chance.randrange(len(mine)))
                            connection.execute("DELETE FROM events WHERE id = %s", [gone])
                    mine.append(next_id)
                    next_id += 1
                    self.committed += 1
        except Exception as error:
            self.failure = error


@contextmanager
def _writing(node: Node, count: int) -> Iterator[Callable[[], int]]:
    stop = threading.Event()
    writers = [_Writer(node, number, stop) for number in range(count)]
    threads = [
        # One that is stuck does not keep Python from ending.
        threading.Thread(target=writer.run, name=f"writer {number}", daemon=True)
        for number, writer in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(writer.committed for writer in writers)
    finally:
        stop.set()
        until = time.monotonic() + _MOST_S
        for thread in threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
    _raise_failures(writers)
    stuck = ", ".join(thread.name for thread in threads if thread.is_alive())
    if stuck:
        raise WaitTimeoutError("the writers to end", elapsed_s=_MOST_S, last_value=stuck)


def _raise_failures(writers: Sequence[_Writer]) -> None:
    failures = [writer.failure for writer in writers if writer.failure is not None]
    if failures:
        raise ExceptionGroup("writers failed", failures)
