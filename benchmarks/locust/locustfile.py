"""Locust's part of a load: users that speak to PostgreSQL, in slices of time that belong to one strategy each.

``python benchmarks/locust/load.py`` makes the tables and starts it; it takes the DSN from ``HARNESS_LOAD_DSN``.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any

# First: it patches sockets, threads and sleep with gevent's, and psycopg looks for that when it is loaded.
from locust import User, constant, events, task
from locust.env import Environment
from locust.exception import StopUser

# isort: split
import psycopg

from harness.bench.load.document import SliceResult, by_strategy, write_slices
from harness.bench.load.loopback import require_loopback
from harness.bench.load.samples import LoadResult
from harness.bench.load.scripts import pick, workload
from harness.bench.load.slices import Due, Slice, Slices
from harness.bench.load.tables import Strategy, find_tables, table_name
from harness.bench.load.thresholds import Threshold, measured, parse_threshold
from harness.errors import EXIT_CHECK_FAILED, EXIT_REFUSED, HarnessError, RefusedError

LOOPBACK = "127.0.0.1"


class Load:
    """What all users share: whose slice it is, when the next statement is due, what was measured.

    Args:
        options: of the command line.
        dsn: checked.
    """

    def __init__(self, options: Any, dsn: str) -> None:
        self.dsn = dsn
        self.scripts = workload(options.workload)
        self.strategies = tuple(Strategy(name) for name in options.strategies.split(","))
        self.thresholds: list[Threshold] = [parse_threshold(text) for text in options.threshold or []]
        self.result: str | None = options.result
        self.rate: float | None = options.rate or None
        self.seed = int(options.seed)
        self.users = int(options.num_users or 0)
        self.slices = Slices(
            self.strategies,
            slice_s=options.slice_s,
            # In the page somebody presses Stop.
            rounds=options.rounds if options.headless else None,
            seed=self.seed,
        )
        self._statements = {
            (strategy, script.name): script.for_psycopg(table_name(strategy))
            for strategy in self.strategies
            for script in self.scripts
        }
        self.reset()

    def reset(self) -> None:
        """Forget what was measured, and wait for `begin`."""
        self._due = Due(self.slices, self.rate)
        self._begun = 0.0
        self.is_begun = threading.Event()
        self._taken: dict[Slice, list[float]] = {}
        self._failures: dict[Slice, Counter[str]] = {}

    def begin(self) -> None:
        """All users are there: the first slice begins now."""
        if not self.is_begun.is_set():
            self._begun = time.perf_counter()
            self.is_begun.set()

    @property
    def elapsed_s(self) -> float:
        """Since the first slice began."""
        return time.perf_counter() - self._begun

    def take(self) -> tuple[float, Slice] | None:
        """The next statement: when it is due, and in whose slice."""
        return self._due.take(self.elapsed_s)

    def statement(self, strategy: Strategy, name: str) -> Any:
        """A script for the table of a strategy."""
        return self._statements[strategy, name]

    def note(self, found: Slice, latency_s: float) -> None:
        """In a closed loop answers count that came within the slice; in an open one, all that were due in it."""
        if self.rate is not None or self.elapsed_s <= found.end:
            self._taken.setdefault(found, []).append(latency_s * 1000)

    def note_failure(self, found: Slice, error: psycopg.Error) -> None:
        """A refusal."""
        self._failures.setdefault(found, Counter())[error.sqlstate or type(error).__name__] += 1

    def measured(self) -> list[SliceResult]:
        """What was measured in each slice that ended."""
        return [
            SliceResult(
                "locust",
                self.users,
                found.strategy,
                found.round,
                LoadResult(
                    len(self._taken.get(found, ())),
                    self.slices.slice_s,
                    self._taken.get(found, ()),
                    dict(self._failures.get(found, {})),
                ),
            )
            for found in sorted({*self._taken, *self._failures}, key=lambda each: each.begin)
            if self.elapsed_s >= found.end
        ]


_loads: dict[Environment, Load] = {}


class Client(User):
    """A connection to PostgreSQL that sends one statement after the other."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect; the connection waits through gevent, since locust patched what psycopg waits with."""
        self._load = _loads[self.environment]
        self._rng = random.Random(f"{self._load.seed} {random.random()}")  # noqa: S311 - draws rows, guards nothing
        self._connection = psycopg.connect(self._load.dsn, autocommit=True)
        self._load.users = max(self._load.users, self.environment.runner.user_count if self.environment.runner else 0)
        self._load.is_begun.wait()

    def on_stop(self) -> None:
        """Disconnect."""
        self._connection.close()

    @task
    def send(self) -> None:
        """The next statement that is due, counted from when it was."""
        load = self._load
        found = load.take()
        if found is None:
            raise StopUser
        at_s, its_slice = found
        if (ahead := at_s - load.elapsed_s) > 0:
            time.sleep(ahead)
        script = pick(load.scripts, self._rng)
        error: psycopg.Error | None = None
        try:
            self._connection.execute(
                load.statement(its_slice.strategy, script.name), script.draw(self._rng), prepare=True
            )
        except psycopg.Error as raised:
            error = raised
        latency_s = load.elapsed_s - at_s
        if error is None:
            load.note(its_slice, latency_s)
        else:
            load.note_failure(its_slice, error)
        self.environment.events.request.fire(
            request_type=str(its_slice.strategy),
            name=script.name,
            response_time=latency_s * 1000,
            response_length=0,
            exception=error,
            context={},
        )
        if error is not None and self._connection.closed:
            raise StopUser


def add_arguments(parser: ArgumentParser, **_: object) -> None:
    """Ours, beside locust's; the page is for this machine alone."""
    parser.set_defaults(web_host=LOOPBACK)
    parser.add_argument("--workload", default="single", help="single, batch, update or mixed")
    parser.add_argument("--strategies", default="none,empty,capture", help="of none, empty, capture; by turns")
    parser.add_argument("--slice-s", type=float, default=1.0, help="seconds of a slice")
    parser.add_argument("--rounds", type=int, default=5, help="slices of each strategy")
    parser.add_argument("--rate", type=float, default=0.0, help="open loop: statements a second; 0: closed loop")
    parser.add_argument("--threshold", action="append", help="such as capture.p99<=20 or capture/none>=0.7")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", default=None, help="where every sample is written, as JSON")


def prepare(environment: Environment, **_: object) -> None:
    """Refuse what is not on this machine before anything is sent, and the page elsewhere than on it."""
    options: Any = environment.parsed_options
    try:
        if options.web_host != LOOPBACK:
            raise RefusedError(f"locust's page is not bound to {options.web_host}", hint=f"--web-host {LOOPBACK}")
        dsn = os.environ.get("HARNESS_LOAD_DSN", "")
        if not dsn:
            raise RefusedError("HARNESS_LOAD_DSN is not set", hint="python benchmarks/locust/load.py starts locust")
        load = Load(options, require_loopback(dsn))
        with psycopg.connect(load.dsn, autocommit=True) as connection:
            missing = set(load.strategies) - find_tables(connection)
        if missing:
            raise RefusedError(
                f"there is no table for {', '.join(sorted(missing))}",
                hint="python benchmarks/locust/load.py makes them",
            )
    except (HarnessError, psycopg.OperationalError, ValueError) as error:
        hint = getattr(error, "hint", "")
        print(f"{error}{f' ({hint})' if hint else ''}", file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_REFUSED) from None
    _loads[environment] = load
    hooks: Any = environment.events  # they have no annotations
    hooks.test_start.add_listener(lambda **_: load.reset())
    hooks.spawning_complete.add_listener(lambda **_: load.begin())
    hooks.quitting.add_listener(lambda **_: finish(environment))
    if options.headless:
        threading.Thread(target=_quit_at_the_end, args=(environment, load), daemon=True).start()


def _quit_at_the_end(environment: Environment, load: Load) -> None:
    while environment.runner is None or not load.is_begun.is_set():
        time.sleep(0.05)
    # Slices end by the clock; those who send what was due in the last one are waited for.
    while load.slices.at(load.elapsed_s) is not None or environment.runner.user_count:
        time.sleep(0.05)
    environment.runner.quit()


def finish(environment: Environment) -> None:
    """Write what was measured; exit with 1 if a threshold was not kept."""
    load = _loads[environment]
    found = load.measured()
    if load.result:
        write_slices(Path(load.result), found)
    results = by_strategy(found)
    missed = []
    for each in load.thresholds:
        value = measured(each.what, results)
        if not each.holds(value):
            missed.append(each)
            print(f"threshold missed: {each}: {value:,.3f}", file=sys.stderr)  # noqa: T201
    # Locust's own is 1 if any statement failed, which is a threshold's matter here.
    environment.process_exit_code = EXIT_CHECK_FAILED if missed or not found else 0


_HOOKS: Any = events
_HOOKS.init_command_line_parser.add_listener(add_arguments)
_HOOKS.init.add_listener(prepare)
