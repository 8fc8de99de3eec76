"""A client of our own where there is no pgbench: a thread a connection, in a closed or an open loop."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import sql

from harness.bench.load.samples import LoadResult, together
from harness.bench.load.scripts import Script, pick


class Arrivals:
    """When statements are due, for clients that share them: a fixed rate, whether or not the server keeps up.

    Args:
        rate: statements a second of all clients.
        begin: of the first, on the clock of the caller.
        end: none is due from here on.
    """

    def __init__(self, rate: float, begin: float, end: float) -> None:
        self._gap = 1 / rate
        self._begin = begin
        self._end = end
        self._given = 0
        self._lock = threading.Lock()

    def take(self) -> float | None:
        """When the next statement is due, which may have passed; None: there is no more."""
        with self._lock:
            due = self._begin + self._given * self._gap
            if due >= self._end:
                return None
            self._given += 1
            return due


def run_threads(
    dsn: str,
    scripts: Sequence[Script],
    table: sql.Identifier,
    *,
    clients: int,
    seconds: float,
    rate: float | None = None,
    seed: int = 0,
) -> LoadResult:
    """Send statements by threads of this process.

    Args:
        dsn: of the coordinator or the one server.
        scripts: of one workload.
        table: that they write.
        clients: connections.
        seconds: how long; what was begun is ended.
        rate: statements a second of all clients, evenly spaced; latencies count from when each was due. None: each
            client sends the next as soon as it has the answer.
        seed: of what is drawn.

    Raises:
        psycopg.Error: a connection could not be had.
    """
    start: list[float] = []
    arrivals: list[Arrivals] = []

    def begin() -> None:
        start.append(time.perf_counter())
        if rate is not None:
            arrivals.append(Arrivals(rate, start[0], start[0] + seconds))

    # All are connected before the first sends anything.
    ready = threading.Barrier(clients, action=begin)

    def run(number: int) -> LoadResult:
        rng = random.Random(seed * 1_000 + number)  # noqa: S311 - draws rows, guards nothing
        with _opened(dsn, ready) as connection:
            ready.wait()
            statements = {script: script.for_psycopg(table) for script in scripts}
            return _send(connection, statements, rng, arrivals[0].take if arrivals else until(start[0] + seconds))

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(run, number) for number in range(clients)]
    # A client that could not connect sends the others home: its error is the one that says why.
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    whole = together([future.result() for future in futures])
    return LoadResult(whole.count, time.perf_counter() - start[0], whole.latencies_ms, whole.failures)


def _opened(dsn: str, ready: threading.Barrier) -> psycopg.Connection[tuple[object, ...]]:
    try:
        return psycopg.connect(dsn, autocommit=True)
    except BaseException:
        ready.abort()
        raise


def until(end: float) -> Callable[[], float | None]:
    """When the next statement of a closed loop is due: at once, up to the end."""

    def take() -> float | None:
        now = time.perf_counter()
        return now if now < end else None

    return take


def _send(
    connection: psycopg.Connection[tuple[object, ...]],
    statements: Mapping[Script, sql.Composed],
    rng: random.Random,
    take: Callable[[], float | None],
) -> LoadResult:
    scripts = tuple(statements)
    latencies: list[float] = []
    failures: Counter[str] = Counter()
    while (due := take()) is not None:
        if (ahead := due - time.perf_counter()) > 0:
            time.sleep(ahead)
        script = pick(scripts, rng)
        try:
            connection.execute(statements[script], script.draw(rng), prepare=True)
        except psycopg.Error as error:
            failures[error.sqlstate or type(error).__name__] += 1
            if connection.closed:
                break
        else:
            latencies.append((time.perf_counter() - due) * 1000)
    return LoadResult(len(latencies), 0.0, latencies, dict(failures))
