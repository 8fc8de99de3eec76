"""One PostgreSQL server on this machine: which binaries, start, stop, kill, freeze, logs."""

from harness.postgres.administered import AdministeredNode
from harness.postgres.installations import Installation, choose_installation, find_installations
from harness.postgres.node import DsnNode, Node
from harness.postgres.server import Server, temporary_server
from harness.postgres.server_node import ServerNode

__all__ = [
    "AdministeredNode",
    "DsnNode",
    "Installation",
    "Node",
    "Server",
    "ServerNode",
    "choose_installation",
    "find_installations",
    "temporary_server",
]
