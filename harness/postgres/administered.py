"""A server on which we may make databases: one of our own, or a node of a cluster that somebody else runs."""

from __future__ import annotations

import abc

from psycopg import sql

from harness.postgres.node import Node


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
        """Drop a database if it is there, ending the sessions in it."""
        self.sql(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(dbname)))


class NodeDatabase(AdministeredNode):
    """One database of a server, as a node of its own: asked without naming it.

    Args:
        server: where it is; asked for its address each time, since a container's port changes when it is started.
        dbname: which.
    """

    def __init__(self, server: AdministeredNode, dbname: str) -> None:
        super().__init__(server.name)
        self._server = server
        self._dbname = dbname

    @property
    def address(self) -> tuple[str, int]:
        """The server's."""
        return self._server.address

    def dsn(self, dbname: str | None = None, *, user: str | None = None) -> str:
        """How to reach the database, with the password: never print it."""
        return self._server.dsn(dbname or self._dbname, user=user)
