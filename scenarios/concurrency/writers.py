"""Writers that go on until they are told to stop, and know what they committed."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg.rows import TupleRow

from harness.postgres import Node

Connection = psycopg.Connection[TupleRow]
# Each writer's ids have room of their own, so that no writer needs to ask what another did.
ROOM = 10_000_000
ACCOUNTS = 8
SCHEMA = (
    "CREATE TABLE entries (id bigint, account integer NOT NULL, amount integer NOT NULL, PRIMARY KEY (id))",
    "CREATE TABLE accounts (account integer PRIMARY KEY, owner text, touched integer NOT NULL DEFAULT 0)",
    "INSERT INTO accounts SELECT i, 'owner ' || i % 3 FROM generate_series(1, 8) i",
)
# What a server may tell a writer that others are in the way of; its transaction is rolled back, and it goes on.
IN_THE_WAY = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


@dataclass
class Writer:
    """Transfers between accounts: two entries a transaction whose amounts sum to nothing, and changes of older ones.

    Args:
        node: through which it writes: the coordinator or a worker.
        number: its own, from 0.

    Attributes:
        entries: what it committed and did not take away again, by id.
        counts: transactions by how they ended.
        failure: what ended it, if it was not told to stop.
    """

    node: Node
    number: int
    entries: dict[int, tuple[int, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    failure: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Write until it is told to stop."""
        chance = random.Random(self.number)  # noqa: S311 - a workload, no secret
        next_id = ROOM * (self.number + 1)
        try:
            with self.node.connect() as connection:
                while not stop.is_set():
                    wanted = dict(self.entries)
                    try:
                        is_undone = chance.random() < 0.15
                        with connection.transaction(force_rollback=is_undone):
                            next_id = self._transfer(connection, chance, wanted, next_id)
                        if is_undone:
                            self.counts["rolled back"] += 1
                        else:
                            self.entries = wanted
                            self.counts["committed"] += 1
                    except IN_THE_WAY:
                        self.counts["in the way"] += 1
        except BaseException as error:
            self.failure = error

    def _transfer(
        self, connection: Connection, chance: random.Random, entries: dict[int, tuple[int, int]], next_id: int
    ) -> int:
        amount = chance.randrange(1, 100)
        for sign in (1, -1):
            account = chance.randrange(1, ACCOUNTS + 1)
            connection.execute("INSERT INTO entries VALUES (%s, %s, %s)", [next_id, account, sign * amount])
            entries[next_id] = (account, sign * amount)
            next_id += 1
            if chance.random() < 0.2:
                # The transaction stays open over a cut: its values are drawn, its rows not to be seen.
                connection.execute("SELECT pg_sleep(%s)", [chance.random() / 20])
        known = sorted(entries)
        if chance.random() < 0.5:  # to another account: the sum stays
            moved = chance.choice(known)
            account = chance.randrange(1, ACCOUNTS + 1)
            connection.execute("UPDATE entries SET account = %s WHERE id = %s", [account, moved])
            entries[moved] = (account, entries[moved][1])
        if chance.random() < 0.2 and len(known) > 10:  # a transfer goes again, both halves
            gone = chance.choice(known[:-2])
            first = gone - gone % 2
            connection.execute("DELETE FROM entries WHERE id IN (%s, %s)", [first, first + 1])
            for each in (first, first + 1):
                entries.pop(each, None)
        if chance.random() < 0.1:  # the same row by several writers at a time
            connection.execute(
                "UPDATE accounts SET touched = touched + 1 WHERE account = %s", [1 + chance.randrange(2)]
            )
        return next_id


@contextmanager
def writing(nodes: Sequence[Node], count: int) -> Iterator[list[Writer]]:
    """Writers at work, each through one of the nodes in turn; stopped at the end, and none of them failed."""
    stop = threading.Event()
    writers = [Writer(nodes[number % len(nodes)], number) for number in range(count)]
    threads = [threading.Thread(target=writer.run, args=[stop], name=f"writer {writer.number}") for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
    failures = [writer.failure for writer in writers if writer.failure is not None]
    if failures:
        raise BaseExceptionGroup("writers failed", failures)
    assert not any(thread.is_alive() for thread in threads)
