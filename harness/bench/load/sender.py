"""Who sends a load of the group `throughput`: pgbench, or threads of our own where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from harness.bench.load.clients import run_threads
from harness.bench.load.pgbench import Protocol, find_pgbench, run_pgbench
from harness.bench.load.samples import LoadResult
from harness.bench.load.scripts import Script
from harness.errors import BinariesNotFoundError
from harness.postgres import Installation


@dataclass(frozen=True)
class Sender:
    """A client program.

    Attributes:
        program: pgbench; None: threads of this process.
        clients: connections.
        missing: why there is no pgbench; empty if there is.
    """

    program: Path | None
    clients: int
    missing: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return "pgbench" if self.program is not None else "psycopg threads"

    def send(
        self,
        dsn: str,
        table: sql.Identifier,
        scripts: Sequence[Script],
        *,
        seconds: int,
        transactions: int | None = None,
        rate: float | None = None,
        protocol: Protocol = "simple",
    ) -> LoadResult:
        """Send statements, as fast as the answers come or at a rate.

        Args:
            dsn: of the coordinator or the one server, which is our own.
            table: that is written.
            scripts: of one workload.
            seconds: how long; threads take no ``transactions``.
            transactions: by each client, instead of the seconds.
            rate: statements a second that are due; then latencies are kept, each from when it was due.
            protocol: of pgbench; psycopg always prepares.
        """
        if self.program is None:
            return run_threads(dsn, scripts, table, clients=self.clients, seconds=seconds, rate=rate)
        return run_pgbench(
            self.program,
            dsn,
            scripts,
            table,
            clients=self.clients,
            seconds=None if transactions else seconds,
            transactions=transactions,
            rate=rate,
            protocol=protocol,
            has_latencies=rate is not None,
        )


def choose_sender(clients: int, installation: Installation | None = None) -> Sender:
    """pgbench where there is one.

    Args:
        clients: connections.
        installation: whose pgbench; None: of the first installation that has one.
    """
    try:
        return Sender(find_pgbench(installation), clients)
    except BinariesNotFoundError as error:
        return Sender(None, clients, error.message)
