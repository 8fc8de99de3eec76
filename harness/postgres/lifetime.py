"""What must not outlive this process: servers and their directories, at exit and after a kill."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

import psutil
from filelock import FileLock, Timeout

from harness.logs import get_logger
from harness.postgres.places import own_directory, servers_dir, sockets_dir
from harness.postgres.processes import (
    find_postmaster,
    kill_below,
    kill_family,
    read_postmaster_file,
    remove_shared_memory,
)

# temporary: goes with its owner. kept: its directory stays, its processes go. detached: runs on without an owner.
Mode = Literal["temporary", "kept", "detached"]

_log = get_logger("postgres")
_guard = threading.RLock()
_alive: dict[int, Destroyable] = {}
_registered_pid: int | None = None
_swept: set[Path] = set()
_END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Destroyable(Protocol):
    """Something that leaves nothing behind once it was destroyed."""

    def destroy(self) -> None:
        """Stop all processes and remove all files."""


def register(what: Destroyable) -> None:
    """Have ``what`` destroyed when this process ends in any way but a SIGKILL."""
    global _registered_pid  # noqa: PLW0603 - once a process
    with _guard:
        if _registered_pid != os.getpid():
            _alive.clear()  # a forked child inherits the list, not the duty
            _registered_pid = os.getpid()
            atexit.register(destroy_all)
        _alive[id(what)] = what


def unregister(what: Destroyable) -> None:
    """``what`` has been destroyed, or is meant to stay."""
    with _guard:
        _alive.pop(id(what), None)


def destroy_all() -> None:
    """Destroy everything that is registered, the youngest first.

    Signals that would end this process wait until it is done: an impatient second Ctrl-C leaves nothing behind.

    Raises:
        ExceptionGroup: what failed, all of it; the rest was destroyed.
    """
    if _registered_pid != os.getpid():
        return
    failures: list[Exception] = []
    with _signals_held():
        while True:
            with _guard:
                if not _alive:
                    break
                _, what = _alive.popitem()
            try:
                what.destroy()
            except Exception as error:  # all are gathered and raised together
                failures.append(error)
    if failures:
        raise ExceptionGroup("servers could not be removed", failures)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, *_END_SIGNALS)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def install_signal_handlers(end: Callable[[int], BaseException] = lambda number: SystemExit(128 + number)) -> None:
    """Make SIGTERM and SIGHUP end this process by an exception, so that everything is cleaned up.

    For programs, such as the command line and the tests: call it once, in the main thread (elsewhere Python has no
    signals, and nothing is done). A handler that is already there is kept and called; an ignored signal stays ignored.
    Ctrl-C needs nothing: it is an exception already.

    Args:
        end: from the signal's number, the exception to raise.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _END_SIGNALS:
        before = signal.getsignal(number)
        if before is signal.SIG_IGN:
            continue

        def handle(
            received: int,
            frame: FrameType | None,
            before: Callable[[int, FrameType | None], object] | int | signal.Handlers | None = before,
        ) -> None:
            if callable(before):
                before(received, frame)
                return
            raise end(received)

        signal.signal(number, handle)


class OwnedDirectory:
    """A server's directory, with the lock that says whose it is.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, name: str, mode: Mode) -> OwnedDirectory:
        """Make ``<run_dir>/servers/<name>``, locked by this process."""
        parent = servers_dir()
        # Never seen without its owner by a sweep. Held for 2 ms: who starts three nodes at once need not wait 50 each.
        with FileLock(parent / "sweep.lock", thread_local=False).acquire(poll_interval=0.002):
            path = own_directory(parent / name)
            owned = cls._lock_directory(path, timeout_s=0)
            owned.mark(mode)
        return owned

    @classmethod
    def take_over(cls, path: Path) -> OwnedDirectory:
        """Become the owner of a directory that has none.

        Raises:
            filelock.Timeout: it has one.
        """
        return cls._lock_directory(path, timeout_s=0)

    @classmethod
    def _lock_directory(cls, path: Path, timeout_s: float) -> OwnedDirectory:
        lock = FileLock(path / "owner.lock", thread_local=False)
        lock.acquire(timeout=timeout_s)
        return cls(path, lock)

    def mark(self, mode: Mode, **facts: object) -> None:
        """Write down who owns it, and what else is to be known about it."""
        owner = {
            "mode": mode,
            "owner_pid": os.getpid(),
            "owner_started": psutil.Process().create_time(),
            **facts,
        }
        fresh = self.path / "owner.json.new"
        fresh.write_text(json.dumps(owner, indent=1), encoding="utf-8")
        fresh.replace(self.path / "owner.json")

    def release(self) -> None:
        """Leave it without an owner."""
        self._lock.release(force=True)

    def remove(self) -> None:
        """Remove it with all that is in it.

        Its lock goes last, and while nobody sweeps: a sweep that found the directory without it would put a new one
        there.
        """
        for path in self.path.iterdir() if self.path.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
        with FileLock(servers_dir() / "sweep.lock", thread_local=False).acquire(poll_interval=0.002):
            remove_tree(self.path)
        self.release()


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; what vanishes meanwhile is no failure."""

    def pass_over(_function: object, _path: str, info: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(info[1], FileNotFoundError):
            raise info[1]

    shutil.rmtree(path, onerror=pass_over)


def read_marker(path: Path) -> dict[str, object]:
    """What `OwnedDirectory.mark` wrote; empty where there is nothing to read."""
    try:
        marker = json.loads((path / "owner.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def kill_server_in(path: Path) -> None:
    """Kill every process of the server whose directory is ``path``, and free what the kernel keeps for it."""
    data_dir = path / "data"
    said = read_postmaster_file(data_dir)
    postmaster = find_postmaster(data_dir)
    if postmaster is not None:
        kill_family(postmaster)
    kill_below(path)
    remove_shared_memory(said)


def sweep() -> tuple[Path, ...]:
    """Remove what killed runs left in the present run directory: processes first, then directories.

    A directory is stale when nobody holds its lock, which the kernel lets go of when its owner dies. Kept ones stay,
    without processes; detached servers run on.

    Returns:
        The directories that were removed.
    """
    parent = servers_dir()
    removed = []
    stale = []
    with FileLock(parent / "sweep.lock", thread_local=False):
        for path in sorted(parent.iterdir()):
            if path.is_dir() and read_marker(path).get("mode") != "detached":
                with contextlib.suppress(Timeout):
                    stale.append(OwnedDirectory.take_over(path))
    for owned in stale:
        marker = read_marker(owned.path)
        kill_server_in(owned.path)
        if marker.get("mode") == "kept":
            owned.release()
            continue
        socket_dir = marker.get("socket_dir")
        if isinstance(socket_dir, str) and Path(socket_dir).parent == sockets_dir():
            shutil.rmtree(socket_dir, ignore_errors=True)
        owned.remove()
        removed.append(owned.path)
        _log.info("swept", directory=str(owned.path), owner_pid=marker.get("owner_pid"))
    return tuple(removed)


def sweep_once() -> None:
    """`sweep`, at the first call in this process for each run directory."""
    parent = servers_dir()
    with _guard:
        if parent in _swept:
            return
        _swept.add(parent)
    sweep()
