"""A table that scenarios of capture write to, and the stream tables that read it, for either engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from scenarios.beside.shops import Shop
from scenarios.capture.capturing import Connection


@dataclass(frozen=True)
class Source:
    """A source with its readers, as `scenarios.capture.capturing.Written`.

    Attributes:
        shop: the database that it is in.
        name: of the table.
        readers: stream tables that read it.
        as_text: its rows are compared as they are written.
    """

    shop: Shop
    name: str
    readers: tuple[str, ...]
    as_text: bool = False

    @property
    def connection(self) -> Connection:
        """Autocommit, to the database."""
        return self.shop.connection

    @property
    def table(self) -> sql.Identifier:
        """For statements."""
        return sql.Identifier(self.name)

    def run(self, statement: LiteralString) -> None:
        """Run a statement in which ``{t}`` is the table."""
        self.connection.execute(sql.SQL(statement).format(t=self.table))

    def refreshed(self) -> None:
        """Refresh each reader, and compare it with its query.

        Raises:
            AssertionError: one differs.
        """
        for name in self.readers:
            self.shop.refreshed(name, as_text=self.as_text)


def make(shop: Shop, columns: LiteralString, rows: LiteralString = "", name: str = "source") -> Source:
    """A table that nobody reads yet, with its first rows.

    Args:
        shop: the database.
        columns: what stands between ``CREATE TABLE name`` and the end.
        rows: a statement that fills it, ``{t}`` the table.
        name: of the table.
    """
    made = Source(shop, name, ())
    made.run("CREATE TABLE {t} " + columns)
    if rows:
        made.run(rows)
    return made


@contextmanager
def read(source: Source, queries: Mapping[str, LiteralString], *, as_text: bool = False) -> Iterator[Source]:
    """A source with stream tables that follow it by their deltas for a block, equal to their queries from the start.

    Args:
        source: made by `make`.
        queries: by the stream table's name, ``{t}`` the table.
        as_text: compare rows as they are written.

    Raises:
        AssertionError: one differs from its query at once.
    """
    for name, query in queries.items():
        text = sql.SQL(query).format(t=source.table).as_string()
        source.shop.tables.create(name, text, mode="DIFFERENTIAL")
        difference = source.shop.tables.difference(name, as_text=as_text)
        assert difference.is_equal, f"after create: {difference}"
    yield Source(source.shop, source.name, tuple(queries), as_text)
