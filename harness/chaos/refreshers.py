"""Who refreshes: people's sessions, and the scheduler as a real process that is stopped, killed and frozen."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import psycopg

from harness.chaos.board import Board
from harness.chaos.shop import KEPT
from harness.errors import EXIT_ENVIRONMENT, HarnessError
from harness.postgres.deadlines import DeadlineConnection
from harness.trickle import StreamTables

# A refresh takes some 0.1 s; one that waits for a frozen node as long as that is frozen, and D9 for 5 s.
ANSWER_DEADLINE_S = 12.0
_PAUSE_S = 0.2
_RECONNECT_S = 0.1
_STOP_DEADLINE_S = 60.0


class Refresher(threading.Thread):
    """A session that refreshes what it likes, by hand.

    Args:
        number: which.
        connect: a new connection to the coordinator.
        chance: its own.
        board: shared by all.
    """

    def __init__(
        self, number: int, connect: Callable[[], DeadlineConnection], *, chance: random.Random, board: Board
    ) -> None:
        super().__init__(name=f"chaos refresher {number}", daemon=True)
        self._connect = connect
        self._chance = chance
        self._board = board

    def run(self) -> None:
        """The thread's work; never raises."""
        try:
            while not self._board.stopping.is_set():
                self._session()
                self._board.stopping.wait(_RECONNECT_S)
        except Exception as error:
            self._board.bug(self.name, error)

    def _session(self) -> None:
        began_s = self._board.now_s()
        try:
            connection = self._connect()
        except psycopg.Error as error:
            self._board.failed(self.name, "connects", error, began_s)
            return
        try:
            connection.deadline_s = ANSWER_DEADLINE_S
            connection.execute("SET application_name = 'harness chaos refresher'")
            with StreamTables(connection) as tables:
                while not self._board.stopping.is_set() and not connection.closed:
                    self._refresh(tables)
                    self._board.stopping.wait(self._chance.uniform(0, _PAUSE_S))
        except (HarnessError, psycopg.Error) as error:
            self._board.failed(self.name, "opens", error, began_s)
        finally:
            connection.close()

    def _refresh(self, tables: StreamTables) -> None:
        chance, board = self._chance, self._board
        name = chance.choice(KEPT).name
        mode = "FULL" if chance.random() < 0.08 else None
        wait_s = chance.choice((0.0, 0.0, 1.0))
        began_s = board.now_s()
        try:
            done = tables.refresh(f"public.{name}", mode=mode, wait_s=wait_s)
        except (
            Exception
        ) as error:  # any: what is no error of ours or the server's is a bug, and is told with its traceback
            board.failed(self.name, name, error, began_s)
        else:
            board.refreshed(done.action, began_s, board.now_s())


class SchedulerProcess:
    """``harness scheduler run``, and another one whenever it ended.

    Args:
        dsn: the coordinator's database.
        board: told of its refreshes.
    """

    def __init__(self, dsn: str, board: Board) -> None:
        self._dsn = dsn
        self._board = board
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._complaint: list[str] = []
        self._has_begun = False

    def start(self) -> None:
        """Start one, unless one runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self._reap()
        arguments = ["-m", "harness", "scheduler", "run", "--json", "--no-metrics", "--wait-for-coordinator"]
        self._process = subprocess.Popen(
            [sys.executable, *arguments, "--poll", "0.2", "--max-backoff", "1s", "--grace", "10s"],
            env={**os.environ, "HARNESS_DSN": self._dsn},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._complaint = []
        self._has_begun = False
        self._readers = [
            threading.Thread(
                target=self._read_events, args=[self._process], name="chaos scheduler events", daemon=True
            ),
            threading.Thread(
                target=self._read_complaint, args=[self._process], name="chaos scheduler complaints", daemon=True
            ),
        ]
        for reader in self._readers:
            reader.start()

    def _read_events(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            try:
                event = json.loads(line)
            except ValueError:
                self._board.trouble("bug", "scheduler", f"no JSON: {line[:200]}")
                continue
            now_s = self._board.now_s()
            self._has_begun = True
            if event.get("kind") == "refreshed":
                took_s = (event.get("elapsed_ms") or 0.0) / 1000
                self._board.refreshed(str(event.get("action")), now_s - took_s, now_s)
            elif event.get("kind") == "failed":
                self._board.failures["scheduler"] += 1
                self._board.examples.setdefault("scheduler", str(event.get("message")))
            elif event.get("kind") == "repaired":
                self._board.note(f"scheduler repaired: {event.get('message')}")

    def _read_complaint(self, process: subprocess.Popen[str]) -> None:
        self._complaint.extend(process.stderr or ())

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
        self._reap()

    def freeze(self) -> None:
        """Stop it where it is."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM; it has to leave with 0."""
        process = self._process
        if process is None:
            return
        self.thaw()
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._board.trouble("leftover", "scheduler", f"it still runs {_STOP_DEADLINE_S:.0f} s after SIGTERM")
            process.kill()
        self._reap()

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        code = process.wait(timeout=_STOP_DEADLINE_S)
        for reader in self._readers:
            reader.join(timeout=10)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        complaint = "".join(self._complaint).strip()
        # 3, or by the signal itself: it came while Python was still loading, before there was anything to finish.
        early = () if self._has_begun else (EXIT_ENVIRONMENT, -signal.SIGTERM)
        if code not in (0, -signal.SIGKILL, *early) or "Traceback" in complaint:
            self._board.trouble("unexpected_error", "scheduler", f"it left with {code}: {complaint[-3000:]}")
