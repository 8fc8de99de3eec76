"""How this process reaches a node that the other nodes know by another name, such as one in a container."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from harness.errors import BadInputError
from harness.settings import load_settings

Address = tuple[str, int]

_ENTRY = re.compile(r"(?P<host>[^=,\s]+):(?P<port>\d{1,5})=(?P<our_host>[^=,\s]+):(?P<our_port>\d{1,5})")
_guard = threading.Lock()
_known: dict[Address, Callable[[], Address]] = {}


def announce(address: Address, reach: Callable[[], Address]) -> None:
    """Say how a node of our own is reached from here.

    Args:
        address: as ``pg_dist_node`` has it.
        reach: host and port from here, asked anew each time: a container's port changes when it is started again.
    """
    with _guard:
        _known[address] = reach


def forget(address: Address) -> None:
    """The node is gone."""
    with _guard:
        _known.pop(address, None)


def reach(host: str, port: int) -> Address:
    """Host and port at which this process reaches the node that ``pg_dist_node`` calls ``host``:``port``.

    Those of nodes of our own, then ``HARNESS_NODE_ADDRESSES``, else the same.

    Raises:
        BadInputError: that setting cannot be read.
        ServerGoneError: it is a node of our own that is stopped or cut off.
    """
    with _guard:
        ours = _known.get((host, port))
    if ours is not None:
        return ours()
    return read_node_addresses(load_settings().node_addresses).get((host, port), (host, port))


def read_node_addresses(text: str) -> dict[Address, Address]:
    """What ``HARNESS_NODE_ADDRESSES`` says: ``name:port=host:port``, separated by commas.

    Raises:
        BadInputError: an entry that is none; names it.
    """
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise BadInputError(
                f"HARNESS_NODE_ADDRESSES has {entry!r}, which names no node and address",
                hint="such as worker-1:5432=127.0.0.1:15432, separated by commas",
            )
        found[match["host"], int(match["port"])] = (match["our_host"], int(match["our_port"]))
    return found
