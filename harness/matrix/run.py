"""Runs the matrix outside pytest: one cluster, a database for each row; without Citus what runs on one server."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from harness.clusters.cluster import Cluster
from harness.clusters.local import LocalCluster, local_cluster
from harness.clusters.topology import prove_topology
from harness.clusters.versions import choose_citus_installation
from harness.errors import (
    BadInputError,
    CheckFailedError,
    CitusMissingError,
    HarnessError,
    UnsupportedVersionError,
)
from harness.logs import redact
from harness.matrix.model import MatrixResult, Row, RowResult
from harness.matrix.rows import ROWS
from harness.postgres.installations import Installation, choose_installation
from harness.postgres.node import DsnNode
from harness.postgres.server import Server
from harness.rehearsal.model import Verdict
from harness.settings import load_settings

WORKERS = 2
OnRow = Callable[[Row], None]


def choose_rows(numbers: Sequence[int]) -> tuple[Row, ...]:
    """The rows of these numbers, in the plan's order; all if none is given.

    Raises:
        BadInputError: there is no row of such a number.
    """
    known = {row.number for row in ROWS}
    unknown = sorted(set(numbers) - known)
    if unknown:
        raise BadInputError(f"the matrix has no row {unknown[0]}", hint=f"rows are {min(known)} to {max(known)}")
    return tuple(row for row in ROWS if not numbers or row.number in numbers)


def run_matrix(rows: Sequence[Row] = ROWS, *, on_row: OnRow = lambda _row: None) -> MatrixResult:
    """Run rows of the matrix on a cluster of 1+2 that is made for it and removed after it.

    Where there is no Citus, rows that need none run on one plain server; the others are skipped with the reason, or,
    with ``HARNESS_REQUIRE_CITUS=1``, fail with it.

    Args:
        rows: which.
        on_row: told before each row.

    Raises:
        BinariesNotFoundError: there is no PostgreSQL at all.
        HarnessError: the cluster could not be started.
    """
    started = time.monotonic()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        installation, missing = choose_citus_installation(), ""
    except (CheckFailedError, CitusMissingError, UnsupportedVersionError) as error:
        installation, missing = choose_installation(), f"environment: {error.message}"
    open_place = _plain_place if missing else _cluster_place
    with open_place(installation) as place:
        start_s = time.monotonic() - started
        results = tuple(_run_or_skip(row, place, missing, on_row) for row in rows)
    return MatrixResult(
        rows=results,
        started_at=started_at,
        elapsed_s=time.monotonic() - started,
        start_s=start_s,
        missing=missing,
        facts=_facts(installation),
    )


def _facts(installation: Installation) -> dict[str, str]:
    return {
        "PostgreSQL": installation.version,
        "Citus": installation.citus_version or "none",
        "cluster": f"1+{WORKERS}, local processes" if installation.citus_version else "none: one server",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count() or 1),
        "Python": platform.python_version(),
    }


# Makes a database for a row, and takes it away.
_Place = Callable[[str], AbstractContextManager[Cluster]]


@contextmanager
def _cluster_place(installation: Installation) -> Iterator[_Place]:
    with local_cluster(workers=WORKERS, name="matrix", installation=installation) as cluster:
        yield lambda dbname: _database_of_cluster(cluster, dbname)


@contextmanager
def _plain_place(installation: Installation) -> Iterator[_Place]:
    server = Server.create(installation, name="matrix")
    try:
        server.start()
        yield lambda dbname: _database_of_server(server, dbname)
    finally:
        server.destroy()


@contextmanager
def _database_of_cluster(cluster: LocalCluster, dbname: str) -> Iterator[Cluster]:
    cluster.create_database(dbname)
    nodes = [DsnNode(node.name, node.dsn(dbname)) for node in cluster.nodes]
    view = Cluster(dbname, nodes[0], nodes[1:])
    try:
        prove_topology(view, workers=WORKERS)
        yield view
    finally:
        view.close()
        cluster.drop_database(dbname)


@contextmanager
def _database_of_server(server: Server, dbname: str) -> Iterator[Cluster]:
    server.create_database(dbname)
    view = Cluster(dbname, DsnNode(server.name, server.dsn(dbname)), ())
    try:
        yield view
    finally:
        view.close()
        server.drop_database(dbname)


def _run_or_skip(row: Row, place: _Place, missing: str, on_row: OnRow) -> RowResult:
    result = RowResult(row.number, row.name, row.title, Verdict.SKIPPED, row.claim, row.reality, row.finding)
    if missing and load_settings().require_citus:
        return replace(result, verdict=Verdict.FAILED, reason=f"{missing} (HARNESS_REQUIRE_CITUS is set)")
    if missing and row.needs_citus:
        return replace(result, reason=missing)
    on_row(row)
    with place(f"matrix_row_{row.number}") as cluster:
        started = time.monotonic()
        try:
            report = row.run(cluster)
        except Exception as error:
            elapsed_s = time.monotonic() - started
            return replace(result, verdict=Verdict.FAILED, reason=_describe(error), elapsed_s=elapsed_s)
        return replace(
            result,
            verdict=Verdict.PASSED,
            topology=report.topology,
            counts=report.counts,
            elapsed_s=time.monotonic() - started,
        )


def _describe(error: Exception) -> str:
    """A check that failed says itself what is wrong; anything else keeps its traceback."""
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, CheckFailedError):
        return redact(error.message + notes)
    if isinstance(error, HarnessError):
        node = f" [{error.node}]" if error.node else ""
        return redact(f"{type(error).__name__}{node}: {error.message}{notes}")
    return redact("".join(traceback.format_exception(error)).strip())
