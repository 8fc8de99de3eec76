"""Nodes as Citus names them."""

from __future__ import annotations

from harness.postgres import AdministeredNode


def label(node: AdministeredNode) -> str:
    """``host:port`` of a node, as ``pg_dist_node`` has it."""
    host, port = node.address
    return f"{host}:{port}"
