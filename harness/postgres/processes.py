"""The processes of a server and what the kernel keeps for them, found by its directory and never by name alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.waiting import wait_until

# A killed process is gone within milliseconds, unless the disk hangs.
_GONE_DEADLINE_S = 10.0
_IPC_RMID = 0


@dataclass(frozen=True)
class PostmasterFile:
    """What ``postmaster.pid`` says.

    Attributes:
        pid: the postmaster's process.
        data_dir: the data directory that it serves.
        status: ``starting``, ``ready``, ``standby`` or ``stopping``; empty before the first.
        shared_memory_id: the number of its System V segment; None before it has one.
    """

    pid: int
    data_dir: Path
    status: str
    shared_memory_id: int | None


def read_postmaster_file(data_dir: Path) -> PostmasterFile | None:
    """Read ``postmaster.pid``; None where there is none, or half of one.

    Its lines are: pid, data directory, start time, port, socket directory, listen address, shared memory (key and
    id), status.
    """
    try:
        lines = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        pid = int(lines[0])
        directory = Path(lines[1])
    except (OSError, ValueError, IndexError):
        return None
    memory = lines[6].split() if len(lines) > 6 else []
    status = lines[7].strip() if len(lines) > 7 else ""
    return PostmasterFile(pid, directory, status, int(memory[1]) if len(memory) == 2 else None)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and was not reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find_postmaster(data_dir: Path) -> psutil.Process | None:
    """The postmaster that serves ``data_dir``, or None.

    The number in ``postmaster.pid`` may have gone to another program since: its working directory must be the data
    directory, and its arguments must name it.
    """
    said = read_postmaster_file(data_dir)
    if said is None or said.pid <= 0 or said.data_dir != data_dir:
        return None
    try:
        process = psutil.Process(said.pid)
        is_ours = Path(process.cwd()) == data_dir.resolve() and str(data_dir) in process.cmdline()
    except (psutil.Error, OSError):
        return None
    return process if is_ours and is_alive(process) else None


def processes_below(directory: Path) -> list[psutil.Process]:
    """Every living process whose working directory is ``directory`` or below it, where a server's all are."""
    resolved = directory.resolve()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            cwd = Path(process.cwd())
            if (cwd == resolved or resolved in cwd.parents) and is_alive(process) and process.pid != os.getpid():
                found.append(process)
    return found


def family(postmaster: psutil.Process) -> list[psutil.Process]:
    """The postmaster and all its living children."""
    try:
        return [postmaster, *(child for child in postmaster.children(recursive=True) if is_alive(child))]
    except psutil.NoSuchProcess:
        return []


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each; those that are gone already are passed over."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def wait_gone(label: str, processes: list[psutil.Process], deadline_s: float = _GONE_DEADLINE_S) -> None:
    """Wait until none of them runs any more (one that nobody reaped counts as gone).

    Raises:
        WaitTimeoutError: some are still there.
    """
    wait_until(
        f"the end of {label}",
        lambda: not any(is_alive(process) for process in processes),
        deadline_s=deadline_s,
        poll_s=0.001,
    )


def _stand_still(members: list[psutil.Process]) -> bool:
    try:
        return all(not is_alive(one) or one.status() == psutil.STATUS_STOPPED for one in members)
    except psutil.NoSuchProcess:
        return False  # it ended between two looks: look again


def _halt(members: list[psutil.Process]) -> None:
    send(members, signal.SIGSTOP)
    wait_until("the server to stand still", lambda: _stand_still(members), deadline_s=_GONE_DEADLINE_S, poll_s=0.0005)


def freeze_family(postmaster: psutil.Process) -> None:
    """Halt the postmaster, so that it forks no more, then all its children, and wait until they stand still."""
    _halt([postmaster])
    _halt(family(postmaster))


def kill_family(postmaster: psutil.Process) -> None:
    """SIGKILL to the postmaster and all its children, and wait until they are gone."""
    _halt([postmaster])  # forks no more while its children are listed
    members = family(postmaster)
    send(members, signal.SIGKILL)
    wait_gone("killed processes", members)


def kill_below(directory: Path) -> None:
    """SIGKILL to every process that works in ``directory`` or below, until there is none."""

    def none_left() -> bool:
        left = processes_below(directory)
        send(left, signal.SIGKILL)
        return not left

    wait_until(f"the end of all processes in {directory}", none_left, deadline_s=_GONE_DEADLINE_S, poll_s=0.002)


def remove_shared_memory(said: PostmasterFile | None) -> None:
    """Remove the System V segment that a killed postmaster left; a next start would, but there is none.

    Only a segment that this postmaster made and nobody is attached to is removed. Where the kernel does not list
    segments (anywhere but Linux), nothing is done: 56 bytes stay until the next boot.
    """
    table = Path("/proc/sysvipc/shm")
    if said is None or said.shared_memory_id is None or not sys.platform.startswith("linux") or not table.exists():
        return
    for line in table.read_text(encoding="ascii").splitlines()[1:]:
        # key shmid perms size cpid lpid nattch ...
        fields = line.split()
        if int(fields[1]) == said.shared_memory_id and int(fields[4]) == said.pid and int(fields[6]) == 0:
            ctypes.CDLL(None, use_errno=True).shmctl(said.shared_memory_id, _IPC_RMID, None)
