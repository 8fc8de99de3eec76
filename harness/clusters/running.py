"""A cluster of our own, wherever its nodes run: each can be stopped, killed, frozen, cut off and started again."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic

from psycopg.conninfo import conninfo_to_dict
from typing_extensions import TypeVar

from harness.clusters.cluster import in_parallel
from harness.clusters.databases import DatabaseCluster
from harness.errors import BadInputError
from harness.postgres.server_node import ServerNode

MOST_WORKERS = 32


ServerT_co = TypeVar("ServerT_co", bound=ServerNode, default=ServerNode, covariant=True)


class RunningCluster(DatabaseCluster[ServerT_co], Generic[ServerT_co], abc.ABC):
    """A cluster whose nodes are servers of our own.

    One password serves all nodes; each finds it in a password file of its own, see ``docs/clusters.md``.
    """

    _role_passwords: Mapping[str, str] = MappingProxyType({})

    def create_role(self, role: str) -> None:
        """Make a role that can log in and use distributed tables; ``coordinator.dsn(user=role)`` knows its password.

        Citus carries the role to the workers with its stored SCRAM verifier, not the password: the nodes learn that
        from their password files.
        """
        self.coordinator.create_role(role)
        password = str(conninfo_to_dict(self.coordinator.dsn(user=role))["password"])
        self._role_passwords = {**self._role_passwords, role: password}
        self._write_node_passwords(node_password_file({**self._role_passwords, "*": self.coordinator.password}))

    @abc.abstractmethod
    def _write_node_passwords(self, text: str) -> None:
        """Replace the password file that libpq inside each server reads."""

    def destroy(self) -> None:
        """Stop every node and remove what it has.

        Raises:
            Exception: what failed on a node; an ExceptionGroup if several did. All others are gone.
        """
        in_parallel(_destroy, self.nodes)


def _destroy(node: ServerNode) -> None:
    node.destroy()


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
