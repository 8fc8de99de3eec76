"""pgbench, a second client that shares no code with ours: the same scripts, written in C."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from harness.bench.load.samples import LoadResult
from harness.bench.load.scripts import Script
from harness.errors import BinariesNotFoundError, ServerError, WaitTimeoutError
from harness.logs import redact
from harness.postgres import Installation
from harness.postgres.identity import child_environment
from harness.postgres.installations import find_installations

Protocol = Literal["simple", "extended", "prepared"]

# Beyond the time that was asked for: connecting 64 clients, and the last statement of each.
_GRACE_S = 60.0
_COUNT = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_RATE = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)", re.MULTILINE)
_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
}


def find_pgbench(installation: Installation | None = None) -> Path:
    """The program, of an installation or of the first that has it.

    Raises:
        BinariesNotFoundError: none has it.
    """
    for found in (installation,) if installation is not None else find_installations():
        try:
            return found.program("pgbench")
        except BinariesNotFoundError as error:
            missing = error
    if installation is not None:
        raise missing
    raise BinariesNotFoundError("no PostgreSQL here has pgbench", hint="install PostgreSQL's contrib programs")


def run_pgbench(
    program: Path,
    dsn: str,
    scripts: Sequence[Script],
    table: sql.Identifier,
    *,
    clients: int,
    seconds: int | None = None,
    transactions: int | None = None,
    rate: float | None = None,
    protocol: Protocol = "simple",
    has_latencies: bool = False,
) -> LoadResult:
    """Run it once, to its end.

    Args:
        program: pgbench.
        dsn: of the coordinator or the one server, checked by `require_loopback` unless the server is our own.
        scripts: of one workload.
        table: that they write.
        clients: connections; two threads serve them.
        seconds: how long; or
        transactions: how many each client sends.
        rate: statements a second of all clients, due at random moments; each is counted from when it was due. None:
            each client sends the next as soon as it has the answer.
        protocol: how statements are sent.
        has_latencies: whether each statement's latency is kept.

    Raises:
        ServerError: it failed.
        WaitTimeoutError: it did not end.
    """
    with tempfile.TemporaryDirectory(prefix="harness-pgbench-") as directory:
        place = Path(directory)
        arguments = ["-n", "-c", str(clients), "-j", str(min(clients, 2)), "-M", protocol]
        arguments += ["-T", str(seconds)] if seconds is not None else ["-t", str(transactions)]
        if rate is not None:
            arguments += ["-R", str(rate)]
        if has_latencies:
            arguments += ["-l", "--log-prefix", str(place / "log")]
        for number, script in enumerate(scripts):
            path = place / f"{number}_{script.name}.sql"
            path.write_text(script.for_pgbench(table), encoding="utf-8")
            arguments += ["-f", f"{path}@{script.weight}"]
        said = _run(program, arguments, dsn, place, (seconds or 0) + _GRACE_S)
        count, tps = _COUNT.search(said), _RATE.search(said)
        if count is None or tps is None or float(tps[1]) <= 0:
            raise ServerError(f"pgbench did not say what it did: {said.strip()[-200:]}")
        latencies = [each for path in sorted(place.glob("log.*")) for each in read_log(path.read_text("utf-8"))]
        return LoadResult(int(count[1]), int(count[1]) / float(tps[1]), latencies)


def read_log(text: str) -> list[float]:
    """The latencies of a log of transactions, in milliseconds.

    The third column is the time in microseconds, with a rate from when the transaction was due (PostgreSQL 18, pgbench,
    "Per-Transaction Logging"); one that was skipped or failed has a word there.
    """
    columns = (line.split() for line in text.splitlines())
    return [int(column[2]) / 1000 for column in columns if len(column) > 2 and column[2].isdigit()]


def _run(program: Path, arguments: list[str], dsn: str, place: Path, timeout_s: float) -> str:
    found = conninfo_to_dict(dsn)
    # By variables: a process list shows arguments.
    variables = {name: str(found[word]) for word, name in _VARIABLES.items() if found.get(word)}
    try:
        done = subprocess.run(
            [str(program), *arguments],
            cwd=place,
            env=child_environment(place, variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise WaitTimeoutError("pgbench", elapsed_s=timeout_s) from None
    except OSError as error:
        raise ServerError(f"{program} could not be run: {error.strerror}") from None
    if done.returncode != 0:
        said = redact(done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
        complaint = next((line for line in said if "error" in line.lower()), said[-1])
        raise ServerError(f"pgbench failed with exit code {done.returncode}: {complaint}")
    return done.stdout
