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
from harness.clusters.databases import DatabaseCluster
from harness.clusters.providers import Provider, choose_provider
from harness.clusters.topology import prove_topology
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
from harness.postgres.installations import choose_installation
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


def run_matrix(
    rows: Sequence[Row] = ROWS, *, cluster: str | None = None, on_row: OnRow = lambda _row: None
) -> MatrixResult:
    """Run rows of the matrix on a cluster of 1+2 that is made for it and removed after it.

    Where there is no Citus, rows that need none run on one plain server; the others are skipped with the reason, or,
    with ``HARNESS_REQUIRE_CITUS=1``, fail with it.

    Args:
        rows: which.
        cluster: what the cluster is made of, see `choose_provider`. What is named here and missing is an error.
        on_row: told before each row.

    Raises:
        EnvironmentMissingError: the kind of cluster that was named cannot be had here.
        BinariesNotFoundError: there is no PostgreSQL at all.
        HarnessError: the cluster could not be started.
    """
    started = time.monotonic()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    made = _choose_maker(cluster)
    missing = f"environment: {made.message}" if isinstance(made, HarnessError) else ""
    with _plain_place() if isinstance(made, HarnessError) else _cluster_place(made) as (place, facts):
        start_s = time.monotonic() - started
        results = tuple(_run_or_skip(row, place, missing, on_row) for row in rows)
    return MatrixResult(
        rows=results,
        started_at=started_at,
        elapsed_s=time.monotonic() - started,
        start_s=start_s,
        missing=missing,
        facts=facts,
    )


def _choose_maker(cluster: str | None) -> Provider | HarnessError:
    """Who makes the cluster; why nobody does, where nobody was named."""
    try:
        return choose_provider(cluster)
    except (CheckFailedError, CitusMissingError, UnsupportedVersionError) as error:
        if cluster or load_settings().cluster:
            raise
        return error


def _facts(postgres_version: str, citus_version: str, where: str) -> dict[str, str]:
    return {
        "PostgreSQL": postgres_version,
        "Citus": citus_version,
        "cluster": where,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count() or 1),
        "Python": platform.python_version(),
    }


# Makes a database for a row, and takes it away.
_Place = Callable[[], AbstractContextManager[Cluster]]


@contextmanager
def _cluster_place(provider: Provider) -> Iterator[tuple[_Place, dict[str, str]]]:
    with provider.connect(workers=WORKERS) as cluster:
        shape = f"1+{len(cluster.workers)}, {provider.label}"
        yield (
            lambda: _database_of_cluster(cluster),
            _facts(provider.postgres_version, provider.citus_version, shape),
        )


@contextmanager
def _plain_place() -> Iterator[tuple[_Place, dict[str, str]]]:
    installation = choose_installation()
    server = Server.create(installation, name="matrix")
    try:
        server.start()
        facts = _facts(installation.version, "none", "none: one server")
        yield lambda: _database_of_server(server), facts
    finally:
        server.destroy()


@contextmanager
def _database_of_cluster(cluster: DatabaseCluster) -> Iterator[Cluster]:
    with cluster.temporary_database("matrix") as view:
        prove_topology(view, workers=len(cluster.workers))
        yield view


@contextmanager
def _database_of_server(server: Server) -> Iterator[Cluster]:
    with server.temporary_database("matrix") as database:
        yield Cluster(database.dbname, database, ())


def _run_or_skip(row: Row, place: _Place, missing: str, on_row: OnRow) -> RowResult:
    result = RowResult(row.number, row.name, row.title, Verdict.SKIPPED, row.claim, row.reality, row.finding)
    if missing and load_settings().require_citus:
        return replace(result, verdict=Verdict.FAILED, reason=f"{missing} (HARNESS_REQUIRE_CITUS is set)")
    if missing and row.needs_citus:
        return replace(result, reason=missing)
    on_row(row)
    with place() as cluster:
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
