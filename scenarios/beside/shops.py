"""The shop of the engine's scenarios, for either engine, in a database of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from harness.clusters import Cluster
from harness.engines import PG_TRICKLE, Done, Engine, Tables
from harness.errors import RefusedError
from harness.postgres import Server
from scenarios.engine.shop import CHANGES, TABLES, Connection
from scenarios.fixtures.engines import Expected, Ground

MORE_CHANGES = "UPDATE customers SET region = 'r' || (id + 1) % 4 WHERE id % 3 = 0"


@dataclass(frozen=True)
class Shop(Ground):
    """A database with the shop in it.

    Attributes:
        connection: autocommit, to it.
        tables: its stream tables.
        more_changes: statements of every `change`.
    """

    connection: Connection
    tables: Tables
    more_changes: tuple[str, ...] = ()

    def change(self) -> None:
        """Orders come, change and go; customers move; more of what a test wants."""
        for text in (CHANGES, MORE_CHANGES, *self.more_changes):
            self.connection.execute(text.encode())

    def refreshed(self, name: str, *, as_text: bool = False) -> Done:
        """Refresh, and compare with the query.

        Args:
            name: of the stream table.
            as_text: compare rows as they are written, for types without equality, and looks that differ.

        Raises:
            AssertionError: they differ.
        """
        done = self.tables.refresh(name)
        difference = self.tables.difference(name, as_text=as_text)
        assert difference.is_equal, f"after {done.action}: {difference}"
        return done

    @contextmanager
    def kept(self, query: str, mode: str, name: str = "stream") -> Iterator[None]:
        """A stream table for a block, equal to its query from the start; dropped after it.

        Raises:
            AssertionError: it is not.
        """
        self.tables.create(name, query, mode=mode)
        try:
            difference = self.tables.difference(name)
            assert difference.is_equal, f"after create: {difference}"
            yield
        finally:
            # What failed before is the finding.
            with contextlib.suppress(RefusedError):
                self.tables.drop(name)


@contextmanager
def writing() -> Iterator[None]:
    """Writes to a source, which an engine that follows it must not stop.

    Raises:
        AssertionError: one failed; its error's words.
    """
    try:
        yield
    except psycopg.Error as error:
        said = error.diag.message_primary or str(error)
        raise AssertionError(f"a write to the source failed: {said}") from error


def each_of(
    values: Mapping[str, str], expected: Mapping[str, Expected], since: Mapping[str, str] | None = None
) -> list[Any]:
    """Parameters of a scenario, each with what is expected of the extension there.

    Args:
        values: by the words that name them.
        expected: by the same words, where the extension does something else.
        since: by the same words, what a server must be to know it.
    """
    versions = since or {}
    assert expected.keys() <= values.keys(), f"nothing is tried as {expected.keys() - values.keys()}"
    return [
        pytest.param(
            value,
            id=words,
            marks=[
                *([expected[words].mark()] if words in expected else ()),
                *([pytest.mark.postgres(versions[words])] if words in versions else ()),
            ],
        )
        for words, value in values.items()
    ]


@contextmanager
def open_shop(
    engine: Engine, request: pytest.FixtureRequest, *more: str, more_changes: tuple[str, ...] = ()
) -> Iterator[Shop]:
    """The shop in a new database of the engine's server, with more made beside it.

    Args:
        engine: who keeps stream tables.
        request: of the fixture; the extension's server is started, or the reason for a skip found, only if it is asked.
        more: statements.
        more_changes: statements of every change.
    """
    is_peer = engine is PG_TRICKLE
    server: Server = request.getfixturevalue("extension_server" if is_peer else "server")
    template = None if is_peer else request.getfixturevalue("head_template")
    with server.temporary_database("beside", template=template) as node:
        engine.prepare(node)
        with node.connect() as connection, engine.open(connection) as tables:
            for text in (TABLES, *more):
                connection.execute(text.encode())
            yield Shop(engine, Cluster("shop", node, ()), connection, tables, more_changes)
