"""A cluster of our own, wherever its nodes run: each can be stopped, killed, frozen, cut off and started again."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from psycopg.conninfo import conninfo_to_dict

from harness.clusters.cluster import in_parallel
from harness.clusters.databases import DatabaseCluster
from harness.errors import BadInputError
from harness.postgres.server_node import ServerNode

MOST_WORKERS = 32


class RunningCluster(DatabaseCluster, abc.ABC):
    """A cluster whose nodes are servers of our own.

    One password serves all nodes; each finds it in a password file of its own, see ``docs/clusters.md``.
    """

    def __init__(
        self, name: str, coordinator: ServerNode, workers: Sequence[ServerNode], *, start_time: Mapping[str, float]
    ) -> None:
        super().__init__(name, coordinator, workers, start_time=start_time)
        self._servers = (coordinator, *workers)
        self._node_passwords = {"*": coordinator.password}

    @property
    def coordinator(self) -> ServerNode:
        """The server that clients talk to."""
        return self._servers[0]

    @property
    def workers(self) -> tuple[ServerNode, ...]:
        """The servers that hold shards, in the order of their groups."""
        return self._servers[1:]

    @property
    def nodes(self) -> tuple[ServerNode, ...]:
        """The coordinator, then the workers."""
        return self._servers

    def node(self, name: str) -> ServerNode:
        """The server of this name (errors: see `Cluster.node`)."""
        super().node(name)
        return next(each for each in self.nodes if each.name == name)

    def create_role(self, role: str) -> None:
        """Make a role that can log in and use distributed tables; ``coordinator.dsn(user=role)`` knows its password.

        Citus carries the role to the workers with its stored SCRAM verifier, not the password: the nodes learn that
        from their password files.
        """
        self.coordinator.create_role(role)
        self._node_passwords[role] = str(conninfo_to_dict(self.coordinator.dsn(user=role))["password"])
        text = node_password_file(self._node_passwords)
        for node in self.nodes:
            self._write_node_passwords(node, text)

    @abc.abstractmethod
    def _write_node_passwords(self, node: ServerNode, text: str) -> None:
        """Replace the password file that libpq inside the server reads."""

    def destroy(self) -> None:
        """Stop every node and remove what it has.

        Raises:
            Exception: what failed on a node; an ExceptionGroup if several did. All others are gone.
        """
        in_parallel(lambda node: node.destroy(), self.nodes)


def node_password_file(passwords: Mapping[str, str]) -> str:
    """The text of a libpq password file for connections between nodes.

    Args:
        passwords: by role; ``*`` is for all others.
    """
    # The first line that fits wins: the roles by name, then the one for all others.
    by_name = sorted(passwords.items(), key=lambda item: item[0] == "*")
    return "".join(f"*:*:*:{_escape(role)}:{_escape(password)}\n" for role, password in by_name)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def check_worker_count(count: int) -> None:
    """Refuse a number of workers that cannot be started.

    Raises:
        BadInputError: names it.
    """
    if not 0 <= count <= MOST_WORKERS:
        raise BadInputError(f"{count} workers cannot be started", hint=f"0 to {MOST_WORKERS}")


def node_names(workers: int) -> list[str]:
    """How the nodes of a cluster are called: the coordinator, then the workers from 1."""
    return ["coordinator", *(f"worker-{number}" for number in range(1, workers + 1))]
