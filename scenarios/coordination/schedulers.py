"""A scheduler in a process of its own, whose events a test waits for."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from scenarios.coordination.clients import Client

RUN = ["-m", "harness", "scheduler", "run", "--json", "--poll", "0.2"]


class SchedulerProcess(Client):
    """``harness scheduler run``, its events read as they come."""

    def __init__(self, dsn: str, *arguments: str, has_metrics: bool = False) -> None:
        metrics = ["--metrics", "127.0.0.1:0", "--observe", "0.3"] if has_metrics else ["--no-metrics"]
        super().__init__([*RUN, *metrics, *arguments], dsn)
        self.events: list[dict[str, Any]] = []
        self._news: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.complaint = ""
        self._readers = [
            threading.Thread(target=self._read, name="events", daemon=True),
            threading.Thread(target=self._read_complaint, name="complaints", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._news.put(json.loads(line))
        self._news.put(None)

    def _read_complaint(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.complaint += line

    def wait_for(self, kind: str, *, deadline_s: float = 30.0, **fields: Any) -> dict[str, Any]:
        """The next event of that kind with these fields; those before it are passed by."""
        until = time.monotonic() + deadline_s
        while True:
            try:
                event = self._news.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind} {fields} within {deadline_s} s: {self.events[-8:]}") from None
            assert event is not None, f"it ended before {kind} {fields}: {self.events[-8:]} {self.complaint}"
            self.events.append(event)
            if event["kind"] == kind and all(event.get(name) == value for name, value in fields.items()):
                return event

    def seen(self, kind: str) -> list[dict[str, Any]]:
        """The events of that kind so far."""
        while not self._news.empty():
            event = self._news.get_nowait()
            if event is not None:
                self.events.append(event)
        return [event for event in self.events if event["kind"] == kind]

    def finish(self, deadline_s: float = 60.0) -> int:
        """SIGTERM, and its exit code; all its events are there afterwards."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(timeout=deadline_s)
        for reader in self._readers:
            reader.join(timeout=10)
        self.seen("stopped")
        return code


@contextlib.contextmanager
def scheduler(dsn: str, *arguments: str, has_metrics: bool = False) -> Iterator[SchedulerProcess]:
    """A scheduler that does not outlive this block."""
    started = SchedulerProcess(dsn, *arguments, has_metrics=has_metrics)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.thaw()
            started.kill()
        for reader in started._readers:
            reader.join(timeout=10)
        for stream in (started.process.stdout, started.process.stderr):
            if stream is not None:
                stream.close()


def scrape(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus would read there."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own, on loopback
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
