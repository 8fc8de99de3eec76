"""One PostgreSQL server on this machine: which binaries, start, stop, kill, freeze, logs."""

from harness.postgres.installations import Installation, choose_installation, find_installations
from harness.postgres.node import DsnNode, Node
from harness.postgres.server import Server, temporary_server

__all__ = [
    "DsnNode",
    "Installation",
    "Node",
    "Server",
    "choose_installation",
    "find_installations",
    "temporary_server",
]
