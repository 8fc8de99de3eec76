"""A load on servers of its own, or on one of this machine: locust, then pgbench with the same scripts, side by side.

``python benchmarks/locust/load.py --users 8 --workload single``; ``--help`` has the rest, ``docs/scaling.md`` examples.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow
from rich.console import Console
from rich.table import Table

from harness.bench.load.agreement import compare_clients
from harness.bench.load.document import COLUMNS, SliceResult, by_strategy, read_slices, summary_rows, to_csv
from harness.bench.load.loopback import require_loopback
from harness.bench.load.pgbench import find_pgbench, run_pgbench
from harness.bench.load.scripts import WORKLOADS, workload
from harness.bench.load.slices import Slices
from harness.bench.load.tables import LoadTable, Strategy, check_captured, load_tables
from harness.bench.load.thresholds import parse_threshold
from harness.bench.places import open_cluster, open_server
from harness.clusters import choose_provider
from harness.errors import (
    EXIT_CHECK_FAILED,
    EXIT_GOOD,
    EXIT_REFUSED,
    BadInputError,
    BinariesNotFoundError,
    CitusMissingError,
    EnvironmentMissingError,
    HarnessError,
)

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
ROOT = Path(__file__).parents[2]
MOST_USERS = 64
# 64 users and what Citus opens for each on every node.
SETTINGS = {"max_connections": "400"}
# Locust's own start and end beside its slices.
_GRACE_S = 120.0

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def parse(arguments: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = ArgumentParser(prog="load.py", description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dsn", help="a database on 127.0.0.1 (default: servers of its own, removed afterwards)")
    parser.add_argument("--plain", action="store_true", help="one server without Citus, even where there is one")
    parser.add_argument("--workload", default="single", choices=sorted(WORKLOADS))
    parser.add_argument(
        "--users", default="8", help=f"how many, 1 to {MOST_USERS}; several, one after the other: 1,8,64"
    )
    parser.add_argument("--strategies", default="none,empty,capture", help="by turns")
    parser.add_argument("--rate", type=float, default=0.0, help="open loop: statements a second; 0: closed loop")
    parser.add_argument("--slice-s", type=float, default=1.0, help="seconds of a slice")
    parser.add_argument("--rounds", type=int, default=5, help="slices of each strategy")
    parser.add_argument("--threshold", action="append", default=[], help="such as capture.p99<=20, capture/none>=0.7")
    parser.add_argument("--no-pgbench", action="store_true", help="locust alone")
    parser.add_argument("--web", action="store_true", help="locust's page on 127.0.0.1, until Ctrl-C")
    parser.add_argument("--web-port", type=int, default=8089)
    parser.add_argument("--out", type=Path, help="a directory for locust's CSV files, ours, and all samples")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


@contextmanager
def open_dsn(options: Namespace) -> Iterator[str]:
    """The database that is loaded: the one that was named, if it is on this machine; else one of servers of its own."""
    if options.dsn:
        yield require_loopback(options.dsn)
        return
    try:
        provider = None if options.plain else choose_provider()
    except CitusMissingError as error:
        _err.print(f"no Citus ({error.message}): one server", markup=False)
        provider = None
    opened = open_server(settings=SETTINGS) if provider is None else open_cluster(provider, settings=SETTINGS)
    # Alembic takes a third of a second to import, which who names a database need not wait for.
    from harness.chain.runner import upgrade  # noqa: PLC0415

    with opened as place:
        upgrade(place.dsn)
        _err.print(f"PostgreSQL {place.facts['PostgreSQL']}, Citus {place.facts['Citus']}, {place.facts['cluster']}")
        yield place.dsn


def run_locust(options: Namespace, dsn: str, users: int, directory: Path) -> tuple[int, list[SliceResult]]:
    """Locust in a process of its own, since gevent patches everything in it.

    Returns:
        Its exit code: 0, 1 (a threshold was missed) or 2 (it refused); and what it measured.
    """
    result = directory / f"locust_{users}.json"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--loglevel", "WARNING", "--result", str(result)]
    command += ["--workload", options.workload, "--strategies", options.strategies, "--seed", str(options.seed)]
    command += ["--slice-s", str(options.slice_s), "--rounds", str(options.rounds), "--rate", str(options.rate)]
    command += [word for each in options.threshold for word in ("--threshold", each)]
    command += ["--users", str(users), "--spawn-rate", str(users)]
    if options.web:
        command += ["--web-host", "127.0.0.1", "--web-port", str(options.web_port)]
        _err.print(f"http://127.0.0.1:{options.web_port}, until Ctrl-C")
    else:
        command += ["--headless", "--only-summary", "--csv", str(directory / f"locust_{users}")]
    slices = len(options.strategies.split(","))
    timeout_s = None if options.web else options.rounds * slices * (options.slice_s + 0.1) + _GRACE_S
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LOCUST_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        env={**environment, "HARNESS_LOAD_DSN": dsn, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, read_slices(result) if result.is_file() else []


def run_second(
    options: Namespace, dsn: str, users: int, tables: dict[Strategy, LoadTable], program: Path
) -> list[SliceResult]:
    """Pgbench in the same slices."""
    seconds = max(round(options.slice_s), 1)
    slices = Slices(tuple(tables), slice_s=seconds, rounds=options.rounds, seed=options.seed)
    found = []
    for number in range(options.rounds * len(tables)):
        its_slice = slices.number(number)
        if its_slice is None:
            break
        result = run_pgbench(
            program,
            dsn,
            workload(options.workload),
            tables[its_slice.strategy].name,
            clients=users,
            seconds=seconds,
            rate=options.rate or None,
            protocol="prepared",  # as psycopg does
            has_latencies=True,
        )
        found.append(SliceResult("pgbench", users, its_slice.strategy, its_slice.round, result))
    return found


def show(slices: Sequence[SliceResult], title: str) -> None:
    """The table that people read."""
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("client", "strategy") else "right")
    for row in summary_rows(slices):
        table.add_row(*row)
    # In a file there is no width, and a figure that is cut is none.
    Console(highlight=False, width=max(_out.width, 130)).print(table)


def load(options: Namespace, dsn: str, directory: Path) -> int:
    """All of it on one database.

    Returns:
        The exit code: 1 if a threshold was missed, or a change was not captured.
    """
    users = [_users(text) for text in options.users.split(",")]
    strategies = [_strategy(text) for text in options.strategies.split(",")]
    for text in options.threshold:
        parse_threshold(text)
    _require_locust()
    program = None if options.no_pgbench or options.web else _pgbench()
    slices: list[SliceResult] = []
    code = EXIT_GOOD
    with psycopg.connect(dsn, autocommit=True) as connection:
        is_citus = _is_citus(connection)
        with load_tables(connection, strategies, is_distributed=is_citus) as tables:
            for count in users:
                found_code, found = run_locust(options, dsn, count, directory)
                code = max(code, found_code)
                slices += found
                if program is not None and found:
                    second = run_second(options, dsn, count, tables, program)
                    slices += second
                    for each in compare_clients(by_strategy(found), by_strategy(second), is_open=bool(options.rate)):
                        _out.print(f"{count} users, {each}", markup=False, soft_wrap=True)
            if Strategy.CAPTURE in tables:
                checked = check_captured(connection, tables[Strategy.CAPTURE])
                _out.print(
                    f"{checked.name}: {'right' if checked.passed else 'WRONG'}: {checked.detail}",
                    markup=False,
                    soft_wrap=True,
                )
                code = code if checked.passed else EXIT_CHECK_FAILED
    loop = f"open loop, {options.rate:,.0f} a second" if options.rate else "closed loop"
    show(slices, f"{options.workload}, {loop}, {'distributed tables' if is_citus else 'one server'}")
    (directory / "load.csv").write_text(to_csv(slices), encoding="utf-8")
    return code


def _require_locust() -> None:
    found = importlib.util.find_spec("locust")
    # This directory has its name, and is found as a package without a file.
    if found is None or found.origin is None:
        raise EnvironmentMissingError("locust is not installed", hint="pip install '.[benchmarks]'")


def _users(text: str) -> int:
    if not text.strip().isdigit() or not 1 <= int(text) <= MOST_USERS:
        raise BadInputError(f"--users {text!r} is no number of users", hint=f"1 to {MOST_USERS}, or several: 1,8,64")
    return int(text)


def _strategy(text: str) -> Strategy:
    if text not in set(Strategy):
        raise BadInputError(f"there is no strategy {text!r}", hint=f"strategies are {', '.join(Strategy)}")
    return Strategy(text)


def _pgbench() -> Path | None:
    try:
        return find_pgbench()
    except BinariesNotFoundError as error:
        _err.print(f"locust alone, with no second client beside it: {error.message}", markup=False)
        return None


def _is_citus(connection: psycopg.Connection[TupleRow]) -> bool:
    return connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'citus'").fetchone() is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it.

    Returns:
        0 good, 1 a threshold was missed or a change not captured, 2 refused, 3 the environment.
    """
    options = parse(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="harness-load-") as temporary:
            directory = options.out or Path(temporary)
            directory.mkdir(parents=True, exist_ok=True)
            with open_dsn(options) as dsn:
                return load(options, dsn, directory)
    except HarnessError as error:
        _err.print(f"{error.message}{f' ({error.hint})' if error.hint else ''}", markup=False)
        return error.exit_code
    except psycopg.OperationalError as error:
        _err.print(f"{error}", markup=False)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_GOOD


if __name__ == "__main__":
    sys.exit(main())
