"""This project's engine, behind the interface of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.engines.model import Connection, Engine, EngineName, Tables
from harness.postgres.node import Node


class OurEngine(Engine):
    """The engine of `harness.trickle`, in a database at the chain's end."""

    name = EngineName.OURS

    def prepare(self, node: Node) -> None:
        """Take the database to the chain's end (see `Engine.prepare`)."""
        from harness.chain.runner import upgrade  # noqa: PLC0415 - half a second of imports, for those who migrate

        upgrade(node.dsn())

    @contextmanager
    def open(self, connection: Connection) -> Iterator[Tables]:
        """See `Engine.open`."""
        from harness.engines.our_tables import OurTables  # noqa: PLC0415 - it brings a SQL parser

        with OurTables(connection) as tables:
            yield tables


OURS = OurEngine()
