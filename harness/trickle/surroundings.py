"""What of an error is the cluster's doing: a node that is down, a lock, a full disk. It says nothing of a query."""

from __future__ import annotations

from typing import Any

import psycopg

# Classes of SQLSTATE: connections, transactions that met others, resources, an operator's doing, the system.
_CLASSES = frozenset({"08", "40", "53", "57", "58"})
_STATES = frozenset({"55P03"})  # a lock; the rest of its class may be the query's own fault
# Files of Citus that speak of its connections between nodes, with the SQLSTATE of a bug in itself (XX000).
_BETWEEN_NODES = frozenset({"remote_transaction.c", "connection_management.c"})
# A worker's answer, passed on by Citus. There ON CONFLICT finds no key: citus_add_node copies a reference table first
# and makes its key afterwards (docs/findings.md). A query's own 42P10 is the coordinator's, which parses it.
_KEY_NOT_YET, _PASSED_ON = "42P10", "remote_commands.c"

# Citus refuses what it sends to all nodes for as long as a node's copy of the metadata waits for its maintenance
# daemon: after citus_update_node, or a restart (ErrorIfAnyMetadataNodeOutOfSync, worker_transaction.c).
_OUT_OF_SYNC, _SENT_TO_NODES = "55000", "worker_transaction.c"


def is_of_the_surroundings(error: psycopg.Error, connection: psycopg.Connection[Any]) -> bool:
    """Whether what was asked for may be well, and only could not be done now.

    Args:
        error: what a server or the driver said.
        connection: on which; one that is lost explains every error, whatever its class.
    """
    if connection.closed or connection.broken:
        return True
    if is_between_nodes(error) or (error.sqlstate == _KEY_NOT_YET and error.diag.source_file == _PASSED_ON):
        return True
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state[:2] in _CLASSES or state in _STATES or is_out_of_sync(error)


def is_between_nodes(error: psycopg.Error) -> bool:
    """Whether Citus speaks of a connection between nodes, for which it has no SQLSTATE of its own."""
    return error.sqlstate == "XX000" and error.diag.source_file in _BETWEEN_NODES


def is_out_of_sync(error: psycopg.Error) -> bool:
    """Whether Citus says that a node's metadata are not the newest yet; its maintenance daemon mends that by itself."""
    return error.sqlstate == _OUT_OF_SYNC and error.diag.source_file == _SENT_TO_NODES
