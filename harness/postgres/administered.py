"""A server on which we may make databases: one of our own, or a node of a cluster that somebody else runs."""

from __future__ import annotations

import abc
import contextlib
import secrets
from collections.abc import Iterator

import psycopg
from psycopg import sql

from harness.postgres.node import Node
from harness.waiting import wait_until

# Sessions end within milliseconds; Citus' daemon finishes what it asks another node.
_DROP_DEADLINE_S = 30.0


class AdministeredNode(Node):
    """A server, where the other nodes of its cluster reach it, and its databases."""

    @property
    @abc.abstractmethod
    def address(self) -> tuple[str, int]:
        """Host and port as the other nodes of its cluster reach it: what ``pg_dist_node`` has."""

    def show(self, setting: str) -> str:
        """The value in force of a setting, as SHOW writes it."""
        return str(self.value("SELECT pg_catalog.current_setting(%s)", [setting]))

    def create_database(self, dbname: str, *, template: str | None = None) -> None:
        """Make a database, empty or as a copy of ``template``."""
        of = sql.SQL("") if template is None else sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self.sql(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(dbname), of))

    def drop_database(self, dbname: str) -> None:
        """Drop a database if it is there, ending the sessions in it.

        Raises:
            WaitTimeoutError: a session in it does not end.
        """

        def tried() -> bool:
            # The server itself waits 5 s for those that it ends; on a busy machine that may not do.
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                self.sql(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(dbname)))
                return True
            return False

        wait_until(f"the sessions in database {dbname} to end", tried, deadline_s=_DROP_DEADLINE_S)

    @contextlib.contextmanager
    def temporary_database(self, prefix: str = "test", *, template: str | None = None) -> Iterator[NodeDatabase]:
        """A new database for a block, as a node of its own that is called as the database is; dropped after it.

        Args:
            prefix: how its name begins.
            template: the database to copy; None: an empty one.
        """
        dbname = f"{prefix}_{secrets.token_hex(6)}"
        self.create_database(dbname, template=template)
        database = NodeDatabase(self, dbname, name=dbname)
        try:
            yield database
        finally:
            database.close()
            self.drop_database(dbname)


class NodeDatabase(AdministeredNode):
    """One database of a server, as a node of its own: asked without naming it.

    Args:
        server: where it is; asked for its address each time, since a container's port changes when it is started.
        dbname: which.
        name: for messages; None: the server's.

    Attributes:
        dbname: the database's name.
    """

    def __init__(self, server: AdministeredNode, dbname: str, *, name: str | None = None) -> None:
        super().__init__(name or server.name)
        self.dbname = dbname
        self._server = server

    @property
    def address(self) -> tuple[str, int]:
        """The server's."""
        return self._server.address

    def dsn(self, dbname: str | None = None, *, user: str | None = None) -> str:
        """How to reach the database, with the password: never print it."""
        return self._server.dsn(dbname or self.dbname, user=user)
