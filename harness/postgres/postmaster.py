"""The processes of one server: launched, stopped, killed, frozen."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path
from typing import Literal

import psutil

from harness.errors import ServerError, WaitTimeoutError
from harness.postgres import lifetime, processes
from harness.postgres.identity import SystemUser, child_environment, start_process
from harness.waiting import wait_until

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
# A fast stop writes a checkpoint: seconds for a large shared_buffers on a slow disk.
STOP_DEADLINE_S = 60.0
# An immediate stop writes nothing; what takes longer is killed.
_IMMEDIATE_DEADLINE_S = 5.0
# Children of a killed postmaster notice within milliseconds; a busy one does not, and is killed after this time.
_ORPHANS_DEADLINE_S = 1.0


class Postmaster:
    """Whatever runs on one data directory.

    Args:
        name: the server's, for errors.
        root: the server's directory; the data directory is ``data`` in it.
        user: as whom it runs.
    """

    def __init__(self, name: str, root: Path, user: SystemUser) -> None:
        self._name = name
        self._root = root
        self._data_dir = root / "data"
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._is_frozen = False

    def launch(self, program: Path, log_path: Path) -> None:
        """Start ``program`` on the data directory, its output added to ``log_path``; nothing is waited for."""
        self._end_orphans()
        self.reap()
        log_path.touch(mode=0o600)  # statements with a user's data end up in it
        with log_path.open("ab") as output:
            self._process = start_process(
                [program, "-D", self._data_dir],
                self._user,
                cwd=self._root,
                output=output,
                environment=child_environment(self._root),
            )

    def _end_orphans(self) -> None:
        # They may still hold the shared memory of a postmaster that was killed alone: PostgreSQL would refuse to start.
        if not (self._data_dir / "postmaster.pid").exists():
            return
        with contextlib.suppress(WaitTimeoutError):
            wait_until(
                "orphans",
                lambda: not processes.processes_below(self._data_dir),
                deadline_s=_ORPHANS_DEADLINE_S,
                poll_s=0.005,
            )
        processes.kill_below(self._data_dir)

    def find(self) -> psutil.Process | None:
        """The living process, or None."""
        if self._process is None:
            return processes.find_postmaster(self._data_dir)
        if self._process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(self._process.pid)
        return None

    def require(self) -> psutil.Process:
        """The living process.

        Raises:
            ServerError: it is not running.
        """
        found = self.find()
        if found is None:
            raise ServerError(f"{self._name} is not running", hint="start it first", node=self._name)
        return found

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs, or where that is not known."""
        return None if self._process is None else self._process.poll()

    @property
    def says_ready(self) -> bool:
        """Whether ``postmaster.pid`` says that connections are accepted."""
        said, found = processes.read_postmaster_file(self._data_dir), self.find()
        return said is not None and found is not None and said.pid == found.pid and said.status in ("ready", "standby")

    def stop(self, mode: StopMode, deadline_s: float) -> None:
        """Ask it to stop and wait until it and its children are gone; a frozen one is thawed first.

        Raises:
            WaitTimeoutError: it still runs.
        """
        found = self.find()
        if found is not None:
            if self._is_frozen:
                self.thaw()
            members = processes.family(found)
            processes.send([found], _STOP_SIGNALS[mode])
            processes.wait_gone(f"{self._name} after a {mode} stop", members, deadline_s)
        self.reap()

    def kill(self) -> None:
        """SIGKILL to it and all its children."""
        found = self.find()
        if found is not None:
            processes.kill_family(found)
        self._is_frozen = False
        self.reap()

    def freeze(self) -> None:
        """SIGSTOP to it and all its children."""
        processes.freeze_family(self.require())
        self._is_frozen = True

    def thaw(self) -> None:
        """SIGCONT to all its children and to it."""
        processes.send(list(reversed(processes.family(self.require()))), signal.SIGCONT)
        self._is_frozen = False

    def end(self, *, orderly: bool) -> None:
        """Leave nothing running, nothing in the kernel.

        Args:
            orderly: stop it so that its directory can be used again; else as fast as it goes.
        """
        if not self._is_frozen:
            with contextlib.suppress(WaitTimeoutError):
                if orderly:
                    self.stop("fast", STOP_DEADLINE_S)
                else:
                    self.stop("immediate", _IMMEDIATE_DEADLINE_S)
        lifetime.kill_server_in(self._root)
        self.reap()

    def reap(self) -> None:
        """Take note of the end of a process that has ended."""
        if self._process is not None:
            self._process.wait(timeout=STOP_DEADLINE_S)
            self._process = None

    def let_go(self) -> None:
        """Let it outlive this process."""
        if self._process is not None:
            self._process.returncode = 0  # init's child from now on: no complaint that nobody waits for it
            self._process = None
