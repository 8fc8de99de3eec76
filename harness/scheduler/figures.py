"""The scheduler's figures as Prometheus scrapes them, on an HTTP port of loopback unless asked otherwise."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from harness import __version__
from harness.errors import BadInputError, PortTakenError
from harness.scheduler.entries import Look
from harness.trickle.status import Holder, Status

STATUSES = ("INITIALIZING", "ACTIVE", "SUSPENDED", "ERROR")


@dataclass(frozen=True)
class Backlog:
    """What waits for one stream table.

    Attributes:
        rows: captured and not applied.
        held_by: whose open transactions hold rows back.
    """

    rows: int
    held_by: tuple[Holder, ...]


class Figures(Collector):
    """Counts of what happened, and the last look; asked from the threads of the HTTP server."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._refreshes: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._lease_waits: Counter[str] = Counter()
        self._last_s: dict[str, float] = {}
        self._takeovers = 0
        self._look: Look | None = None
        self._backlogs: dict[int, Backlog] = {}
        self._counts = {"connected": 0, "running": 0, "due": 0}

    def count_refresh(self, name: str, action: str, elapsed_s: float) -> None:
        """A refresh was done."""
        with self._guard:
            self._refreshes[name, action] += 1
            self._last_s[name] = elapsed_s

    def count_failure(self, name: str, error: str) -> None:
        """A refresh failed."""
        with self._guard:
            self._failures[name, error] += 1

    def count_lease_wait(self, name: str) -> None:
        """Somebody else was at it."""
        with self._guard:
            self._lease_waits[name] += 1

    def count_takeovers(self, count: int) -> None:
        """Stale leases were taken over."""
        with self._guard:
            self._takeovers += count

    def note_look(self, seen: Look | None, *, running: int, due: int) -> None:
        """What the last look at the catalog saw; None: the connection is lost."""
        with self._guard:
            self._counts = {"connected": int(seen is not None), "running": running, "due": due}
            if seen is None:
                return
            self._look = seen
            # What was dropped is no series any more.
            names = {entry.name for entry in seen.entries.values()}
            for counter in (self._refreshes, self._failures):
                for key in [key for key in counter if key[0] not in names]:
                    del counter[key]
            for table in (self._lease_waits, self._last_s):
                for name in [name for name in table if name not in names]:
                    del table[name]

    def note_backlogs(self, found: Sequence[Status]) -> None:
        """What waits, and who holds it."""
        with self._guard:
            self._backlogs = {
                status.stream_table.pgt_id: Backlog(sum(status.pending.values()), status.held_by) for status in found
            }

    def collect(self) -> Iterator[Metric]:
        """Everything, for one scrape (prometheus-client calls this)."""
        with self._guard:
            yield from self._collected()

    def _collected(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("pgtrickle_scheduler_info", "Version of the scheduler.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        for name, value in self._counts.items():
            yield GaugeMetricFamily(f"pgtrickle_scheduler_{name}", _COUNT_TEXTS[name], value=value)
        yield CounterMetricFamily(
            "pgtrickle_lease_takeovers", "Stale leases that were taken over.", value=self._takeovers
        )
        refreshes = CounterMetricFamily(
            "pgtrickle_refreshes", "Refreshes that were done.", labels=["stream_table", "action"]
        )
        for (table, action), count in self._refreshes.items():
            refreshes.add_metric([table, action], count)
        failures = CounterMetricFamily(
            "pgtrickle_refresh_failures", "Refreshes that failed.", labels=["stream_table", "error"]
        )
        for (table, error), count in self._failures.items():
            failures.add_metric([table, error], count)
        waits = CounterMetricFamily(
            "pgtrickle_lease_waits", "Refreshes that found somebody else at it.", labels=["stream_table"]
        )
        for table, count in self._lease_waits.items():
            waits.add_metric([table], count)
        last = GaugeMetricFamily("pgtrickle_last_refresh_seconds", "What it took last.", labels=["stream_table"])
        for table, seconds in self._last_s.items():
            last.add_metric([table], seconds)
        yield from (refreshes, failures, waits, last, *self._of_the_look(), *self._of_the_backlogs())

    def _of_the_look(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "pgtrickle_lag_seconds", "How old a stream table's rows are, at the last look.", labels=["stream_table"]
        )
        status = GaugeMetricFamily("pgtrickle_status", "1 for the status it has.", labels=["stream_table", "status"])
        errors = GaugeMetricFamily("pgtrickle_consecutive_errors", "Failures in a row.", labels=["stream_table"])
        if self._look is not None:
            for entry in self._look.entries.values():
                if entry.fresh_at is not None:
                    lag.add_metric([entry.name], lag_s(self._look.now, entry.fresh_at))
                errors.add_metric([entry.name], entry.failures)
                for word in STATUSES:
                    status.add_metric([entry.name, word], int(entry.status == word))
        yield from (lag, status, errors)

    def _of_the_backlogs(self) -> Iterator[Metric]:
        rows = GaugeMetricFamily(
            "pgtrickle_pending_rows", "Captured rows that are not applied yet.", labels=["stream_table"]
        )
        held = GaugeMetricFamily(
            "pgtrickle_horizon_held_seconds",
            "How long the oldest open transaction has held a stream table's changes back, and where it is.",
            labels=["stream_table", "node", "pid"],
        )
        entries = {} if self._look is None else self._look.entries
        for number, backlog in self._backlogs.items():
            if number not in entries:
                continue
            name = entries[number].name
            rows.add_metric([name], backlog.rows)
            for holder in backlog.held_by[:1]:
                held.add_metric([name, holder.node, str(holder.pid)], holder.age_s)
        yield from (rows, held)


_COUNT_TEXTS = {
    "connected": "1 while the scheduler has its database.",
    "running": "Refreshes at work.",
    "due": "Stream tables that are due.",
}


def lag_s(now: datetime, fresh_at: datetime) -> float:
    """How old something is, in seconds; never negative."""
    return max(0.0, (now - fresh_at).total_seconds())


def serve(figures: Figures, address: str) -> tuple[WSGIServer, str]:
    """Serve the figures over HTTP, from a thread.

    Args:
        figures: what is served.
        address: ``host:port``, ``port``, or ``[host]:port``; port 0: any.

    Returns:
        The server (``shutdown`` and ``server_close`` end it) and where it listens.

    Raises:
        BadInputError: it is no address.
        PortTakenError: somebody else listens there.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65_535:
        raise BadInputError(f"{address!r} is no address for metrics", hint="write host:port, such as 127.0.0.1:9187")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    try:
        server, _thread = start_http_server(int(port), addr=host, registry=registry)
    except OSError as error:
        raise PortTakenError(
            f"metrics can't be served at {address}: {error.strerror}",
            hint="choose another with --metrics, or --no-metrics",
        ) from None
    return server, f"http://{host}:{server.server_port}/metrics"
