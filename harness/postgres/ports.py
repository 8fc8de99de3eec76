"""Ports that two servers, or two test runs, never share: a lock on the number, and a bind test."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

from filelock import FileLock, Timeout

from harness.errors import BadInputError, EnvironmentMissingError, PortTakenError
from harness.postgres.places import base_dir, own_directory

HOST = "127.0.0.1"
# Below every system's range of ephemeral ports (Linux: 32768 and up), above the well-known ones.
PORT_RANGE = range(24000, 26000)


class PortLease:
    """A port that is ours until it is released, also while nothing listens on it.

    Attributes:
        port: the number.
    """

    def __init__(self, port: int, lock: FileLock) -> None:
        self.port = port
        self._lock = lock

    def release(self) -> None:
        """Give the port back."""
        self._lock.release(force=True)


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does: TIME_WAIT is no hindrance
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _lease(port: int) -> PortLease | None:
    # The same directory for every run of this user, whatever HARNESS_RUN_DIR says. Another user's run starts its
    # search elsewhere in the range; should they meet, the bind test tells, and at last PostgreSQL itself.
    lock = FileLock(own_directory(base_dir() / "ports") / f"{port}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    if is_free(port):
        return PortLease(port, lock)
    lock.release()
    return None


def lease_port(wanted: int | None = None, *, ports: Iterable[int] | None = None) -> PortLease:
    """Take a port for one server.

    Args:
        wanted: this one and no other; None: any.
        ports: which to try, in this order; default `PORT_RANGE` from a random start.

    Raises:
        BadInputError: ``wanted`` is no port for an ordinary user.
        PortTakenError: another run has it, or someone listens there.
        EnvironmentMissingError: none is free.
    """
    if wanted is not None:
        if not 1024 <= wanted <= 65535:
            raise BadInputError(f"port {wanted} cannot be used", hint="choose one from 1024 to 65535")
        lease = _lease(wanted)
        if lease is None:
            raise PortTakenError(f"port {wanted} on {HOST} is taken", hint="choose another, or leave the choice to us")
        return lease
    if ports is None:
        first = random.randrange(len(PORT_RANGE))  # noqa: S311 - spreads runs, guards nothing
        ports = (*PORT_RANGE[first:], *PORT_RANGE[:first])
    for port in ports:
        lease = _lease(port)
        if lease is not None:
            return lease
    raise EnvironmentMissingError(
        f"no port from {PORT_RANGE.start} to {PORT_RANGE.stop - 1} is free", hint="stop servers that are left"
    )
